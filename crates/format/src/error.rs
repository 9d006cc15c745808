use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;

/// Why a `.nano` file could not be read or written. Messages name the file and the location in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system reported an error.
    #[error("{}: {what}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operation that failed.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The file does not begin with the `.nano` magic.
    #[error("{}: not a .nano file ({what}); create one with `nanoinfer convert`", path.display())]
    NotNano {
        /// The file.
        path: PathBuf,
        /// The content found instead.
        what: String,
    },
    /// Written for a newer engine.
    #[error("{}: {what}; a newer nanoinfer can read it", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// The unsupported version or feature.
        what: String,
    },
    /// Written for an older engine.
    #[error("{}: {what}; convert the model again", path.display())]
    TooOld {
        /// The file.
        path: PathBuf,
        /// The version that is no longer supported.
        what: String,
    },
    /// The header, a section or a table is invalid.
    #[error("{}: corrupt .nano file: {what}; fetch a fresh copy, or convert the model again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The field, its value and the expected value.
        what: String,
    },
    /// The architecture description is inconsistent.
    #[error("{}: {source}; convert the model again", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The invalid field.
        source: ConfigError,
    },
    /// The writer's methods were called in the wrong order or with mismatched sizes.
    #[error("{}: writer: {what}", path.display())]
    Misuse {
        /// The file.
        path: PathBuf,
        /// Description of the misuse.
        what: String,
    },
}
