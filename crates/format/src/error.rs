use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;

/// Why a `.nano` file could not be read or written. Each message names the file and the place.
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
    /// The file does not begin with the `.nano` magic.
    #[error("{}: not a .nano file ({what}); make one with `nanoinfer convert`", path.display())]
    NotNano {
        /// File concerned.
        path: PathBuf,
        /// What was found instead.
        what: String,
    },
    /// Written for an engine that knows more than this one.
    #[error("{}: {what}; a newer nanoinfer can read it", path.display())]
    TooNew {
        /// File concerned.
        path: PathBuf,
        /// What is unknown here.
        what: String,
    },
    /// Written for an engine before this one.
    #[error("{}: {what}; convert the model again", path.display())]
    TooOld {
        /// File concerned.
        path: PathBuf,
        /// What is no longer read here.
        what: String,
    },
    /// Something in header, sections or tables is wrong.
    #[error("{}: damaged .nano file: {what}; convert or copy it again", path.display())]
    Damaged {
        /// File concerned.
        path: PathBuf,
        /// The field, its value and what was expected.
        what: String,
    },
    /// The architecture description contradicts itself.
    #[error("{}: {source}; convert the model again", path.display())]
    Config {
        /// File concerned.
        path: PathBuf,
        /// The field at fault.
        source: ConfigError,
    },
    /// The writer was used out of order or with sizes that do not match.
    #[error("{}: writer: {what}", path.display())]
    Misuse {
        /// File concerned.
        path: PathBuf,
        /// What was wrong.
        what: String,
    },
}
