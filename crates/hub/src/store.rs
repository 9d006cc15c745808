//! The cache of converted models, and the resolution of a [`ModelRef`] to a `.nano` file.
//!
//! ```text
//! $NANOINFER_HOME, or else nanoinfer in the platform's cache folder
//!   models/<label>-<quant>-<key>.nano   converted models, ready to map
//!   uses/<label>-<quant>-<key>.json     source of a converted model; modified at its last use
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
mod uses;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nanoinfer_engine::{Model, SelfCheck};
use nanoinfer_format::{Quant, SectionKind};
use nanoinfer_packer::quantize::Calibrate;
use nanoinfer_packer::{Input, Lora, OUTPUT_VERSION, Options, Progress, Staged, convert_staged};

use crate::calibrate::{self, Calibration, Text};
use crate::fetch::{CacheOnly, Fetch, Published};
use crate::folder::sweep;
use crate::local::{self, LocalSource};
use crate::{Error, ModelRef, Status, StatusFn};
pub use entry::Entry;

/// A cache of converted models.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// Options for [`Store::convert`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ConvertOptions {
    /// Encoding of the linear layers.
    pub quant: Quant,
    /// Text to calibrate with, for encodings that profit from it: see
    /// [`Quant::is_coded`](nanoinfer_format::Quant::is_coded).
    pub calibrate: Option<Text>,
    /// Adapters to merge into the weights, in this order.
    pub loras: Vec<Lora>,
    /// A system prompt to bake into the file.
    pub prompt: Option<String>,
}

impl ConvertOptions {
    /// Options without calibration, adapters or a prompt.
    pub fn new(quant: Quant) -> Self {
        Self { quant, calibrate: None, loras: Vec::new(), prompt: None }
    }
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
    /// one.
    ///
    /// Without `fetch`, published models must already be on this machine.
    ///
    /// # Errors
    /// The model cannot be found, fetched or converted.
    pub fn resolve(
        &self,
        model: &ModelRef,
        quant: Quant,
        fetch: Option<&dyn Fetch>,
        status: &mut StatusFn<'_>,
    ) -> Result<PathBuf, Error> {
        if let ModelRef::Nano(path) = model {
            return Ok(path.clone());
        }
        let fetch = fetch.unwrap_or(&CacheOnly);
        let path = |identity: &str| self.path(&model.label(), quant, identity);
        let known = known_identity(model, fetch)?.map(|identity| path(&identity));
        let name = local::source_name(model);
        if let Some(path) = known.filter(|p| p.is_file()) {
            self.record_use(&path, Some(&name));
            return Ok(path);
        }
        let source = self.source(model, fetch, status)?;
        let target = path(&source.identity);
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

    fn path(&self, label: &str, quant: Quant, identity: &str) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        for part in [identity, quant.name()] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        hasher.update(&nanoinfer_format::VERSION.to_le_bytes());
        hasher.update(&OUTPUT_VERSION.to_le_bytes());
        let key = &hasher.finalize().to_hex()[..16];
        self.root.join("models").join(format!("{label}-{}-{key}.nano", quant.name()))
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

/// Converts `source` to `out`, which appears only once it is complete.
fn pack(
    source: &LocalSource,
    out: &Path,
    options: &ConvertOptions,
    status: &mut StatusFn<'_>,
) -> Result<(), Error> {
    let quant = options.quant;
    let renamed = |e| source.renamed(e);
    let input = Input::detect(&source.path).map_err(renamed)?;
    let calibrate = options.calibrate.as_ref().filter(|_| quant.is_coded());
    let mut calibration = calibrate
        .map(|text| calibration(source, &input, out, (options, text), status))
        .transpose()?;
    status(Status::Message(&format!("converting {} to {}", source.name, quant.name())));
    let mut progress = |p: Progress| status(Status::Bytes { done: p.done, total: p.total });
    let mut packing = Options::new(quant);
    packing.source_id = source.origin.clone();
    packing.loras = options.loras.clone();
    packing.progress = Some(&mut progress);
    packing.calibrate = calibration.as_mut().map(|c| c as &mut dyn Calibrate);
    let (mut staged, converted) = convert_staged(&input, out, packing).map_err(renamed)?;
    for note in &converted.notes {
        status(Status::Message(note));
    }
    if let Some(calibration) = &mut calibration {
        let factor = Model::open(staged.path())
            .and_then(|model| calibration.logit_factor(Arc::new(model)))
            .map_err(|e| Error::Calibrate { model: source.name.clone(), source: e })?;
        let scaled = staged.scale_logits(&converted.config, factor);
        scaled.map_err(nanoinfer_packer::Error::from)?;
    }
    add_self_check(&mut staged, source, status)?;
    if let Some(prompt) = &options.prompt {
        status(Status::Message("processing the prompt"));
        let bytes = nanoinfer_engine::bake(staged.path(), prompt);
        let bytes = bytes.map_err(|e| Error::Bake { model: source.name.clone(), source: e });
        add_section(&mut staged, SectionKind::BakedPrompt, &bytes?)?;
    }
    Ok(staged.commit().map_err(nanoinfer_packer::Error::from)?)
}

/// Converts `source` to 8 bits in a temporary file beside `out`, for calibration. This model also writes the
/// text, unless it is given.
fn calibration(
    source: &LocalSource,
    input: &Input,
    out: &Path,
    (options, text): (&ConvertOptions, &Text),
    status: &mut StatusFn<'_>,
) -> Result<Calibration, Error> {
    let message = format!("converting {} to q8, for calibration", source.name);
    status(Status::Message(&message));
    let mut progress = |p: Progress| status(Status::Bytes { done: p.done, total: p.total });
    let mut packing = Options::new(Quant::Q8);
    packing.loras = options.loras.clone();
    packing.progress = Some(&mut progress);
    let (staged, _) = convert_staged(input, out, packing).map_err(|e| source.renamed(e))?;
    let failed = |e| Error::Calibrate { model: source.name.clone(), source: e };
    // The open file outlives its name, which is removed with `staged`.
    let model = Arc::new(Model::open(staged.path()).map_err(failed)?);
    let texts = match text {
        Text::Own(own) => {
            status(Status::Message("calibrating on text that the model writes"));
            calibrate::generate(&model, None, *own, |done, total| {
                status(Status::Bytes { done: done as u64, total: total as u64 });
            })
        }
        Text::Given(text) => {
            status(Status::Message("calibrating on the given text"));
            calibrate::divide(&model, text)
        }
    };
    let mut calibration =
        texts.and_then(|texts| Calibration::new(model, None, texts)).map_err(failed)?;
    if matches!(options.quant, Quant::Q3 | Quant::Q2) {
        calibration.correct_errors(out.parent().unwrap_or(out).to_path_buf());
    }
    Ok(calibration)
}

/// Runs the finished model and records its logits. A machine with too little memory to run a model
/// can still convert it.
fn add_self_check(
    staged: &mut Staged,
    source: &LocalSource,
    status: &mut StatusFn<'_>,
) -> Result<(), Error> {
    match SelfCheck::compute(staged.path()) {
        Ok(check) => add_section(staged, SectionKind::SelfCheck, &check.to_bytes()),
        Err(nanoinfer_engine::Error::Memory { .. }) => {
            status(Status::Message(
                "no self-check: this machine has too little memory to run the model",
            ));
            Ok(())
        }
        Err(e) => Err(Error::SelfCheck { model: source.name.clone(), source: e }),
    }
}

fn add_section(staged: &mut Staged, kind: SectionKind, bytes: &[u8]) -> Result<(), Error> {
    Ok(staged.add_section(kind, bytes).map_err(nanoinfer_packer::Error::from)?)
}
