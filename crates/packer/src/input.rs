//! Model sources: published folders and files.

use std::path::{Path, PathBuf};

use nanoinfer_format::Config;

use crate::model::Model;
use crate::source::SourceFile;
use crate::{Error, gguf, hf, locate};

/// A published model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A Hugging Face model folder: `config.json`, safetensors or `pytorch_model.bin`, tokenizer.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
}

impl Input {
    /// Finds the model in a folder or file: a Hugging Face folder, a GGUF file, a folder with one GGUF
    /// model, or a model's folder in the hub's cache (`models--org--name`, of which the snapshot of
    /// `main` is used). A folder of none of these kinds is left to the reader of Hugging Face folders.
    ///
    /// # Errors
    /// The path does not exist, or is something else; the error says what and what to use instead.
    pub fn detect(path: &Path) -> Result<Self, Error> {
        let meta = std::fs::metadata(path).map_err(Error::io(path, "cannot open"))?;
        if !meta.is_dir() {
            locate::file(path)?;
            return Ok(Self::Gguf(path.into()));
        }
        let folder = locate::snapshot(path)?.unwrap_or_else(|| path.into());
        Ok(locate::gguf_in(&folder)?.map_or(Self::Folder(folder), Self::Gguf))
    }

    /// Checks that a file of any kind does not just stand for another one: that it is not a Git LFS
    /// pointer or a web page, and not empty.
    ///
    /// # Errors
    /// It is, or it cannot be read.
    pub fn check_file(path: &Path) -> Result<(), Error> {
        SourceFile::open(path).map(drop)
    }

    /// The model's config, as in the source: f32 weights, no rotation.
    ///
    /// # Errors
    /// The source is damaged, incomplete or of an unsupported kind.
    pub fn config(&self) -> Result<Config, Error> {
        Ok(self.open()?.config)
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
