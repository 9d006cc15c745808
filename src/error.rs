//! The library's error type.

/// Why a model could not be found, converted, opened or run. Each message is a single line that
/// states what failed and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model could not be found, fetched or cached.
    #[error(transparent)]
    Hub(#[from] nanoinfer_hub::Error),
    /// The model could not be converted.
    #[error(transparent)]
    Convert(#[from] nanoinfer_packer::Error),
    /// The model could not be opened or run.
    #[error(transparent)]
    Engine(#[from] nanoinfer_engine::Error),
}
