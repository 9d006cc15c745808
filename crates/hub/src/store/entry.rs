//! Lists and removes cache entries.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Store;
use crate::Error;
use crate::folder::{files_in, folders_in};
use crate::names::safe_name;

/// A file in the cache.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Entry {
    /// Name, as accepted by [`Store::remove`].
    pub name: String,
    /// Model name, without encoding and key.
    pub model: String,
    /// `q8`, `f32`, or `source` for a downloaded file.
    pub kind: String,
    /// Size of the file.
    pub bytes: u64,
    /// Modification time in seconds since 1970.
    pub made: u64,
    /// Path of the file.
    pub path: PathBuf,
}

impl Store {
    /// Lists everything in the cache, sorted by name.
    ///
    /// # Errors
    /// The cache cannot be read. A cache that does not exist yet counts as empty.
    pub fn list(&self) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for path in files_in(&self.root.join("models"))? {
            let Some(stem) = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".nano"))
            else {
                continue;
            };
            let mut parts = stem.rsplitn(3, '-').skip(1); // the key
            let kind = parts.next().unwrap_or("?");
            let model = parts.next().unwrap_or(stem);
            entries.extend(Entry::of(&path, stem, model, kind));
        }
        for folder in folders_in(&self.root.join("sources"))? {
            let alias = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            for path in files_in(&folder)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                entries.extend(Entry::of(&path, &name, &alias, "source"));
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The file of a converted model, by the full name of its entry in [`Self::list`]. A model's name
    /// alone does not tell apart models from different folders.
    ///
    /// # Errors
    /// The cache cannot be read.
    pub fn converted(&self, name: &str) -> Result<Option<PathBuf>, Error> {
        let entry = self.list()?.into_iter().find(|e| e.kind != "source" && e.name == name);
        Ok(entry.map(|e| e.path))
    }

    /// Removes the entry with this name, or all entries of the model with this name.
    ///
    /// # Errors
    /// No such entry exists, or it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<Vec<Entry>, Error> {
        let mut entries = self.list()?;
        let model = safe_name(name); // also accepts a hub id
        entries.retain(|e| e.name == name || e.model == model);
        if entries.is_empty() {
            return Err(Error::NoEntry { name: name.into() });
        }
        for entry in &entries {
            fs::remove_file(&entry.path).map_err(Error::io(&entry.path, "cannot remove"))?;
        }
        Ok(entries)
    }
}

impl Entry {
    /// `None` if the file has been removed in the meantime.
    fn of(path: &Path, name: &str, model: &str, kind: &str) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        let made = meta.modified().ok().and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok());
        Some(Self {
            name: name.into(),
            model: model.into(),
            kind: kind.into(),
            bytes: meta.len(),
            made: made.map_or(0, |d| d.as_secs()),
            path: path.into(),
        })
    }
}
