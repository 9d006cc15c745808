//! SmolLM3: some layers, usually every fourth, have no RoPE.

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::Description;
use crate::gguf::Keys;
use crate::hf::{Settings, layer_windows, sliding_window};

pub(super) const FAMILY: Family = Family {
    hugging_face: &[HfSpelling {
        model_type: "smollm3",
        rope_theta: 2e6,
        tied_embeddings: true,
        adapt: hugging_face,
        ..HfSpelling::LLAMA
    }],
    gguf: &[GgufSpelling { architecture: "smollm3", adapt: gguf, ..GgufSpelling::NORM }],
};

fn rope_except_every(interval: usize, n_layers: usize) -> Vec<u32> {
    (0..n_layers).map(|i| u32::from(!(i + 1).is_multiple_of(interval))).collect()
}

fn hugging_face(c: &Settings, d: &mut Description) -> Result<(), Error> {
    let n = d.config.layer_ropes.len();
    let interval = c.u32("no_rope_layer_interval")?.unwrap_or(4).max(1) as usize;
    d.config.layer_ropes = match c.ids("no_rope_layers")? {
        // Despite its name, it contains 1 for layers with RoPE.
        Some(has_rope) => has_rope.iter().map(|&has| u32::from(has != 0)).collect(),
        None => rope_except_every(interval, n),
    };
    if c.bool("use_sliding_window")? == Some(true) {
        let window = sliding_window(c, 0)?;
        let has_rope = d.config.layer_ropes.clone();
        d.config.windows = layer_windows(c, window, n, |i| has_rope.get(i) == Some(&1))?;
    }
    Ok(())
}

/// GGUF has no key for the interval; llama.cpp assumes 4.
fn gguf(_: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.layer_ropes = rope_except_every(4, d.config.layer_ropes.len());
    Ok(())
}
