//! The cache of converted models, and the one way from a [`ModelRef`] to a `.nano` file.
//!
//! ```text
//! $NANOINFER_HOME, else the platform's cache folder + nanoinfer
//!   models/<label>-<quant>-<key>.nano   converted models, ready to map
//!   sources/<alias>/…                   files of models with an alias
//!   locks/                              empty files that running processes hold locks on
//! ```
//!
//! `key` is the BLAKE3 of what the model was made from, so a changed source is another file and a
//! hit needs no look at a model's contents: a second start hashes a few names and sizes, then
//! maps. Whoever prepares a model holds its lock; others wait and then find it. The operating
//! system lets go of a dead process's locks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nanoinfer_format::{Quant, SectionKind};

use crate::fetch::hub::{Hub, HubId, Revision};
use crate::fetch::pinned::Pinned;
use crate::fetch::{Error, ModelRef, Report, Step, entries_in, sweep};
use crate::{Input, Lora, Options, Progress, gguf};

/// Raised whenever the packer writes other bytes for the same source: old cache entries are then
/// no longer found.
pub const PACKER_VERSION: u32 = 2;

/// A folder with converted models.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    self_check: Option<SelfCheck>,
    bake: Option<(Bake, String)>,
}

/// Runs the model in a finished file, before it has its name, and returns what the section
/// `self-check` is to hold; `None` if the model cannot be run on this machine.
///
/// This crate runs no models: who has an engine gives one with [`Store::with_self_check`].
pub type SelfCheck = fn(&Path) -> Result<Option<Vec<u8>>, String>;

/// Runs a text through the model in a finished file, and returns what the section `baked prompt` is
/// to hold.
pub type Bake = fn(&Path, &str) -> Result<Vec<u8>, String>;

/// Something the cache holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Entry {
    /// Its name, for [`Store::remove`].
    pub name: String,
    /// The model's name without quantization and key.
    pub model: String,
    /// `q8`, `f32`, or `source` for a downloaded file.
    pub kind: String,
    /// Its size.
    pub bytes: u64,
    /// Seconds since 1970 when it was made.
    pub made: u64,
    /// Where it is.
    pub path: PathBuf,
}

impl Store {
    /// The cache of this user: `NANOINFER_HOME`, else the platform's cache folder.
    ///
    /// # Errors
    /// Neither is known.
    pub fn open() -> Result<Self, Error> {
        use etcetera::BaseStrategy;
        if let Some(root) = std::env::var_os("NANOINFER_HOME").filter(|v| !v.is_empty()) {
            // Absolute, because pip is started from another folder.
            let root =
                std::path::absolute(&root).map_err(|e| Error::NoCache { what: e.to_string() })?;
            return Ok(Self { root, self_check: None, bake: None });
        }
        let base = etcetera::base_strategy::choose_native_strategy()
            .map_err(|e| Error::NoCache { what: e.to_string() })?;
        let root = base.cache_dir().join("nanoinfer");
        Ok(Self { root, self_check: None, bake: None })
    }

    /// The same, packing files with a self-check.
    pub fn with_self_check(self, check: SelfCheck) -> Self {
        Self { self_check: Some(check), ..self }
    }

    /// The same, baking this prompt into what [`Self::convert`] makes.
    pub fn with_baked(self, bake: Bake, text: String) -> Self {
        Self { bake: Some((bake, text)), ..self }
    }

    /// A `.nano` file of this model: the given one, one from the cache, or one made now.
    ///
    /// # Errors
    /// The model cannot be fetched or converted.
    pub fn ready(
        &self,
        model: &ModelRef,
        quant: Quant,
        report: &mut Report<'_>,
    ) -> Result<PathBuf, Error> {
        if let ModelRef::Nano(path) = model {
            return Ok(path.clone());
        }
        let path = |identity: &str| self.path(&model.label(), quant, identity);
        // The identity as far as this machine knows it: enough for a hit.
        if let Some(path) = known_identity(model)?.map(|i| path(&i)).filter(|p| p.is_file()) {
            return Ok(path);
        }
        let source = self.source(model, report)?;
        let target = path(&source.identity);
        let name = target.file_name().expect("named above").to_string_lossy().into_owned();
        let _lock = self.lock(&name, report)?;
        if target.is_file() {
            return Ok(target); // another process made it while this one waited
        }
        let folder = target.parent().expect("a file in a folder");
        fs::create_dir_all(folder).map_err(Error::io(folder, "cannot create"))?;
        self.pack(&source, &target, quant, &[], report)?;
        report(Step::Say(&format!("cached as {}", target.display())));
        Ok(target)
    }

    /// Converts a model to `out`, fetching it if needed, with adapters merged into it.
    ///
    /// # Errors
    /// The model cannot be fetched, or is converted already.
    pub fn convert(
        &self,
        model: &ModelRef,
        out: &Path,
        quant: Quant,
        loras: &[Lora],
        report: &mut Report<'_>,
    ) -> Result<(), Error> {
        if let ModelRef::Nano(path) = model {
            return Err(Error::Model {
                model: path.display().to_string(),
                what: "is a .nano file already; convert from what it was made of".into(),
            });
        }
        let source = self.source(model, report)?;
        self.pack(&source, out, quant, loras, report)
    }

    /// Brings a model's files to this machine.
    fn source(&self, model: &ModelRef, report: &mut Report<'_>) -> Result<Source, Error> {
        match model {
            ModelRef::Nano(path) | ModelRef::Gguf(path) | ModelRef::Folder(path) => Ok(Source {
                path: path.clone(),
                name: path.display().to_string(),
                id: None,
                identity: local_identity(path)?,
            }),
            ModelRef::Pinned(pinned) => {
                let _lock = self.lock(pinned.alias, report)?;
                let folder = self.root.join("sources").join(pinned.alias);
                sweep(&folder, ".");
                let path = pinned.fetch(&folder, report)?;
                Ok(Source {
                    path,
                    name: pinned.alias.into(),
                    id: Some(pinned.alias.into()),
                    identity: pinned_identity(pinned),
                })
            }
            ModelRef::Hub(id) => {
                let hub = Hub::from_env()?;
                let _lock = self.lock(&model.label(), report)?;
                let revision = hub.fetch(id, report)?;
                Ok(Source {
                    path: hub.path(id, &revision),
                    name: id.to_string(),
                    id: Some(format!("{id}@{}", revision.commit)),
                    identity: hub_identity(id, &revision),
                })
            }
        }
    }

    fn pack(
        &self,
        source: &Source,
        out: &Path,
        quant: Quant,
        loras: &[Lora],
        report: &mut Report<'_>,
    ) -> Result<(), Error> {
        report(Step::Say(&format!("converting {} to {}", source.name, quant.name())));
        let input = Input::detect(&source.path)?;
        let mut progress = |p: Progress| report(Step::Progress { done: p.done, total: p.total });
        let mut options = Options::new(quant);
        options.source_id = source.id.clone();
        options.loras = loras.to_vec();
        options.progress = Some(&mut progress);
        let (mut staged, _) = crate::convert_staged(&input, out, options)?;
        if let Some(check) = self.self_check {
            let failed = |what| Error::SelfCheck { model: source.name.clone(), what };
            match check(staged.path()).map_err(failed)? {
                Some(bytes) => staged
                    .add_section(SectionKind::SelfCheck, &bytes)
                    .map_err(crate::Error::from)?,
                None => report(Step::Say("no self-check: this machine cannot run the model")),
            }
        }
        if let Some((bake, text)) = &self.bake {
            report(Step::Say("computing the prompt"));
            let failed = |what| Error::Bake { model: source.name.clone(), what };
            let bytes = bake(staged.path(), text).map_err(failed)?;
            staged.add_section(SectionKind::BakedPrompt, &bytes).map_err(crate::Error::from)?;
        }
        Ok(staged.commit().map_err(crate::Error::from)?)
    }

    fn path(&self, label: &str, quant: Quant, identity: &str) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        for part in [identity, quant.name()] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        hasher.update(&nanoinfer_format::VERSION.to_le_bytes());
        hasher.update(&PACKER_VERSION.to_le_bytes());
        let key = &hasher.finalize().to_hex()[..16];
        self.root.join("models").join(format!("{label}-{}-{key}.nano", quant.name()))
    }

    /// Waits until no other process holds `name`, and holds it until the file is dropped.
    fn lock(&self, name: &str, report: &mut Report<'_>) -> Result<File, Error> {
        let folder = self.root.join("locks");
        let path = folder.join(format!("{name}.lock"));
        fs::create_dir_all(&folder).map_err(Error::io(&folder, "cannot create"))?;
        let file = File::create(&path).map_err(Error::io(&path, "cannot create"))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => {}
            Err(fs::TryLockError::Error(e)) => return Err(Error::io(&path, "cannot lock")(e)),
        }
        report(Step::Say(&format!("waiting for another process that is preparing {name}")));
        file.lock().map_err(Error::io(&path, "cannot lock"))?;
        Ok(file)
    }

    /// Everything in the cache, by name.
    ///
    /// # Errors
    /// The cache cannot be read; one that does not exist yet is empty.
    pub fn list(&self) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for path in files_in(&self.root.join("models"))? {
            let Some(stem) = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".nano"))
            else {
                continue;
            };
            let mut parts = stem.rsplitn(3, '-').skip(1); // the key
            let (kind, model) = (parts.next().unwrap_or("?"), parts.next().unwrap_or(stem));
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

    /// Removes the entry of this name, or all entries of the model of this name.
    ///
    /// # Errors
    /// There is none, or it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<Vec<Entry>, Error> {
        let mut entries = self.list()?;
        let wanted = crate::fetch::safe_name(name); // a hub id as it is typed elsewhere
        entries.retain(|e| e.name == name || e.model == wanted);
        if entries.is_empty() {
            let what = "is not in the cache; `nanoinfer models` lists what is".into();
            return Err(Error::Cached { name: name.into(), what });
        }
        for entry in &entries {
            fs::remove_file(&entry.path).map_err(Error::io(&entry.path, "cannot remove"))?;
        }
        Ok(entries)
    }
}

impl Entry {
    fn of(path: &Path, name: &str, model: &str, kind: &str) -> Option<Self> {
        let meta = fs::metadata(path).ok()?; // gone meanwhile
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

/// Files to convert from.
struct Source {
    path: PathBuf,
    /// Its name for people.
    name: String,
    /// Where it was published, for the converted file's provenance; unknown for local files.
    id: Option<String>,
    /// What the cache key is made of.
    identity: String,
}

/// A model's identity without asking anybody; `None` if only the hub could say.
fn known_identity(model: &ModelRef) -> Result<Option<String>, Error> {
    Ok(match model {
        ModelRef::Nano(path) | ModelRef::Gguf(path) | ModelRef::Folder(path) => {
            Some(local_identity(path)?)
        }
        ModelRef::Pinned(pinned) => Some(pinned_identity(pinned)),
        ModelRef::Hub(id) => Hub::from_env()?.known(id).map(|r| hub_identity(id, &r)),
    })
}

fn pinned_identity(pinned: &Pinned) -> String {
    format!("sha256 {}", pinned.sha256)
}

fn hub_identity(id: &HubId, revision: &Revision) -> String {
    format!("hub {id} {}", revision.commit)
}

/// Path, sizes and times of a local source: what `make` trusts, at the price of a few system calls.
fn local_identity(path: &Path) -> Result<String, Error> {
    let full = path.canonicalize().map_err(Error::io(path, "cannot open"))?;
    let mut files = if full.is_dir() { files_in(&full)? } else { gguf::files(&full) };
    files.sort();
    let mut identity = format!("local {}\n", full.display());
    for file in files {
        let meta = fs::metadata(&file).map_err(Error::io(&file, "cannot read the size of"))?;
        let time = meta.modified().ok().and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok());
        let name = file.file_name().unwrap_or_default();
        let nanos = time.unwrap_or_default().as_nanos();
        identity.push_str(&format!("{name:?} {} {nanos}\n", meta.len()));
    }
    Ok(identity)
}

/// Visible files directly in a folder; none if it does not exist.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let hidden = |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
    Ok(entries_in(folder)?.into_iter().filter(|p| !hidden(p) && p.is_file()).collect())
}

fn folders_in(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    Ok(entries_in(folder)?.into_iter().filter(|p| p.is_dir()).collect())
}
