//! The common representation of every source before packing.

use std::path::{Path, PathBuf};

use nanoinfer_format::{Config, ConfigError, Generation};

use crate::Error;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;

/// A model whose settings have been read and checked; the values of its weights are read while
/// packing.
pub(crate) struct Model {
    /// The source's config: f32 weights, no rotation.
    pub(crate) config: Config,
    /// RoPE turns per position, including scaling.
    pub(crate) turns: Vec<u64>,
    pub(crate) weights: Weights,
    pub(crate) generation: Generation,
    pub(crate) tokenizer: Option<Tokenizer>,
    pub(crate) chat_template: Option<String>,
    /// `hf-folder` or `gguf`, for the provenance.
    pub(crate) kind: &'static str,
    /// What the user should know about the conversion, one line each.
    pub(crate) notes: Vec<String>,
    /// All files read, for the provenance.
    pub(crate) files: Vec<PathBuf>,
}

/// Checks generation defaults like the reader of the `.nano` file, but reports a problem under the
/// setting's name in the source.
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
