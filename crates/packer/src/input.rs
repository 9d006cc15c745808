//! Model sources: published folders and files.

use std::path::{Path, PathBuf};

use crate::model::Model;
use crate::source::SourceFile;
use crate::{Error, gguf, hf};

/// A published model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A Hugging Face model folder: `config.json`, safetensors or `pytorch_model.bin`, tokenizer.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
}

impl Input {
    /// Detects the kind of source: a folder is treated as a Hugging Face model; a file must start
    /// with `GGUF`.
    ///
    /// # Errors
    /// The path does not exist, or is a file of another type.
    pub fn detect(path: &Path) -> Result<Self, Error> {
        let meta = std::fs::metadata(path).map_err(Error::io(path, "cannot open"))?;
        if meta.is_dir() {
            return Ok(Self::Folder(path.into()));
        }
        let file = SourceFile::open(path)?;
        let mut magic = [0; 4];
        if file.len >= 4 {
            file.read_at(0, &mut magic)?;
        }
        if magic == *b"GGUF" {
            return Ok(Self::Gguf(path.into()));
        }
        Err(Error::source(path, "is neither a Hugging Face model folder nor a GGUF file"))
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::Gguf(path) => path,
        }
    }

    pub(crate) fn open(&self) -> Result<Model, Error> {
        match self {
            Self::Folder(path) => hf::open(path),
            Self::Gguf(path) => gguf::open(path),
        }
    }
}
