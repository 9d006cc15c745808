//! Seed-OSS: a Llama with biases on queries, keys and values, and a head size of its own.

use nanoinfer_format::Role;

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::{Biases, Description};
use crate::hf::Settings;

pub(super) const FAMILY: Family = Family {
    hugging_face: &[HfSpelling {
        model_type: "seed_oss",
        head_dim: Some(128),
        adapt: hugging_face,
        ..HfSpelling::LLAMA
    }],
    gguf: &[GgufSpelling {
        architecture: "seed_oss",
        // The norm before the feed-forward part, named as in Hugging Face.
        own_names: &[("post_attention_norm", &[Role::FfnNorm])],
        ..GgufSpelling::NEOX
    }],
};

/// The bias of the output projection has its own setting.
fn hugging_face(c: &Settings, d: &mut Description) -> Result<(), Error> {
    d.biases = Biases {
        qkv: Some(c.bool("attention_bias")?.unwrap_or(true)),
        output: Some(c.bool("attention_out_bias")?.unwrap_or(false)),
        mlp: Some(c.bool("mlp_bias")?.unwrap_or(false)),
        ..d.biases
    };
    Ok(())
}
