//! Any error of the library.

/// Why a model could not be found, converted, opened or run. Each message is one line that says where
/// and what.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It could not be found, fetched or cached.
    #[error(transparent)]
    Hub(#[from] nanoinfer_hub::Error),
    /// It could not be converted.
    #[error(transparent)]
    Convert(#[from] nanoinfer_packer::Error),
    /// It could not be opened or run.
    #[error(transparent)]
    Engine(#[from] nanoinfer_engine::Error),
}
