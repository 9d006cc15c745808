use std::io;
use std::path::{Path, PathBuf};

/// Why a model could not be converted. Every message is one line that names the file and the place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {what}: {source}", path.display())]
    Io {
        /// File concerned.
        path: PathBuf,
        /// What was attempted.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A source file is not what its name or its own tables say.
    #[error("{}: {what}", path.display())]
    Source {
        /// File concerned.
        path: PathBuf,
        /// The place, what was found there, what was expected.
        what: String,
    },
    /// A tensor of the source cannot be used.
    #[error("{}: tensor {tensor:?}: {what}", path.display())]
    Tensor {
        /// File concerned.
        path: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
        /// What was found and what was expected.
        what: String,
    },
    /// A setting of the model's description is missing, malformed or out of range.
    #[error("{}: {field} {what}", path.display())]
    Setting {
        /// File concerned.
        path: PathBuf,
        /// Name of the setting in that file.
        field: String,
        /// Its value and what was expected.
        what: String,
    },
    /// The model needs something that this version does not have.
    #[error("{}: {what} is not supported; {next}", path.display())]
    Unsupported {
        /// File concerned.
        path: PathBuf,
        /// The feature, by name.
        what: String,
        /// What is supported, or what to do instead.
        next: String,
    },
    /// The disk has too little room.
    #[error(
        "{}: {needed} bytes are needed here, {available} are available; \
         free some space or choose another disk", path.display()
    )]
    Space {
        /// Folder to write to.
        path: PathBuf,
        /// Bytes that have to be written.
        needed: u64,
        /// Bytes that can be written.
        available: u64,
    },
    /// The tokenizer is not one the text crate can load.
    #[error("{}: {source}", path.display())]
    Text {
        /// File the tokenizer came from.
        path: PathBuf,
        /// What is wrong with it.
        source: nanoinfer_text::Error,
    },
    /// The `.nano` file could not be written.
    #[error(transparent)]
    Format(#[from] nanoinfer_format::Error),
}

impl Error {
    pub(crate) fn source(path: &Path, what: impl Into<String>) -> Self {
        Self::Source { path: path.into(), what: what.into() }
    }

    pub(crate) fn io(path: &Path, what: &str) -> impl FnOnce(io::Error) -> Self {
        let (path, what) = (path.to_path_buf(), what.to_owned());
        move |source| Self::Io { path, what, source }
    }
}
