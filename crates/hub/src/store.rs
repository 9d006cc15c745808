//! The cache of converted models, and the resolution of a [`ModelRef`] to a `.nano` file.
//!
//! ```text
//! $NANOINFER_HOME, or else nanoinfer in the platform's cache folder
//!   models/<label>-<precision>-<key>.nano   converted models, ready to map
//!   uses/<label>-<precision>-<key>.json     source of a converted model; modified at its last use
//!   sources/<alias>/…                   files of pinned models
//!   locks/                              empty files, locked by running processes
//! ```
//!
//! `key` is the BLAKE3 hash of the source's identity, so a changed source maps to a new file, which then
//! replaces the file of the earlier version. A cache hit does not read the model: later starts hash only
//! a few names and sizes. A process holds
//! a model's lock while preparing it; other processes wait, then find the file. The operating
//! system releases the locks of a dead process.

mod entry;
mod pack;
mod uses;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nanoinfer_format::{NanoFile, Precision};
use nanoinfer_packer::OUTPUT_VERSION;

use crate::fetch::{CacheOnly, Fetch, Published};
use crate::folder::sweep;
use crate::local::{self, LocalSource};
use crate::{Error, ModelRef, Status, StatusFn};
pub use entry::Entry;
pub use pack::ConvertOptions;
use pack::pack;

/// A cache of converted models.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The current user's cache: `NANOINFER_HOME`, or else the platform's cache folder.
    ///
    /// # Errors
    /// Neither can be determined.
    pub fn open() -> Result<Self, Error> {
        use etcetera::BaseStrategy;
        let no_cache = |what: String| Error::NoCache { what };
        if let Some(root) = std::env::var_os("NANOINFER_HOME").filter(|v| !v.is_empty()) {
            // Absolute, because `Pip` runs its process in another folder.
            let root = std::path::absolute(&root).map_err(|e| no_cache(e.to_string()))?;
            return Ok(Self { root });
        }
        let base = etcetera::base_strategy::choose_native_strategy();
        let base = base.map_err(|e| no_cache(e.to_string()))?;
        Ok(Self { root: base.cache_dir().join("nanoinfer") })
    }

    /// A cache in the folder `root`, which is created when something is first stored.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self { root: std::path::absolute(&root).unwrap_or(root) }
    }

    /// Returns a model's `.nano` file: the given file itself, a cached file, or a newly converted
    /// one, without calibration. With [`Precision::Auto`], a cached file of any precision but f32 will do.
    ///
    /// Without `fetch`, published models must already be on this machine.
    ///
    /// # Errors
    /// The model cannot be found, fetched or converted, or is a file of another precision.
    pub fn resolve(
        &self,
        model: &ModelRef,
        quant: impl Into<Precision>,
        fetch: Option<&dyn Fetch>,
        status: &mut StatusFn<'_>,
    ) -> Result<PathBuf, Error> {
        let quant = quant.into();
        if let ModelRef::Nano(path) = model {
            check_precision(path, quant)?;
            return Ok(path.clone());
        }
        let fetch = fetch.unwrap_or(&CacheOnly);
        let (name, label) = (local::source_name(model), model.label());
        let cached = |identity: &str| {
            let path = self.cached(&label, quant, identity)?;
            self.record_use(&path, Some(&name));
            Some(path)
        };
        if let Some(path) = known_identity(model, fetch)?.and_then(|identity| cached(&identity)) {
            return Ok(path);
        }
        let source = self.source(model, fetch, status)?;
        if let Some(path) = cached(&source.identity) {
            return Ok(path);
        }
        let quant = match quant {
            Precision::Auto => quant.for_model(&source.config()?),
            chosen => chosen,
        };
        let target = self.path(&label, quant, &source.identity);
        let file = target.file_name().expect("named above").to_string_lossy().into_owned();
        let _lock = self.lock(&file, status)?;
        if target.is_file() {
            return Ok(target); // created by another process in the meantime
        }
        let folder = target.parent().expect("a file path has a parent");
        fs::create_dir_all(folder).map_err(Error::cache(folder, "cannot create"))?;
        pack(&source, &target, &ConvertOptions::new(quant), status)?;
        self.record_use(&target, Some(&name));
        self.remove_earlier(&target, &name, quant);
        status(Status::Message(&format!("cached as {}", target.display())));
        status(Status::Cached(&target));
        Ok(target)
    }

    /// Converts a model to `out`, with the given adapters merged and the prompt baked in.
    ///
    /// Without `fetch`, published models must already be on this machine.
    ///
    /// # Errors
    /// The model cannot be found, fetched or converted, or is already a `.nano` file.
    pub fn convert(
        &self,
        model: &ModelRef,
        out: &Path,
        options: &ConvertOptions,
        fetch: Option<&dyn Fetch>,
        status: &mut StatusFn<'_>,
    ) -> Result<(), Error> {
        if let ModelRef::Nano(path) = model {
            let what = "is already a .nano file; convert its source instead";
            return Err(Error::model(&path.display().to_string(), what));
        }
        let source = self.source(model, fetch.unwrap_or(&CacheOnly), status)?;
        pack(&source, out, options, status)
    }

    /// Locates a model's files, fetching them if the model is published elsewhere.
    fn source(
        &self,
        model: &ModelRef,
        fetch: &dyn Fetch,
        status: &mut StatusFn<'_>,
    ) -> Result<LocalSource, Error> {
        let published = match model {
            ModelRef::Nano(path) | ModelRef::Gguf(path) | ModelRef::Folder(path) => {
                return LocalSource::of_path(path);
            }
            ModelRef::Hub(id) => Published::Hub(id),
            ModelRef::Pinned(pinned) => Published::Pinned(pinned),
        };
        let label = model.label();
        let _lock = match self.lock(&label, status) {
            // Hub models are stored elsewhere, and downloads have their own locks.
            Err(Error::Cache { .. }) if matches!(model, ModelRef::Hub(_)) => None,
            lock => Some(lock?),
        };
        let folder = self.root.join("sources").join(label);
        sweep(&folder, ".");
        let fetched = fetch.fetch(published, &folder, status)?;
        Ok(LocalSource::of_fetched(published, fetched))
    }

    fn path(&self, label: &str, quant: Precision, identity: &str) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        let quant = quant.to_string();
        for part in [identity, &quant] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        hasher.update(&nanoinfer_format::VERSION.to_le_bytes());
        hasher.update(&OUTPUT_VERSION.to_le_bytes());
        let key = &hasher.finalize().to_hex()[..16];
        self.root.join("models").join(format!("{label}-{quant}-{key}.nano"))
    }

    /// Waits until other processes release the lock `name`, and holds it until the returned file is
    /// dropped.
    fn lock(&self, name: &str, status: &mut StatusFn<'_>) -> Result<File, Error> {
        let folder = self.root.join("locks");
        let path = folder.join(format!("{name}.lock"));
        fs::create_dir_all(&folder).map_err(Error::cache(&folder, "cannot create"))?;
        let file = File::create(&path).map_err(Error::cache(&path, "cannot create"))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => {}
            Err(fs::TryLockError::Error(e)) => return Err(Error::io(&path, "cannot lock")(e)),
        }
        status(Status::Message(&format!("waiting for another process to finish preparing {name}")));
        file.lock().map_err(Error::io(&path, "cannot lock"))?;
        Ok(file)
    }
}

/// A model's identity, as far as it is known without network access; this is enough for a cache
/// hit.
fn known_identity(model: &ModelRef, fetch: &dyn Fetch) -> Result<Option<String>, Error> {
    let published = match model {
        ModelRef::Nano(path) | ModelRef::Gguf(path) | ModelRef::Folder(path) => {
            return Ok(Some(local::path_identity(path)?));
        }
        ModelRef::Hub(id) => Published::Hub(id),
        ModelRef::Pinned(pinned) => Published::Pinned(pinned),
    };
    let version = fetch.known_version(published)?;
    Ok(version.map(|version| local::published_identity(published, &version)))
}

/// Checks that a file has the precision asked for. Other problems of the file are found when it is opened.
fn check_precision(path: &Path, asked: Precision) -> Result<(), Error> {
    let Ok(file) = NanoFile::open(path) else { return Ok(()) };
    let stored = file.precision();
    if asked == Precision::Auto || asked.to_string() == stored {
        return Ok(());
    }
    Err(Error::Precision { path: path.into(), stored, asked })
}
