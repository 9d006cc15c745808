use std::fmt;

use crate::fetch::is_bare_name;

/// A model on the hub: `org/name`, with `@revision` if it is not `main`, with `:file.gguf` if it
/// is one file of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    org: String,
    name: String,
    revision: String,
    file: Option<String>,
}

impl HubId {
    /// `Some` if `text` is of the form `org/name[@revision][:file.gguf]`.
    pub fn parse(text: &str) -> Option<Self> {
        let (text, file) = match text.split_once(':') {
            Some((text, file)) => (text, Some(file)),
            None => (text, None),
        };
        let (repo, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (org, name) = repo.split_once('/')?;
        let gguf = |f: &str| is_path(f) && f.to_ascii_lowercase().ends_with(".gguf");
        let right =
            is_bare_name(org) && is_bare_name(name) && is_path(revision) && file.is_none_or(gguf);
        right.then(|| Self {
            org: org.into(),
            name: name.into(),
            revision: revision.into(),
            file: file.map(str::to_owned),
        })
    }

    /// The same model at another branch, tag or commit; `None` if that cannot be one's name.
    pub fn at(&self, revision: &str) -> Option<Self> {
        is_path(revision).then(|| Self { revision: revision.into(), ..self.clone() })
    }

    /// `org/name`.
    pub(crate) fn repo(&self) -> String {
        format!("{}/{}", self.org, self.name)
    }

    /// Name of its folder in Hugging Face's cache.
    pub(super) fn folder(&self) -> String {
        format!("models--{}--{}", self.org, self.name)
    }

    /// Branch, tag or commit.
    pub(crate) fn revision(&self) -> &str {
        &self.revision
    }

    /// The commit, where the revision is one.
    pub(super) fn commit(&self) -> Option<&str> {
        let hex = self.revision.bytes().all(|b| b.is_ascii_hexdigit());
        (hex && self.revision.len() == 40).then_some(&self.revision)
    }

    /// The one file that is meant.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }
}

/// Without the revision, which has its place elsewhere: the model's name.
impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.name)?;
        self.file.as_ref().map_or(Ok(()), |file| write!(f, ":{file}"))
    }
}

/// Whether `text` is a relative path of names that cannot leave their folder.
pub(super) fn is_path(text: &str) -> bool {
    text.len() <= 400 && text.split('/').all(is_bare_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models() {
        let parts = |text: &str| {
            let id = HubId::parse(text)?;
            Some((
                id.repo(),
                id.revision().to_owned(),
                id.file().map(str::to_owned),
                id.to_string(),
            ))
        };
        let expected = |repo: &str, revision: &str, file: Option<&str>, shown: &str| {
            Some((repo.to_owned(), revision.to_owned(), file.map(str::to_owned), shown.to_owned()))
        };
        assert_eq!(parts("a/b"), expected("a/b", "main", None, "a/b"));
        assert_eq!(parts("a/b@v1.0"), expected("a/b", "v1.0", None, "a/b"));
        assert_eq!(parts("a/b@refs/pr/3"), expected("a/b", "refs/pr/3", None, "a/b"));
        assert_eq!(parts("a/b:c.gguf"), expected("a/b", "main", Some("c.gguf"), "a/b:c.gguf"));
        let full = expected("a/b", "x", Some("d/c.GGUF"), "a/b:d/c.GGUF");
        assert_eq!(parts("a/b@x:d/c.GGUF"), full);
        for bad in [
            "a",
            "a/",
            "/b",
            "a/b/c",
            "../b",
            "a/..",
            "a/b@",
            "a/b@../x",
            "a/b@/x",
            "a/b:",
            "a/b:c",
            "a/b:c.bin",
            "a/b:../c.gguf",
            "a/b:/c.gguf",
            "a/b:d//c.gguf",
            "a/b:.gguf",
            "a b/c",
        ] {
            assert_eq!(HubId::parse(bad), None, "{bad:?}");
        }
        let id = HubId::parse("a/b:c.gguf").unwrap();
        assert_eq!(id.at("dev").unwrap().revision(), "dev");
        assert_eq!(id.at("../x"), None);
        assert_eq!(id.commit(), None);
        assert!(id.at(&"0a".repeat(20)).unwrap().commit().is_some());
    }
}
