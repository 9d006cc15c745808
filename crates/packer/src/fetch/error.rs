use std::io;
use std::path::{Path, PathBuf};

/// Why a model could not be brought to this machine. Every message is one line that says what to
/// do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {what}: {source}", path.display())]
    Io {
        /// File concerned.
        path: PathBuf,
        /// What was attempted.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// What was given as a model cannot be one.
    #[error("model {model:?}: {what}")]
    Model {
        /// As it was typed.
        model: String,
        /// What is wrong and what would be right.
        what: String,
    },
    /// The hub did not deliver.
    #[error("hub model {id}: {what}")]
    Hub {
        /// `org/name`.
        id: String,
        /// What happened and what to do.
        what: String,
    },
    /// The hub could not be reached at all.
    #[error(
        "hub model {id}: cannot reach {endpoint} ({what}) and it is not in the cache; \
         connect, set HF_ENDPOINT to a mirror, or give a local file with --model"
    )]
    Offline {
        /// `org/name`.
        id: String,
        /// Where it was looked for.
        endpoint: String,
        /// The network's reason.
        what: String,
    },
    /// A pinned model could not be fetched or is not the one it should be.
    #[error("default model {alias}: {what}")]
    Pinned {
        /// Its short name.
        alias: &'static str,
        /// What happened and what to do.
        what: String,
    },
    /// There is no place for a cache.
    #[error("no cache folder: {what}; set NANOINFER_HOME to a folder that can be written")]
    NoCache {
        /// Why not.
        what: String,
    },
    /// Nothing in the cache has this name, or several things have.
    #[error("{name:?}: {what}")]
    Cached {
        /// As it was typed.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// The converted model cannot be run.
    #[error("{model}: converted, but it does not run: {what}; is the source complete and sound?")]
    SelfCheck {
        /// The source.
        model: String,
        /// What happened.
        what: String,
    },
    /// The prompt cannot be baked into the model.
    #[error("{model}: the prompt cannot be baked: {what}")]
    Bake {
        /// The source.
        model: String,
        /// What happened.
        what: String,
    },
    /// The conversion failed.
    #[error(transparent)]
    Pack(#[from] crate::Error),
}

impl Error {
    pub(crate) fn io(path: &Path, what: &'static str) -> impl Fn(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path: path.clone(), what, source }
    }

    pub(super) fn model(model: &str, what: impl Into<String>) -> Self {
        Self::Model { model: model.into(), what: what.into() }
    }
}
