use std::io;
use std::path::{Path, PathBuf};

/// Why a model could not be converted. Every message is a single line that names the file and the
/// location.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("{}: {what}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        what: String,
        /// The system's error.
        source: io::Error,
    },
    /// A source file is damaged, or not of the expected type.
    #[error("{}: {what}", path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// The location, and what was found and expected there.
        what: String,
    },
    /// A tensor of the source cannot be used.
    #[error("{}: tensor {tensor:?}: {what}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
        /// What was found and what was expected.
        what: String,
    },
    /// A setting is missing, malformed or out of range.
    #[error("{}: {field} {what}", path.display())]
    Setting {
        /// The file.
        path: PathBuf,
        /// Name of the setting in that file.
        field: String,
        /// The setting's value and what was expected.
        what: String,
    },
    /// The model needs a feature that this version does not support.
    #[error("{}: {what} is not supported; {next}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The feature, by name.
        what: String,
        /// What is supported, or what to do instead.
        next: String,
    },
    /// The folder of a LoRA adapter was given as a model.
    #[error(
        "{}: is a LoRA adapter{}, not a model; convert its base model with the adapter merged",
        path.display(), for_base(base.as_deref())
    )]
    Adapter {
        /// The adapter's folder.
        path: PathBuf,
        /// The base model, as named by the adapter.
        base: Option<String>,
    },
    /// The weights cannot be stored as asked for.
    #[error("{}{source}", name.as_ref().map_or(String::new(), |name| format!("{name}: ")))]
    Recipe {
        /// The file with the recipe, if that is the problem.
        name: Option<String>,
        /// What is wrong.
        source: nanoinfer_format::RecipeError,
    },
    /// The disk has too little free space.
    #[error(
        "{}: {needed} bytes are needed here, {available} are available; \
         free some space or choose another disk", path.display()
    )]
    Space {
        /// Folder to write to.
        path: PathBuf,
        /// Bytes to be written.
        needed: u64,
        /// Bytes available.
        available: u64,
    },
    /// The text crate cannot load the tokenizer.
    #[error("{}: {source}", path.display())]
    Text {
        /// The file that contains the tokenizer.
        path: PathBuf,
        /// The problem.
        source: nanoinfer_text::Error,
    },
    /// The calibration failed.
    #[error("calibration: {0}")]
    Calibration(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The `.nano` file could not be written.
    #[error(transparent)]
    Format(#[from] nanoinfer_format::Error),
}

fn for_base(base: Option<&str>) -> String {
    base.map_or(String::new(), |base| format!(" for {base:?}"))
}

impl Error {
    /// Replaces the file or folder `base` by `name` in the paths that the message names: users do not
    /// know the files that a published model is stored in.
    #[must_use]
    pub fn renamed(mut self, base: &Path, name: &str) -> Self {
        if let Self::Io { path, .. }
        | Self::Source { path, .. }
        | Self::Tensor { path, .. }
        | Self::Setting { path, .. }
        | Self::Unsupported { path, .. }
        | Self::Adapter { path, .. }
        | Self::Text { path, .. } = &mut self
            && let Ok(rest) = path.strip_prefix(base)
        {
            let inner = Path::new(name).join(rest);
            *path = if rest.as_os_str().is_empty() { name.into() } else { inner };
        }
        self
    }

    pub(crate) fn source(path: &Path, what: impl Into<String>) -> Self {
        Self::Source { path: path.into(), what: what.into() }
    }

    pub(crate) fn io(path: &Path, what: &str) -> impl FnOnce(io::Error) -> Self {
        let (path, what) = (path.to_path_buf(), what.to_owned());
        move |source| Self::Io { path, what, source }
    }
}
