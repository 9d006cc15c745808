//! What every kind of source is turned into before packing.

use std::path::{Path, PathBuf};

use nanoinfer_format::{Config, ConfigError, Generation};

use crate::Error;
use crate::rope::Kind;
use crate::text::Tokenizer;
use crate::weights::{Biases, Change, Names, Weights};

/// A model that has been read and checked, weights excepted: those are read while packing.
pub(crate) struct Model {
    /// As of the source: encoding f32, nothing rotated.
    pub(crate) config: Config,
    /// RoPE turns per position, scaling included.
    pub(crate) turns: Vec<u64>,
    pub(crate) weights: Weights,
    pub(crate) generation: Generation,
    pub(crate) tokenizer: Option<Tokenizer>,
    pub(crate) chat_template: Option<String>,
    /// `hf-folder` or `gguf`, for the provenance.
    pub(crate) kind: &'static str,
    /// Every file read, for the provenance.
    pub(crate) files: Vec<PathBuf>,
}

/// What the settings of a source say, before its weights are looked at.
pub(crate) struct Description {
    pub(crate) config: Config,
    /// The kinds of RoPE that `config.ropes` speaks of.
    pub(crate) ropes: Vec<Kind>,
    pub(crate) biases: Biases,
    pub(crate) names: &'static Names,
    /// What is done to weights before they are packed.
    pub(crate) changes: Vec<Change>,
}

/// Checks what the file's reader will check, and names what is wrong as sources do.
pub(crate) fn check_generation(path: &Path, g: &Generation, vocab: u32) -> Result<(), Error> {
    g.validate(vocab).map_err(|ConfigError { field, value, expected }| {
        let field = match field {
            "bos" => "bos_token_id",
            "eos" => "eos_token_id",
            same => same,
        };
        let what = format!("is {value}, expected {expected}");
        Error::Setting { path: path.into(), field: field.into(), what }
    })
}
