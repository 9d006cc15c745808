use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use nanoinfer_packer::Input;

use crate::names::safe_name;
use crate::{Error, HubId, Pinned};

/// A model, as named by the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelRef {
    /// A converted `.nano` file.
    Nano(PathBuf),
    /// A Hugging Face model folder.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
    /// A model on the Hugging Face hub.
    Hub(HubId),
    /// A model with an alias and a fixed hash.
    Pinned(&'static Pinned),
}

impl ModelRef {
    /// Classifies a name, which need not be UTF-8 if it is a path. Checks the file system, but never the
    /// network.
    ///
    /// An alias takes precedence over a file of the same name (`./smollm2` names the file), and an
    /// existing path over a hub id. A folder stands for the model in it, see [`Input::detect`].
    ///
    /// # Errors
    /// Nothing with that name exists, or it is not a model; the error says what it is instead.
    pub fn parse(name: &(impl AsRef<OsStr> + ?Sized)) -> Result<Self, Error> {
        let name = name.as_ref();
        let text = name.to_str();
        if let Some(pinned) = text.and_then(Pinned::by_alias) {
            return Ok(Self::Pinned(pinned));
        }
        let path = Path::new(name);
        let shown = || path.display().to_string();
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() => Ok(match Input::detect(path)? {
                Input::Folder(path) => Self::Folder(path),
                Input::Gguf(path) => Self::Gguf(path),
            }),
            Ok(meta) if meta.is_file() => Self::of_file(path),
            Ok(_) => Err(Error::model(&shown(), "is neither a file nor a folder")),
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(path, "cannot open")(e))
            }
            Err(_) => match text.and_then(HubId::parse) {
                Some(id) if id.file().is_some() || !has_model_extension(path) => Ok(Self::Hub(id)),
                _ => Err(Error::Unknown { model: shown() }),
            },
        }
    }

    /// The same model at the given branch, tag or commit; unchanged if `None`.
    ///
    /// # Errors
    /// The model is not on the hub, or `revision` is not a valid branch, tag or commit.
    pub fn at_revision(self, revision: Option<&str>) -> Result<Self, Error> {
        let Some(revision) = revision else { return Ok(self) };
        let Self::Hub(id) = &self else {
            return Err(Error::model(&self.label(), "is not a hub model, so it has no revisions"));
        };
        let at = id.at(revision).map(Self::Hub);
        at.ok_or_else(|| Error::model(revision, "is not a valid branch, tag or commit"))
    }

    fn of_file(path: &Path) -> Result<Self, Error> {
        let mut head = Vec::with_capacity(8);
        File::open(path)
            .and_then(|f| f.take(8).read_to_end(&mut head))
            .map_err(Error::io(path, "cannot read"))?;
        let has_extension = |ext| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(ext));
        // A damaged file is left to the reader of the format it claims, whose error is more
        // specific.
        if head == nanoinfer_format::MAGIC || has_extension("nano") {
            if head != nanoinfer_format::MAGIC && !head.is_empty() {
                Input::check_file(path)?;
            }
            return Ok(Self::Nano(path.into()));
        }
        Input::detect(path)?;
        Ok(Self::Gguf(path.into()))
    }

    /// A short display name that contains only `[A-Za-z0-9._-]`, so that it can be part of a file
    /// name.
    pub fn label(&self) -> String {
        let name = match self {
            Self::Nano(path) | Self::Gguf(path) => {
                path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
            }
            Self::Folder(path) => {
                let full = path.canonicalize().unwrap_or_else(|_| path.clone());
                let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
                let cached = hub_folder(&full).and_then(name);
                let cached = cached.and_then(|n| Some(n.strip_prefix("models--")?.to_owned()));
                cached.or_else(|| name(&full)).unwrap_or_default()
            }
            Self::Hub(id) => id.to_string(),
            Self::Pinned(pinned) => pinned.alias.to_owned(),
        };
        let label = safe_name(&name);
        if label.is_empty() { "model".into() } else { label }
    }
}

/// The model's folder in the hub's cache, if `path` is one of its snapshots or a file in one.
pub(crate) fn hub_folder(path: &Path) -> Option<&Path> {
    let snapshots = path.ancestors().skip(1).take(2).find(|p| p.ends_with("snapshots"))?;
    let model = snapshots.parent()?;
    model.file_name()?.to_string_lossy().starts_with("models--").then_some(model)
}

fn has_model_extension(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("nano") || e.eq_ignore_ascii_case("gguf"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::is_bare_name;

    #[test]
    fn names_are_classified() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(at("a.bin"), b"GGUF\x03\0\0\0").unwrap();
        std::fs::write(at("b.nano"), b"").unwrap();
        std::fs::write(at("c.txt"), b"hello world").unwrap();
        std::fs::write(at("d.nano"), b"version https://git-lfs.github.com/spec/v1\nsize 9\n")
            .unwrap();
        assert_eq!(ModelRef::parse("smollm2").unwrap().label(), "smollm2");
        assert_eq!(ModelRef::parse(&at("a.bin")).unwrap(), ModelRef::Gguf(at("a.bin").into()));
        assert_eq!(ModelRef::parse(&at("b.nano")).unwrap(), ModelRef::Nano(at("b.nano").into()));
        let folder = dir.path().to_str().unwrap();
        assert_eq!(ModelRef::parse(folder).unwrap(), ModelRef::Folder(folder.into()));
        for name in ["org/name", "org/name@v1", "org/name:a.gguf"] {
            assert!(matches!(ModelRef::parse(name).unwrap(), ModelRef::Hub(_)), "{name}");
        }
        let hub = ModelRef::parse("org/name").unwrap();
        assert_eq!(
            hub.clone().at_revision(Some("v1")).unwrap(),
            ModelRef::parse("org/name@v1").unwrap()
        );
        for (model, revision) in [(hub, ".."), (ModelRef::parse(folder).unwrap(), "v1")] {
            assert!(model.clone().at_revision(None).is_ok());
            assert!(model.at_revision(Some(revision)).is_err());
        }
        for (bad, expected) in [
            (at("c.txt").as_str(), "neither"),
            (&at("d.nano"), "is a Git LFS pointer"),
            (&at("none"), "no such file"),
            ("models/none.gguf", "no such file"),
            ("nonsense", "no such file"),
            ("", "no such file"),
        ] {
            let message = ModelRef::parse(bad).unwrap_err().to_string();
            assert!(message.contains(expected) && !message.contains('\n'), "{bad:?}: {message}");
        }
    }

    #[test]
    fn labels_cannot_escape_the_cache() {
        assert_eq!(ModelRef::Gguf("/x/a b\u{e9}$(c).gguf".into()).label(), "a_b___c_");
        let id = HubId::parse("org/name").unwrap();
        assert_eq!(ModelRef::Hub(id).label(), "org--name");
        let id = HubId::parse("org/name@x:a/b.gguf").unwrap();
        assert_eq!(ModelRef::Hub(id).label(), "org--name_a--b.gguf");
        for name in ["", "..", ".git", "a/b", "a\\b", "a\0b"] {
            assert!(!is_bare_name(name), "{name:?}");
        }
        assert!(is_bare_name("model-00001-of-00002.safetensors"));
    }
}
