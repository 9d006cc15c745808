//! The contents of a family's file: how each kind of source spells its architectures.

use nanoinfer_format::Activation;

use crate::Error;
use crate::description::Description;
use crate::gguf::Keys;
use crate::hf::Settings;
use crate::names::{Entry, Names, RopeType};

/// Related architectures, in every spelling.
pub(crate) struct Family {
    pub(crate) hugging_face: &'static [HfSpelling],
    /// Empty if llama.cpp has no separate names for them.
    pub(crate) gguf: &'static [GgufSpelling],
}

/// An architecture as `config.json` and safetensors spell it. The defaults are those of
/// transformers (`configuration_….py`) for settings that `config.json` omits.
pub(crate) struct HfSpelling {
    /// `model_type` in `config.json`.
    pub(crate) model_type: &'static str,
    /// `model_type` of models whose text part this is, unless it names another one: its settings are in their
    /// `text_config`, and its weights in `model.language_model` or `language_model`.
    pub(crate) wrapper: Option<&'static str>,
    /// What precedes the number of a layer in the names of its tensors.
    pub(crate) layer_prefix: &'static str,
    pub(crate) rope_type: RopeType,
    /// The part of each head that RoPE turns, unless `config.json` states another one.
    pub(crate) rotary_factor: f64,
    /// Sizes that `config.json` may omit.
    pub(crate) sizes: &'static [(&'static str, u32)],
    /// `None`: `hidden_size / num_attention_heads`.
    pub(crate) head_dim: Option<u32>,
    pub(crate) norm_eps: f64,
    /// The setting with the ε of norms.
    pub(crate) norm_eps_key: &'static str,
    /// The settings with the hidden width of the feed-forward network, of which the first stated one counts.
    pub(crate) d_ff: &'static [&'static str],
    pub(crate) rope_theta: f64,
    pub(crate) activation: Activation,
    pub(crate) tied_embeddings: bool,
    /// Tensor names that differ from Llama's.
    pub(crate) own_names: &'static [Entry],
    /// Turns the description of a Llama with these settings into that of the model.
    pub(crate) adapt: fn(&Settings, &mut Description) -> Result<(), Error>,
}

impl HfSpelling {
    /// A Llama, to be completed with `..HfSpelling::LLAMA`.
    pub(crate) const LLAMA: Self = Self {
        model_type: "llama",
        wrapper: None,
        layer_prefix: "model.layers.",
        rope_type: RopeType::Neox,
        rotary_factor: 1.0,
        sizes: &[],
        head_dim: None,
        norm_eps: 1e-6,
        norm_eps_key: "rms_norm_eps",
        d_ff: &["intermediate_size"],
        rope_theta: 10000.0,
        activation: Activation::Silu,
        tied_embeddings: false,
        own_names: &[],
        adapt: |_, _| Ok(()),
    };

    pub(crate) fn names(&self) -> Names {
        let names = Names::hugging_face(self.own_names).in_layers(self.layer_prefix);
        names.with_rope_type(self.rope_type)
    }
}

/// An architecture as GGUF files spell it. For settings that a file omits, llama.cpp's assumptions
/// apply.
pub(crate) struct GgufSpelling {
    /// `general.architecture`, and the prefix of the architecture's keys.
    pub(crate) architecture: &'static str,
    pub(crate) rope_type: RopeType,
    /// Whether the converter sorts the delta rule's heads of values by their number within a key.
    pub(crate) tiled_heads: bool,
    /// Whether sizes may differ between layers; those read by all architectures are then the largest.
    pub(crate) uneven: bool,
    /// Tensor names that differ from the usual ones (`GGUF_LAYER` in `names.rs`).
    pub(crate) own_names: &'static [Entry],
    /// Turns the description of a Llama with these keys into that of the model.
    pub(crate) adapt: fn(&Keys<'_>, &mut Description) -> Result<(), Error>,
}

impl GgufSpelling {
    /// The usual names with Q and K in Hugging Face's order, to be completed with
    /// `..GgufSpelling::NEOX`.
    pub(crate) const NEOX: Self = Self {
        architecture: "",
        rope_type: RopeType::Neox,
        tiled_heads: false,
        uneven: false,
        own_names: &[],
        adapt: |_, _| Ok(()),
    };

    /// The usual names with Q and K permuted, to be completed with `..GgufSpelling::NORM`.
    pub(crate) const NORM: Self = Self { rope_type: RopeType::Norm, ..Self::NEOX };

    /// The usual names with Q and K in Hugging Face's order, in which RoPE pairs neighbouring rows, to be completed
    /// with `..GgufSpelling::INTERLEAVED`.
    pub(crate) const INTERLEAVED: Self = Self { rope_type: RopeType::Interleaved, ..Self::NEOX };

    pub(crate) fn names(&self) -> Names {
        Names::gguf(self.rope_type, self.own_names).with_tiled_heads(self.tiled_heads)
    }
}
