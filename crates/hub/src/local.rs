//! Model files on this machine, and the identities from which cache keys are derived.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nanoinfer_packer::gguf_files;

use crate::Error;
use crate::fetch::{Fetched, Published};
use crate::folder::files_in;

/// A local model to convert.
pub(crate) struct LocalSource {
    /// A Hugging Face folder or a GGUF file.
    pub(crate) path: PathBuf,
    /// Display name.
    pub(crate) name: String,
    /// Where the model was published, for the provenance in the converted file; `None` for the
    /// user's own files.
    pub(crate) origin: Option<String>,
    /// The string from which the cache key is derived.
    pub(crate) identity: String,
}

impl LocalSource {
    /// The user's own folder or file.
    pub(crate) fn of_path(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            path: path.into(),
            name: path.display().to_string(),
            origin: None,
            identity: path_identity(path)?,
        })
    }

    /// The local files of a published model.
    pub(crate) fn of_fetched(model: Published<'_>, fetched: Fetched) -> Self {
        let identity = published_identity(model, &fetched.version);
        let (name, origin) = match model {
            Published::Hub(id) => (id.to_string(), format!("{id}@{}", fetched.version)),
            Published::Pinned(pinned) => (pinned.alias.into(), pinned.alias.into()),
        };
        Self { path: fetched.path, name, origin: Some(origin), identity }
    }
}

/// Identity of a version of a published model.
pub(crate) fn published_identity(model: Published<'_>, version: &str) -> String {
    match model {
        Published::Hub(id) => format!("hub {id} {version}"),
        Published::Pinned(_) => format!("sha256 {version}"),
    }
}

/// Identity of the user's own files: path, sizes and modification times. Trusts modification times,
/// like `make`, and costs only a few system calls.
pub(crate) fn path_identity(path: &Path) -> Result<String, Error> {
    let full = path.canonicalize().map_err(Error::io(path, "cannot open"))?;
    let mut files = if full.is_dir() { files_in(&full)? } else { gguf_files(&full) };
    files.sort();
    let mut identity = format!("local {}\n", full.display());
    for file in files {
        let meta = fs::metadata(&file).map_err(Error::io(&file, "cannot read the file size"))?;
        let time = meta.modified().ok().and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok());
        let name = file.file_name().unwrap_or_default();
        let nanos = time.unwrap_or_default().as_nanos();
        identity.push_str(&format!("{name:?} {} {nanos}\n", meta.len()));
    }
    Ok(identity)
}
