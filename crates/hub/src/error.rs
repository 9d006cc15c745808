use std::io;
use std::path::{Path, PathBuf};

/// Why there is no `.nano` file. Every message is a single line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {what}: {source}", path.display())]
    Io {
        /// File concerned.
        path: PathBuf,
        /// The attempted operation.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The name cannot be that of a model.
    #[error("model {model:?}: {what}")]
    Model {
        /// The name as given.
        model: String,
        /// What is wrong and what would be right.
        what: String,
    },
    /// The model was never fetched, and the caller allows no download.
    #[error("model {model:?}: not in the cache; pass a `Fetch` to download it")]
    NotCached {
        /// Hub id or alias.
        model: String,
    },
    /// The hub refused, or sent something unusable.
    #[error("hub model {id}: {what}")]
    Hub {
        /// `org/name`.
        id: String,
        /// What happened and what to do.
        what: String,
    },
    /// The hub could not be reached.
    #[error(
        "hub model {id}: cannot reach {endpoint} ({what}) and it is not in the cache; \
         connect, or set HF_ENDPOINT to a mirror"
    )]
    Offline {
        /// `org/name`.
        id: String,
        /// Server that was tried.
        endpoint: String,
        /// The network's reason.
        what: String,
    },
    /// A pinned model could not be fetched, or its hash is wrong.
    #[error("default model {alias}: {what}")]
    Pinned {
        /// Its short name.
        alias: &'static str,
        /// What happened and what to do.
        what: String,
    },
    /// No folder can hold a cache.
    #[error("no cache folder: {what}; set NANOINFER_HOME to a writable folder")]
    NoCache {
        /// The reason.
        what: String,
    },
    /// [`Store::remove`](crate::Store::remove) found nothing of this name.
    #[error("{name:?} is not in the cache")]
    NoEntry {
        /// The name as given.
        name: String,
    },
    /// The converted model does not run.
    #[error("{model}: converted, but it does not run: {source}; is the source complete and sound?")]
    SelfCheck {
        /// The source.
        model: String,
        /// The engine's reason.
        source: nanoinfer_engine::Error,
    },
    /// The system prompt cannot be baked into the model.
    #[error("{model}: cannot bake the prompt: {source}")]
    Bake {
        /// The source.
        model: String,
        /// The engine's reason.
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

    pub(crate) fn model(model: &str, what: impl Into<String>) -> Self {
        Self::Model { model: model.into(), what: what.into() }
    }
}
