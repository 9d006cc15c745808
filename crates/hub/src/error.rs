use std::io;
use std::path::{Path, PathBuf};

/// Why a `.nano` file could not be provided. Every message is a single line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("{}: {what}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The attempted operation.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The given name cannot be used as a model.
    #[error("model {model:?}: {what}")]
    Model {
        /// The name as given.
        model: String,
        /// The problem, and what to do instead.
        what: String,
    },
    /// The name is neither a path that exists nor a hub id.
    #[error(
        "model {model:?}: no such file or folder; pass a .nano or .gguf file, a Hugging Face folder, \
         a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct, a hub file such as \
         org/name:file.gguf, or smollm2"
    )]
    Unknown {
        /// The name as given.
        model: String,
    },
    /// The model is not in the cache, and the caller does not allow downloads.
    #[error("model {model:?}: not in the cache; pass a `Fetch` to download it")]
    NotCached {
        /// Hub id or alias.
        model: String,
    },
    /// The hub rejected the request, or sent an unusable response.
    #[error("hub model {id}: {what}")]
    Hub {
        /// `org/name`.
        id: String,
        /// What happened and what to do.
        what: String,
    },
    /// The hub could not be reached.
    #[error(
        "hub model {id}: cannot reach {endpoint} ({what}), and the model is not in the cache; \
         check the network connection, or set HF_ENDPOINT to a mirror"
    )]
    Offline {
        /// `org/name`.
        id: String,
        /// The server that was contacted.
        endpoint: String,
        /// The network error.
        what: String,
    },
    /// A pinned model could not be fetched, or its hash does not match.
    #[error("default model {alias}: {what}")]
    Pinned {
        /// The model's alias.
        alias: &'static str,
        /// What happened and what to do.
        what: String,
    },
    /// No cache folder could be determined.
    #[error("no cache folder: {what}; set NANOINFER_HOME to a writable folder")]
    NoCache {
        /// The reason.
        what: String,
    },
    /// The cache folder cannot be written.
    #[error(
        "{}: {what} in the cache: {source}; set NANOINFER_HOME to a writable folder", path.display()
    )]
    Cache {
        /// The file or folder in the cache.
        path: PathBuf,
        /// The attempted operation.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// [`Store::remove`](crate::Store::remove) found nothing with this name.
    #[error("{name:?} is not in the cache")]
    NoEntry {
        /// The name as given.
        name: String,
    },
    /// The converted model does not run.
    #[error(
        "{model}: converted, but the result does not run: {source}; is the source complete and intact?"
    )]
    SelfCheck {
        /// Name of the source.
        model: String,
        /// The engine's error.
        source: nanoinfer_engine::Error,
    },
    /// The 8-bit version of the model, with which it is to be calibrated, cannot be run.
    #[error("{model}: cannot calibrate: {source}")]
    Calibrate {
        /// Name of the source.
        model: String,
        /// The engine's error.
        source: nanoinfer_engine::Error,
    },
    /// A file does not have the precision asked for.
    #[error(
        "{}: has the precision {stored}, not {asked}; convert its source to another file, or use this one \
         as it is", path.display()
    )]
    Precision {
        /// The file.
        path: PathBuf,
        /// Its precision.
        stored: String,
        /// The precision asked for.
        asked: nanoinfer_format::Precision,
    },
    /// The system prompt cannot be baked into the model.
    #[error("{model}: cannot bake the prompt: {source}")]
    Bake {
        /// Name of the source.
        model: String,
        /// The engine's error.
        source: nanoinfer_engine::Error,
    },
    /// The conversion failed.
    #[error(transparent)]
    Pack(#[from] nanoinfer_packer::Error),
}

impl Error {
    pub(crate) fn io(path: &Path, what: &'static str) -> impl Fn(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path: path.clone(), what, source }
    }

    pub(crate) fn cache(path: &Path, what: &'static str) -> impl Fn(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Cache { path: path.clone(), what, source }
    }

    pub(crate) fn model(model: &str, what: impl Into<String>) -> Self {
        Self::Model { model: model.into(), what: what.into() }
    }
}
