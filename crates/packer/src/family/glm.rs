//! GLM-4: norms before and after attention and feed-forward; RoPE turns the first half of each head, in pairs of
//! neighbours.

use nanoinfer_format::{NormPlace, Role};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::Description;
use crate::gguf::Keys;
use crate::hf::Settings;
use crate::names::RopeType;

pub(super) const FAMILY: Family = Family {
    hugging_face: &[HfSpelling {
        model_type: "glm4",
        norm_eps: 1.5625e-7,
        head_dim: Some(128),
        rotary_factor: 0.5,
        rope_type: RopeType::Interleaved,
        own_names: &[
            ("post_self_attn_layernorm", &[Role::AttnPostNorm]),
            ("post_mlp_layernorm", &[Role::FfnPostNorm]),
            ("mlp.gate_up_proj", &[Role::FfnGate, Role::FfnUp]),
        ],
        adapt: hugging_face,
        ..HfSpelling::LLAMA
    }],
    gguf: &[GgufSpelling {
        architecture: "glm4",
        own_names: &[("ffn_up", &[Role::FfnGate, Role::FfnUp])],
        adapt: gguf,
        ..GgufSpelling::INTERLEAVED
    }],
};

/// The attention output never has a bias.
fn hugging_face(_: &Settings, d: &mut Description) -> Result<(), Error> {
    d.config.norm_place = NormPlace::Both;
    d.biases.output = Some(false);
    Ok(())
}

fn gguf(_: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.norm_place = NormPlace::Both;
    Ok(())
}
