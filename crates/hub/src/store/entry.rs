//! Finds, lists and removes cache entries.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nanoinfer_format::{NanoFile, Precision, Quant};

use super::Store;
use crate::folder::{files_in, folders_in};
use crate::local::source_name;
use crate::names::safe_name;
use crate::{Error, ModelRef};

/// A file in the cache.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Entry {
    /// Name, as accepted by [`Store::remove`].
    pub name: String,
    /// Model name, without encoding and key.
    pub model: String,
    /// The precision, such as `q8` or `4.25`, or `source` for a downloaded file.
    pub kind: String,
    /// What the model was converted from: a path, a hub id or an alias; empty if unknown.
    pub source: String,
    /// Size of the file.
    pub bytes: u64,
    /// Modification time in seconds since 1970.
    pub made: u64,
    /// Time of the last use in seconds since 1970.
    pub used: u64,
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
            let Some(mut entry) = Entry::of(&path, stem, model, kind) else { continue };
            entry.source = self.source_of(&path).unwrap_or_default();
            entry.used = entry.made.max(self.last_use(&path).map_or(0, seconds));
            entries.push(entry);
        }
        let last_use = |model: &str, entries: &[Entry]| {
            entries.iter().filter(|e| e.model == model).map(|e| e.used).max().unwrap_or(0)
        };
        for folder in folders_in(&self.root.join("sources"))? {
            let alias = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let used = last_use(&alias, &entries);
            for path in files_in(&folder)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let Some(mut entry) = Entry::of(&path, &name, &alias, "source") else { continue };
                entry.source.clone_from(&alias);
                entry.used = entry.made.max(used);
                entries.push(entry);
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The conversion of this version of a model, if it is in the cache. [`Precision::Auto`] stands for the
    /// precision that it would choose, or else the most precise one other than f32.
    pub(super) fn cached(&self, label: &str, quant: Precision, identity: &str) -> Option<PathBuf> {
        let existing =
            |quant| Some(self.path(label, quant, identity)).filter(|path| path.is_file());
        if quant != Precision::Auto {
            return existing(quant);
        }
        match [Quant::Q8, Quant::Q5].map(|quant| existing(quant.into())) {
            [Some(q8), Some(q5)] => {
                let chosen = quant.for_model(NanoFile::open(&q8).ok()?.config());
                Some(if chosen == Quant::Q5.into() { q5 } else { q8 })
            }
            [None, None] => self.most_precise(label, identity),
            [q8, q5] => q8.or(q5),
        }
    }

    fn most_precise(&self, label: &str, identity: &str) -> Option<PathBuf> {
        let mut found: Vec<(f64, PathBuf)> = Vec::new();
        for path in files_in(&self.root.join("models")).ok()? {
            let stem = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".nano"));
            let kind = stem.and_then(|stem| stem.rsplit('-').nth(1)?.parse().ok());
            let Some(kind) = kind.filter(|&kind| self.path(label, kind, identity) == path) else {
                continue;
            };
            found.extend(bits(kind).map(|bits| (bits, path)));
        }
        found.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, path)| path)
    }

    /// The file of a converted model, by the full name of its entry in [`Self::list`]. A model's name
    /// alone does not tell apart models from different folders.
    ///
    /// # Errors
    /// The cache cannot be read.
    pub fn converted(&self, name: &str) -> Result<Option<PathBuf>, Error> {
        let entry = self.list()?.into_iter().find(|e| e.kind != "source" && e.name == name);
        Ok(entry.map(|e| {
            self.record_use(&e.path, None);
            e.path
        }))
    }

    /// Removes the entry with this name or path, or all entries of the model with this name, path, hub
    /// id or alias.
    ///
    /// # Errors
    /// No such entry exists, or it cannot be removed.
    pub fn remove(&self, name: &(impl AsRef<OsStr> + ?Sized)) -> Result<Vec<Entry>, Error> {
        let name = name.as_ref();
        let (text, path) = (name.to_string_lossy(), Path::new(name));
        // An existing path is not a hub id.
        let exists = path.exists();
        let model = if exists { text.to_string() } else { safe_name(&text) };
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
        let full = path.canonicalize().unwrap_or_else(|_| absolute.clone());
        let given = ModelRef::parse(name).ok().map(|model| source_name(&model));
        let is_meant = |e: &Entry| {
            let source = |s: &str| !s.is_empty() && e.source == s;
            e.name == text
                || e.model == model
                || !exists && source(&text)
                || given.as_deref().is_some_and(source)
                || absolute.to_str().is_some_and(source)
                || [&absolute, &full].contains(&&e.path)
        };
        let mut entries = self.list()?;
        entries.retain(is_meant);
        if entries.is_empty() {
            return Err(Error::NoEntry { name: text.into_owned() });
        }
        self.remove_all(&entries)?;
        Ok(entries)
    }

    /// Removes the entries that were not used for this time, and returns them.
    ///
    /// # Errors
    /// An entry cannot be removed.
    pub fn remove_unused(&self, time: Duration) -> Result<Vec<Entry>, Error> {
        let now = seconds(SystemTime::now());
        let mut entries = self.list()?;
        entries.retain(|e| now.saturating_sub(e.used) >= time.as_secs());
        self.remove_all(&entries)?;
        Ok(entries)
    }

    fn remove_all(&self, entries: &[Entry]) -> Result<(), Error> {
        for entry in entries {
            fs::remove_file(&entry.path).map_err(Error::io(&entry.path, "cannot remove"))?;
            self.forget(&entry.path);
        }
        Ok(())
    }
}

impl Entry {
    /// `None` if the file has been removed in the meantime.
    fn of(path: &Path, name: &str, model: &str, kind: &str) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        let made = meta.modified().map_or(0, seconds);
        Some(Self {
            name: name.into(),
            model: model.into(),
            kind: kind.into(),
            source: String::new(),
            bytes: meta.len(),
            made,
            used: made,
            path: path.into(),
        })
    }
}

/// The bits per weight that a precision other than f32 names.
fn bits(quant: Precision) -> Option<f64> {
    match quant {
        Precision::Quant(Quant::Q8) => Some(8.0),
        Precision::Quant(quant) => quant.own_encoding().trellis_bits().map(f64::from),
        Precision::Bits(bits) => Some(bits.get()),
        Precision::Auto => None,
    }
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
