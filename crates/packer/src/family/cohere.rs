//! Cohere's Command R and R7B, and Aya: parallel blocks, LayerNorm without biases, RoPE in pairs of neighbours. Since
//! R7B, three of four layers have a window, and only these have RoPE.

use nanoinfer_format::{Norm, QkNorm};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::Description;
use crate::gguf::Keys;
use crate::hf::{Settings, layer_windows, sliding_window};
use crate::names::RopeType;

pub(super) const FAMILY: Family = Family {
    hugging_face: &[
        HfSpelling { model_type: "cohere", adapt: cohere, ..COHERE },
        HfSpelling { model_type: "cohere2", adapt: cohere2, ..COHERE },
    ],
    gguf: &[
        GgufSpelling { architecture: "command-r", adapt: gguf, ..GgufSpelling::INTERLEAVED },
        GgufSpelling { architecture: "cohere2", adapt: gguf2, ..GgufSpelling::INTERLEAVED },
    ],
};

const COHERE: HfSpelling = HfSpelling {
    norm_eps: 1e-5,
    norm_eps_key: "layer_norm_eps",
    tied_embeddings: true,
    rope_type: RopeType::Interleaved,
    ..HfSpelling::LLAMA
};

/// What both generations have.
fn parallel_blocks(d: &mut Description, logit_scale: f64) {
    d.config.norm = Norm::Layer;
    d.config.parallel = true;
    d.config.logit_scale = logit_scale;
}

fn cohere(c: &Settings, d: &mut Description) -> Result<(), Error> {
    parallel_blocks(d, c.positive("logit_scale")?.unwrap_or(0.0625));
    if c.bool("use_qk_norm")? == Some(true) {
        d.config.qk_norm = QkNorm::Layer;
    }
    // The context for which the model was trained; `max_position_embeddings` may only be that of the cache.
    if let Some(length) = c.u32("model_max_length")? {
        d.config.context_length = length;
    }
    Ok(())
}

fn cohere2(c: &Settings, d: &mut Description) -> Result<(), Error> {
    parallel_blocks(d, c.positive("logit_scale")?.unwrap_or(0.0625));
    let (window, n) = (sliding_window(c, 4096)?, d.config.windows.len());
    let every = c.u32("sliding_window_pattern")?.unwrap_or(4).max(1) as usize;
    d.config.windows = layer_windows(c, window, n, |i| !(i + 1).is_multiple_of(every))?;
    rotate_windows(d);
    Ok(())
}

/// Layers without a window have no RoPE.
fn rotate_windows(d: &mut Description) {
    d.config.layer_ropes = d.config.windows.iter().map(|&window| u32::from(window > 0)).collect();
}

fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    parallel_blocks(d, keys.positive("logit_scale")?.unwrap_or(1.0));
    if keys.has_tensor("blk.0.attn_q_norm.weight") {
        d.config.qk_norm = QkNorm::Layer;
    }
    Ok(())
}

fn gguf2(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    parallel_blocks(d, keys.positive("logit_scale")?.unwrap_or(1.0));
    d.config.windows = keys.windows(4)?;
    rotate_windows(d);
    Ok(())
}
