//! What every kind of source is turned into before packing.

use std::path::{Path, PathBuf};

use nanoinfer_format::{Config, Generation};

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

/// Checks that the special tokens exist: the engine looks them up without asking again.
pub(crate) fn check_generation(path: &Path, g: &Generation, vocab: u32) -> Result<(), Error> {
    let setting = |field: &str, what: String| {
        Err(Error::Setting { path: path.into(), field: field.into(), what })
    };
    for (field, &id) in
        g.bos.iter().map(|b| ("bos_token_id", b)).chain(g.eos.iter().map(|e| ("eos_token_id", e)))
    {
        if id >= vocab {
            return setting(
                field,
                format!("is {id}, expected a token of the vocabulary ({vocab})"),
            );
        }
    }
    let ranges = [
        ("temperature", g.temperature, 0.0..=1e6),
        ("top_p", g.top_p, 0.0..=1.0),
        ("min_p", g.min_p, 0.0..=1.0),
        ("repetition_penalty", g.repetition_penalty, 1e-6..=1e6),
    ];
    for (field, value, range) in ranges {
        if let Some(v) = value.filter(|v| !range.contains(v)) {
            return setting(
                field,
                format!("is {v}, expected {} to {}", range.start(), range.end()),
            );
        }
    }
    Ok(())
}
