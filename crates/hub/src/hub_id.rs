use std::fmt;

use crate::names::is_bare_name;

/// A model on the Hugging Face hub: `org/name`, followed by `@revision` unless the revision is
/// `main`, and by `:file.gguf` to select one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    org: String,
    name: String,
    revision: String,
    file: Option<String>,
}

impl HubId {
    /// `Some` if `name` has the form `org/name[@revision][:file.gguf]`.
    pub fn parse(name: &str) -> Option<Self> {
        let (rest, file) = match name.split_once(':') {
            Some((rest, file)) => (rest, Some(file)),
            None => (name, None),
        };
        let (repo, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        let (org, name) = repo.split_once('/')?;
        let gguf = |f: &str| is_path(f) && f.to_ascii_lowercase().ends_with(".gguf");
        let valid =
            is_bare_name(org) && is_bare_name(name) && is_path(revision) && file.is_none_or(gguf);
        valid.then(|| Self {
            org: org.into(),
            name: name.into(),
            revision: revision.into(),
            file: file.map(str::to_owned),
        })
    }

    /// The same model at another branch, tag or commit; `None` if `revision` is not a valid one.
    pub fn at(&self, revision: &str) -> Option<Self> {
        is_path(revision).then(|| Self { revision: revision.into(), ..self.clone() })
    }

    /// `org/name`.
    pub fn repo(&self) -> String {
        format!("{}/{}", self.org, self.name)
    }

    /// Branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Path of the GGUF file within the repository; `None` for a model folder.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// Name of the model's folder in Hugging Face's cache.
    pub(crate) fn cache_folder(&self) -> String {
        format!("models--{}--{}", self.org, self.name)
    }

    /// The revision, if it is a full commit hash.
    pub(crate) fn commit(&self) -> Option<&str> {
        let hex = self.revision.bytes().all(|b| b.is_ascii_hexdigit());
        (hex && self.revision.len() == 40).then_some(&self.revision)
    }
}

/// `org/name[:file.gguf]`, without the revision.
impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.name)?;
        self.file.as_ref().map_or(Ok(()), |file| write!(f, ":{file}"))
    }
}

/// Whether `path` is a relative path that cannot escape its base folder.
fn is_path(path: &str) -> bool {
    path.len() <= 400 && path.split('/').all(is_bare_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids_are_parsed_strictly() {
        let parts = |name: &str| {
            let id = HubId::parse(name)?;
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
