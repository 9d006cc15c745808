//! Granite 3: a Llama with four multipliers. The residual-stream multiplier is folded into the
//! matrices that write to the residual stream. Granite 4: most layers are Mamba-2, and there may be experts beside
//! the feed-forward network.

use nanoinfer_format::{Role, RouterSoftmax, SharedExpert};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::{Change, Description};
use crate::gguf::Keys;
use crate::hf::{Mamba2Sizes, Settings, experts, recurrent_layers, refuse_step_limit};
use crate::names::Entry;

pub(super) const FAMILY: Family = Family {
    hugging_face: &[
        HfSpelling { model_type: "granite", adapt: multipliers, ..HfSpelling::LLAMA },
        HfSpelling {
            model_type: "granitemoehybrid",
            d_ff: &["shared_intermediate_size"],
            own_names: EXPERTS,
            adapt: hybrid,
            ..HfSpelling::LLAMA
        },
    ],
    gguf: &[
        GgufSpelling { architecture: "granite", adapt: gguf, ..GgufSpelling::NORM },
        GgufSpelling { architecture: "granitehybrid", adapt: gguf_hybrid, ..GgufSpelling::NORM },
    ],
};

/// The names of experts, and of the network beside them.
pub(super) const EXPERTS: &[Entry] = &[
    ("shared_mlp.input_linear", &[Role::FfnGate, Role::FfnUp]),
    ("shared_mlp.output_linear", &[Role::FfnDown]),
    ("block_sparse_moe.router.layer", &[Role::FfnRouter]),
    ("block_sparse_moe.input_linear", &[Role::FfnGateExperts, Role::FfnUpExperts]),
    ("block_sparse_moe.output_linear", &[Role::FfnDownExperts]),
];

fn scale_residual(d: &mut Description, factor: f64) {
    let roles = &[Role::AttnOutput, Role::SsmOut, Role::FfnDown, Role::FfnDownExperts];
    d.changes.push(Change { roles, factor: factor as f32, offset: 0.0 });
}

pub(super) fn multipliers(c: &Settings, d: &mut Description) -> Result<(), Error> {
    let multiplier = |key: &str| Ok::<_, Error>(c.positive(key)?.unwrap_or(1.0));
    d.config.attention_scale = multiplier("attention_multiplier")?;
    d.config.embedding_scale = multiplier("embedding_multiplier")?;
    d.config.logit_scale = 1.0 / multiplier("logits_scaling")?;
    scale_residual(d, multiplier("residual_multiplier")?);
    Ok(())
}

fn hybrid(c: &Settings, d: &mut Description) -> Result<(), Error> {
    multipliers(c, d)?;
    refuse_step_limit(c)?;
    let mut e = experts(c, d, "num_local_experts", [8, 2])?;
    if e.n_experts > 0 {
        e.d_ff = c.u32("intermediate_size")?.unwrap_or(11008);
        e.shared = Some(SharedExpert { d_ff: d.config.d_ff, gate: false });
        d.config.experts = Some(e);
    }
    if c.str("position_embedding_type")? != Some("rope") {
        d.config.layer_ropes.fill(0);
    }
    d.biases.ssm = Some(c.bool("mamba_proj_bias")?.unwrap_or(false));
    d.biases.conv = Some(c.bool("mamba_conv_bias")?.unwrap_or(true));
    let n = d.config.n_layers as usize;
    let layers = recurrent_layers(c, &["linear_attention", "mamba"])?;
    let inner = c.u32("mamba_expand")?.unwrap_or(2).saturating_mul(d.config.d_model);
    let layers = layers.unwrap_or_else(|| vec![true; n]);
    d.config.recurrent = Mamba2Sizes::USUAL.read(c, inner, layers)?;
    Ok(())
}

/// `attention.scale` is already read for every architecture.
pub(super) fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    let multiplier = |key: &str| Ok::<_, Error>(keys.positive(key)?.unwrap_or(1.0));
    d.config.embedding_scale = multiplier("embedding_scale")?;
    d.config.logit_scale = 1.0 / multiplier("logit_scale")?;
    scale_residual(d, multiplier("residual_scale")?);
    // llama.cpp uses this key as a switch for RoPE.
    if keys.bool("rope.scaling.finetuned")? == Some(false) {
        d.config.layer_ropes.fill(0);
    }
    Ok(())
}

fn gguf_hybrid(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    gguf(keys, d)?;
    d.config.recurrent = keys.mamba2(keys.recurrent_layers()?)?;
    d.config.experts = keys.experts(d.config.n_layers, RouterSoftmax::Chosen)?;
    if let Some(width) = keys.u32("expert_shared_feed_forward_length")?.filter(|&n| n > 0) {
        d.config.d_ff = width;
        if let Some(e) = &mut d.config.experts {
            e.shared = Some(SharedExpert { d_ff: width, gate: false });
        }
    }
    Ok(())
}
