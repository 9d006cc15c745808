//! Model files on this machine, and the identities from which cache keys are derived.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nanoinfer_format::Config;
use nanoinfer_packer::{Input, gguf_files};

use crate::fetch::{Fetched, Published};
use crate::folder::files_in;
use crate::reference::hub_folder;
use crate::{Error, ModelRef};

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

    /// The model's config.
    pub(crate) fn config(&self) -> Result<Config, Error> {
        let config = Input::detect(&self.path).and_then(|input| input.config());
        Ok(config.map_err(|e| self.renamed(e))?)
    }

    /// Replaces the location of a published model's files by the model's name: users know only that.
    pub(crate) fn renamed(&self, error: nanoinfer_packer::Error) -> nanoinfer_packer::Error {
        if self.origin.is_none() {
            return error;
        }
        let folder = if self.path.is_dir() { Some(&*self.path) } else { self.path.parent() };
        let name = self.name.split(':').next().unwrap_or_default();
        match folder {
            Some(folder) => error.renamed(folder, name),
            None => error,
        }
    }
}

/// Identity of a version of a published model.
pub(crate) fn published_identity(model: Published<'_>, version: &str) -> String {
    match model {
        Published::Hub(id) => format!("hub {id} {version}"),
        Published::Pinned(_) => format!("sha256 {version}"),
    }
}

/// The name of a model's source, whatever its version: the full path of the user's own files, a hub id
/// or an alias.
pub(crate) fn source_name(model: &ModelRef) -> String {
    match model {
        ModelRef::Nano(path) | ModelRef::Gguf(path) | ModelRef::Folder(path) => {
            let full = match (model, path.parent(), path.file_name()) {
                (ModelRef::Folder(_), ..) | (_, None, _) | (.., None) => path.canonicalize(),
                // The file itself may be a link to an unnamed file, as in the hub's cache.
                (_, Some(folder), Some(name)) => {
                    Path::new(".").join(folder).canonicalize().map(|folder| folder.join(name))
                }
            };
            let full = full.or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.clone());
            // Another commit of the model is another snapshot of the same source.
            let folder = hub_folder(&full).filter(|_| matches!(model, ModelRef::Folder(_)));
            lossless(folder.unwrap_or(&full))
        }
        ModelRef::Hub(id) if id.revision() == "main" => id.to_string(),
        ModelRef::Hub(id) => match id.file() {
            Some(file) => format!("{}@{}:{file}", id.repo(), id.revision()),
            None => format!("{}@{}", id.repo(), id.revision()),
        },
        ModelRef::Pinned(pinned) => pinned.alias.to_owned(),
    }
}

/// A path as text; one that is not UTF-8 is quoted with escapes, so that different paths differ.
fn lossless(path: &Path) -> String {
    path.to_str().map_or_else(|| format!("{path:?}"), str::to_owned)
}

/// Identity of the user's own files: path, sizes and modification times. Trusts modification times,
/// like `make`, and costs only a few system calls.
pub(crate) fn path_identity(path: &Path) -> Result<String, Error> {
    let full = path.canonicalize().map_err(Error::io(path, "cannot open"))?;
    let mut files = if full.is_dir() { files_in(&full)? } else { gguf_files(&full) };
    files.sort();
    let mut identity = format!("local {}\n", lossless(&full));
    for file in files {
        let meta = fs::metadata(&file).map_err(Error::io(&file, "cannot read the file size"))?;
        let time = meta.modified().ok().and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok());
        let name = file.file_name().unwrap_or_default();
        let nanos = time.unwrap_or_default().as_nanos();
        identity.push_str(&format!("{name:?} {} {nanos}\n", meta.len()));
    }
    Ok(identity)
}
