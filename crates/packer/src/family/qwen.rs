//! Qwen2, Qwen3 and Qwen3-MoE.

use nanoinfer_format::{QkNorm, RouterSoftmax};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::{Biases, Description};
use crate::gguf::Keys;
use crate::hf::{Settings, experts, layer_windows, router_softmax, sliding_window};
use crate::names::HF_EXPERTS;

pub(super) const FAMILY: Family = Family {
    hugging_face: &[
        HfSpelling { model_type: "qwen2", adapt: qwen2, ..HfSpelling::LLAMA },
        HfSpelling { model_type: "qwen3", head_dim: Some(128), adapt: qwen3, ..HfSpelling::LLAMA },
        HfSpelling {
            model_type: "qwen3_moe",
            own_names: HF_EXPERTS,
            adapt: qwen3_moe,
            ..HfSpelling::LLAMA
        },
    ],
    gguf: &[
        GgufSpelling { architecture: "qwen2", ..GgufSpelling::NEOX },
        GgufSpelling { architecture: "qwen3", adapt: gguf_qwen3, ..GgufSpelling::NEOX },
        GgufSpelling { architecture: "qwen3moe", adapt: gguf_qwen3moe, ..GgufSpelling::NEOX },
    ],
};

/// Biases on queries, keys and values.
fn qwen2(c: &Settings, d: &mut Description) -> Result<(), Error> {
    d.biases = Biases { qkv: Some(true), output: Some(false), mlp: Some(false), ..d.biases };
    windows(c, d)
}

/// Windows, if any, start at layer `max_window_layers`.
fn windows(c: &Settings, d: &mut Description) -> Result<(), Error> {
    if c.bool("use_sliding_window")? == Some(true) {
        let window = sliding_window(c, 4096)?;
        let first = c.u32("max_window_layers")?.unwrap_or(28) as usize;
        d.config.windows = layer_windows(c, window, d.config.windows.len(), |i| i >= first)?;
    }
    Ok(())
}

/// Queries and keys are normalized per head.
fn qwen3(c: &Settings, d: &mut Description) -> Result<(), Error> {
    d.config.qk_norm = QkNorm::Head;
    windows(c, d)
}

/// A mixture of experts, except on some layers.
fn qwen3_moe(c: &Settings, d: &mut Description) -> Result<(), Error> {
    qwen3(c, d)?;
    // transformers 5 writes this setting under another name.
    let count = if c.has("num_experts") { "num_experts" } else { "num_local_experts" };
    let mut experts = experts(c, d, count, [128, 8])?;
    experts.d_ff = c.u32("moe_intermediate_size")?.unwrap_or(768);
    experts.router_softmax = router_softmax(c)?;
    let dense = c.ids("mlp_only_layers")?.unwrap_or_default();
    let step = c.u32("decoder_sparse_step")?.unwrap_or(1).max(1);
    for (layer, sparse) in (0..).zip(&mut experts.layers) {
        *sparse = !dense.contains(&layer) && (layer + 1).is_multiple_of(step);
    }
    d.config.experts = Some(experts).filter(|e| e.layers.contains(&true));
    Ok(())
}

fn gguf_qwen3(_: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.qk_norm = QkNorm::Head;
    Ok(())
}

fn gguf_qwen3moe(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.experts = keys.experts(d.config.n_layers, RouterSoftmax::Chosen)?;
    gguf_qwen3(keys, d)
}
