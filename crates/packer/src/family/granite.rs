//! Granite 3: a Llama with four multipliers. The residual-stream multiplier is folded into the
//! matrices that write to the residual stream. Granite 4: most layers are Mamba-2.

use nanoinfer_format::{Recurrent, RecurrentKind, Role};

use serde_json::Value;

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::{Change, Description};
use crate::gguf::Keys;
use crate::hf::{Settings, recurrent_layers};
use crate::names::{Entry, GGUF_MAMBA2};

pub(super) const FAMILY: Family = Family {
    hugging_face: &[
        HfSpelling { model_type: "granite", adapt: hugging_face, ..HfSpelling::LLAMA },
        HfSpelling {
            model_type: "granitemoehybrid",
            d_ff: &["shared_intermediate_size"],
            own_names: HYBRID_NAMES,
            adapt: hybrid,
            ..HfSpelling::LLAMA
        },
    ],
    gguf: &[
        GgufSpelling { architecture: "granite", adapt: gguf, ..GgufSpelling::NORM },
        GgufSpelling {
            architecture: "granitehybrid",
            own_names: GGUF_MAMBA2,
            adapt: gguf_hybrid,
            ..GgufSpelling::NORM
        },
    ],
};

const HYBRID_NAMES: &[Entry] = &[
    ("mamba.in_proj", &[Role::SsmGate, Role::SsmQkv, Role::SsmAlpha]),
    ("mamba.conv1d", &[Role::SsmConv]),
    ("mamba.A_log", &[Role::SsmA]),
    ("mamba.dt_bias", &[Role::SsmDtBias]),
    ("mamba.D", &[Role::SsmD]),
    ("mamba.norm", &[Role::SsmNorm]),
    ("mamba.out_proj", &[Role::SsmOut]),
    ("shared_mlp.input_linear", &[Role::FfnGate, Role::FfnUp]),
    ("shared_mlp.output_linear", &[Role::FfnDown]),
];

fn scale_residual(d: &mut Description, factor: f64) {
    let roles = &[Role::AttnOutput, Role::SsmOut, Role::FfnDown];
    d.changes.push(Change { roles, factor: factor as f32, offset: 0.0 });
}

fn hugging_face(c: &Settings, d: &mut Description) -> Result<(), Error> {
    let multiplier = |key: &str| Ok::<_, Error>(c.positive(key)?.unwrap_or(1.0));
    d.config.attention_scale = multiplier("attention_multiplier")?;
    d.config.embedding_scale = multiplier("embedding_multiplier")?;
    d.config.logit_scale = 1.0 / multiplier("logits_scaling")?;
    scale_residual(d, multiplier("residual_multiplier")?);
    Ok(())
}

/// The hybrids without experts.
fn hybrid(c: &Settings, d: &mut Description) -> Result<(), Error> {
    hugging_face(c, d)?;
    if c.u32("num_local_experts")?.unwrap_or(8) > 0 {
        let next = "supported: num_local_experts 0";
        return Err(c.unsupported("experts beside a shared feed-forward network", next));
    }
    if c.get("time_step_limit").is_some_and(|limits| !is_unlimited(limits)) {
        return Err(c.unsupported("time_step_limit", "supported: 0 to infinity"));
    }
    if c.str("position_embedding_type")? != Some("rope") {
        d.config.layer_ropes.fill(0);
    }
    d.biases.ssm = Some(c.bool("mamba_proj_bias")?.unwrap_or(false));
    d.biases.conv = Some(c.bool("mamba_conv_bias")?.unwrap_or(true));
    let n = d.config.n_layers as usize;
    let layers = recurrent_layers(c, &["linear_attention", "mamba"])?;
    let size = |key: &str, default| Ok::<_, Error>(c.u32(key)?.unwrap_or(default));
    let heads = size("mamba_n_heads", 128)?;
    let inner = size("mamba_expand", 2)?.saturating_mul(d.config.d_model);
    if heads == 0 || !inner.is_multiple_of(heads) {
        let what = format!("is {heads}, expected a divisor of the inner width {inner}");
        return Err(c.error("mamba_n_heads", what));
    }
    let recurrent = Recurrent {
        kernel: size("mamba_d_conv", 4)?,
        key_heads: size("mamba_n_groups", 1)?,
        key_dim: size("mamba_d_state", 256)?,
        value_heads: heads,
        value_dim: inner / heads,
        layers: layers.unwrap_or_else(|| vec![true; n]),
        ..Recurrent::of(RecurrentKind::Mamba2)
    };
    d.config.recurrent = recurrent.layers.contains(&true).then_some(recurrent);
    Ok(())
}

/// Whether step sizes may be anything from 0 on. Infinity is no number in JSON.
fn is_unlimited(limits: &Value) -> bool {
    let infinite = |limit: &Value| limit.as_f64().is_none_or(|limit| limit >= f64::MAX);
    matches!(limits.as_array().map(Vec::as_slice), Some([least, most])
        if least.as_f64() == Some(0.0) && infinite(most))
}

/// `attention.scale` is already read for every architecture.
fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
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
    if let Some(width) = keys.u32("expert_shared_feed_forward_length")?.filter(|&n| n > 0) {
        d.config.d_ff = width;
    }
    d.config.recurrent = keys.mamba2(keys.recurrent_layers()?)?;
    Ok(())
}
