//! A model file, opened: weights bound, tokenizer and chat template ready.

use std::path::Path;

use nanoinfer_format::{Config, Generation, NanoFile};

use crate::Error;
use crate::weights::Weights;

/// An open model. Opening maps the file and checks its tables; no weight is read.
pub struct Model {
    file: NanoFile,
    weights: Weights,
}

impl Model {
    /// Opens a `.nano` file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let file = NanoFile::open(path)?;
        let weights = Weights::bind(&file)
            .map_err(|what| Error::Model { path: file.path().to_path_buf(), what })?;
        Ok(Self { file, weights })
    }

    /// The mapped file.
    pub fn file(&self) -> &NanoFile {
        &self.file
    }

    /// The architecture.
    pub fn config(&self) -> &Config {
        self.file.config()
    }

    /// Defaults for generating text.
    pub fn generation(&self) -> &Generation {
        self.file.generation()
    }

    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }
}
