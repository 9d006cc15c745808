//! ERNIE 4.5, whose RoPE pairs neighbouring rows, and its mixtures of experts, which a bias of their softmax
//! chooses.

use nanoinfer_format::{RouterSoftmax, SharedExpert};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::{Biases, DRAFT_LAYERS, Description};
use crate::gguf::Keys;
use crate::hf::{Settings, experts};
use crate::names::{DEEPSEEK_EXPERTS, RopeType};

pub(super) const FAMILY: Family = Family {
    hugging_face: &[
        HfSpelling { model_type: "ernie4_5", head_dim: Some(128), ..HF },
        HfSpelling { model_type: "ernie4_5_moe", own_names: DEEPSEEK_EXPERTS, adapt: sparse, ..HF },
    ],
    gguf: &[
        GgufSpelling { architecture: "ernie4_5", ..GgufSpelling::INTERLEAVED },
        GgufSpelling { architecture: "ernie4_5-moe", adapt: gguf, ..GgufSpelling::INTERLEAVED },
    ],
};

const HF: HfSpelling = HfSpelling {
    model_type: "ernie4_5",
    norm_eps: 1e-5,
    rope_theta: 500_000.0,
    tied_embeddings: true,
    adapt: hugging_face,
    ..HfSpelling::LLAMA
};

fn hugging_face(c: &Settings, d: &mut Description) -> Result<(), Error> {
    let all = Some(c.bool("use_bias")?.unwrap_or(false));
    d.biases = Biases { qkv: all, output: all, mlp: all, ..d.biases };
    d.names.rope_type = RopeType::Interleaved;
    Ok(())
}

/// Experts beside shared ones, which are one wider network, from a first layer on.
fn sparse(c: &Settings, d: &mut Description) -> Result<(), Error> {
    hugging_face(c, d)?;
    let mut e = experts(c, d, "moe_num_experts", [64, 6])?;
    e.experts_per_token = c.u32("moe_k")?.unwrap_or(e.experts_per_token);
    e.d_ff = c.u32("moe_intermediate_size")?.unwrap_or(1536);
    e.router_bias = true;
    e.shared = SharedExpert::of(c.u32("moe_num_shared_experts")?.unwrap_or(2), e.d_ff);
    let (first, last) =
        (c.u32("moe_layer_start_index")?.unwrap_or(1), c.f64("moe_layer_end_index")?);
    let last = last.filter(|&last| last >= 0.0).unwrap_or(f64::INFINITY);
    let step = c.u32("moe_layer_interval")?.unwrap_or(1).max(1);
    for (layer, sparse) in (0u32..).zip(&mut e.layers) {
        *sparse = (layer + 1).is_multiple_of(step) && layer >= first && f64::from(layer) <= last;
    }
    d.config.experts = Some(e).filter(|e| e.layers.contains(&true));
    if c.u32("num_nextn_predict_layers")?.unwrap_or(0) > 0 {
        d.left_out.push(DRAFT_LAYERS);
    }
    Ok(())
}

fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.experts = keys.experts(d.config.n_layers, RouterSoftmax::Chosen)?;
    let Some(e) = &mut d.config.experts else { return Ok(()) };
    e.router_bias = true;
    let width = keys.u32("expert_shared_feed_forward_length")?;
    e.shared = width.and_then(|width| SharedExpert::of(1, width));
    Ok(())
}
