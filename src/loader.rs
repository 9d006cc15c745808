//! Finds, converts and opens a model by name.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use nanoinfer_engine::{Engine, EngineOptions, Model, Session};
use nanoinfer_format::Precision;
use nanoinfer_hub::{Error as HubError, Fetch, ModelRef, Status, Store};

use crate::Error;

/// Opens a model with default settings, without fetching anything: `Loader::new(name).model()`.
///
/// # Errors
/// Same as [`Loader::model`].
pub fn open(name: impl Into<OsString>) -> Result<Model, Error> {
    Loader::new(name).model()
}

/// Finds a model, converts it if necessary, and opens it.
///
/// A name is a path (a `.nano` file, a GGUF file, a Hugging Face folder), a hub id such as
/// `HuggingFaceTB/SmolLM2-135M-Instruct` (also `org/name@revision`, `org/name:file.gguf`), the alias
/// `smollm2`, or the full name of an entry in the cache ([`Store::list`]). Converted models are kept in
/// the user's cache folder and mapped from there the next time.
///
/// ```no_run
/// use nanoinfer::{EngineOptions, Loader, Status};
///
/// let mut log = |status: Status<'_>| {
///     if let Status::Message(text) = status {
///         eprintln!("{text}");
///     }
/// };
/// let options = EngineOptions { threads: Some(4), ..EngineOptions::default() };
/// let session = Loader::new("models/Qwen3-0.6B").status(&mut log).engine_options(options).session()?;
/// # Ok::<(), nanoinfer::Error>(())
/// ```
pub struct Loader<'a> {
    name: OsString,
    revision: Option<String>,
    quant: Precision,
    in_memory: bool,
    options: EngineOptions,
    store: Option<Store>,
    fetch: Option<&'a dyn Fetch>,
    status: Option<&'a mut dyn FnMut(Status<'_>)>,
}

impl<'a> Loader<'a> {
    /// A loader that uses only local models, converts to [`Precision::Auto`], and runs with
    /// [`EngineOptions::default`]. `name` is a string or a path.
    pub fn new(name: impl Into<OsString>) -> Self {
        Self {
            name: name.into(),
            revision: None,
            quant: Precision::Auto,
            in_memory: false,
            options: EngineOptions::default(),
            store: None,
            fetch: None,
            status: None,
        }
    }

    /// The branch, tag or commit of a hub model.
    pub fn revision(self, revision: impl Into<String>) -> Self {
        Self { revision: Some(revision.into()), ..self }
    }

    /// The precision to convert to. A `.nano` file of another precision is an error.
    pub fn quant(self, quant: impl Into<Precision>) -> Self {
        Self { quant: quant.into(), ..self }
    }

    /// Reads the whole file into memory instead of mapping it: slower to start, but unaffected by later
    /// changes to the file.
    pub fn in_memory(self, in_memory: bool) -> Self {
        Self { in_memory, ..self }
    }

    /// Threads, context size, cache type and so on.
    pub fn engine_options(self, options: EngineOptions) -> Self {
        Self { options, ..self }
    }

    /// The cache of converted models; defaults to the user's.
    pub fn store(self, store: Store) -> Self {
        Self { store: Some(store), ..self }
    }

    /// Allows downloads.
    pub fn fetch(self, fetch: &'a dyn Fetch) -> Self {
        Self { fetch: Some(fetch), ..self }
    }

    /// Receives messages and progress during long operations.
    pub fn status(self, status: &'a mut dyn FnMut(Status<'_>)) -> Self {
        Self { status: Some(status), ..self }
    }

    /// The `.nano` file, converted now if it does not exist yet.
    ///
    /// # Errors
    /// The model does not exist, or it cannot be fetched or converted.
    pub fn path(self) -> Result<PathBuf, Error> {
        let parsed = ModelRef::parse(&self.name);
        let model = match parsed {
            Err(e @ HubError::Unknown { .. }) if self.revision.is_none() => {
                let store = self.store.map_or_else(Store::open, Ok)?;
                let entry = self.name.to_str().map(|name| store.converted(name)).transpose()?;
                let file = ModelRef::Nano(entry.flatten().ok_or(e)?);
                return Ok(store.resolve(&file, self.quant, None, &mut |_| {})?);
            }
            parsed => parsed?.at_revision(self.revision.as_deref())?,
        };
        if let (ModelRef::Nano(path), Precision::Auto) = (&model, self.quant) {
            return Ok(path.clone()); // a file needs no cache folder
        }
        let store = self.store.map_or_else(Store::open, Ok)?;
        let mut silent = |_: Status<'_>| {};
        Ok(store.resolve(&model, self.quant, self.fetch, self.status.unwrap_or(&mut silent))?)
    }

    /// The opened model, with its file mapped but not yet read.
    ///
    /// # Errors
    /// Same as [`Self::path`], or the file is damaged.
    pub fn model(self) -> Result<Model, Error> {
        let (in_memory, name) = (self.in_memory, self.name.clone());
        let path = self.path()?;
        let model = if in_memory { Model::open_copy(path)? } else { Model::open(path)? };
        Ok(model.named(name))
    }

    /// An engine: the model with threads, cache and buffers.
    ///
    /// # Errors
    /// Same as [`Self::model`], or there is not enough memory.
    pub fn engine(self) -> Result<Engine, Error> {
        let options = self.options.clone();
        Ok(Engine::new(self.model()?, &options)?)
    }

    /// A conversation with its own engine.
    ///
    /// # Errors
    /// Same as [`Self::engine`].
    pub fn session(self) -> Result<Session, Error> {
        Ok(Session::new(self.engine()?)?)
    }
}

impl fmt::Debug for Loader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader").field("name", &self.name).finish_non_exhaustive()
    }
}
