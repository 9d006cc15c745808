//! EXAONE 4: norms after attention and feed-forward only, and queries and keys normalized per head.
//! In models with sliding windows, the layers without a window (usually every fourth) have no RoPE.

use nanoinfer_format::{NormPlace, QkNorm};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::{Biases, Description};
use crate::gguf::Keys;
use crate::hf::{Settings, layer_windows, sliding_window};
use crate::names::HF_POST_NORMS;

pub(super) const FAMILY: Family = Family {
    hugging_face: &[HfSpelling {
        model_type: "exaone4",
        norm_eps: 1e-5,
        own_names: HF_POST_NORMS,
        adapt: hugging_face,
        ..HfSpelling::LLAMA
    }],
    gguf: &[GgufSpelling { architecture: "exaone4", adapt: gguf, ..GgufSpelling::NEOX }],
};

fn norms(d: &mut Description) {
    d.config.norm_place = NormPlace::Post;
    d.config.qk_norm = QkNorm::Head;
}

fn set_windows(d: &mut Description, windows: Vec<u32>) {
    d.config.layer_ropes = windows.iter().map(|&w| u32::from(w != 0)).collect();
    d.config.windows = windows;
}

fn hugging_face(c: &Settings, d: &mut Description) -> Result<(), Error> {
    norms(d);
    let none = Some(false); // transformers ignores `attention_bias` here
    d.biases = Biases { qkv: none, output: none, mlp: none, norm: none, ..d.biases };
    let window = sliding_window(c, 4096)?;
    if window > 0 {
        let every = match c.get("layer_types") {
            None => c.u32("sliding_window_pattern")?.unwrap_or(4).max(1) as usize,
            Some(_) => 4, // unused; the pattern may then be a string
        };
        let slides = |i: usize| !(i + 1).is_multiple_of(every);
        let windows = layer_windows(c, window, d.config.windows.len(), slides)?;
        set_windows(d, windows);
    }
    Ok(())
}

/// The only model with windows (64 layers) may omit the key.
fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    norms(d);
    let default = if d.config.n_layers == 64 { 4096 } else { 0 };
    let window = keys.u32("attention.sliding_window")?.unwrap_or(default);
    if window > 0 {
        let of = |slides: bool| if slides { window } else { 0 };
        let windows = match keys.ints("attention.sliding_window_pattern")? {
            Some(slides) => slides.iter().map(|&slides| of(slides != 0)).collect(),
            None => (0..d.config.windows.len()).map(|i| of(!(i + 1).is_multiple_of(4))).collect(),
        };
        set_windows(d, windows);
    }
    Ok(())
}
