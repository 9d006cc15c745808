//! Gemma 2 and 3 (text): norms before and after attention and feed-forward, scaled embeddings, soft
//! caps, and windows on most layers.

use nanoinfer_format::{Activation, NormPlace, QkNorm, Role};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::{Change, Description};
use crate::gguf::Keys;
use crate::hf::{Settings, layer_windows, rope, rope_settings, sliding_window};
use crate::rope::{RopeSpec, Scaling};

pub(super) const FAMILY: Family = Family {
    hugging_face: &[
        HfSpelling { model_type: "gemma2", adapt: gemma2, ..GEMMA },
        HfSpelling {
            model_type: "gemma3_text",
            wrapper: Some("gemma3"),
            // The models with images state only what differs from these.
            sizes: &[
                ("vocab_size", 262_208),
                ("num_attention_heads", 8),
                ("num_key_value_heads", 4),
                ("max_position_embeddings", 131_072),
            ],
            adapt: gemma3,
            ..GEMMA
        },
    ],
    gguf: &[
        GgufSpelling { architecture: "gemma2", adapt: gguf_gemma2, ..GgufSpelling::NEOX },
        GgufSpelling { architecture: "gemma3", adapt: gguf_gemma3, ..GgufSpelling::NEOX },
    ],
};

const GEMMA: HfSpelling = HfSpelling {
    head_dim: Some(256),
    activation: Activation::Gelu,
    tied_embeddings: true,
    own_names: &[
        ("post_attention_layernorm", &[Role::AttnPostNorm]),
        ("pre_feedforward_layernorm", &[Role::FfnNorm]),
        ("post_feedforward_layernorm", &[Role::FfnPostNorm]),
    ],
    ..HfSpelling::LLAMA
};

/// Settings common to both generations. Their norms multiply by 1 + w, so the 1 is added while
/// packing.
fn gemma(
    c: &Settings,
    d: &mut Description,
    attention_softcap: Option<f64>,
    logit_softcap: Option<f64>,
) -> Result<(), Error> {
    let cap = |key: &str, default: Option<f64>| -> Result<f64, Error> {
        let stated = if c.has(key) { c.f64(key)? } else { default };
        Ok(stated.unwrap_or(0.0))
    };
    let scalar = c.positive("query_pre_attn_scalar")?.unwrap_or(256.0);
    let config = &mut d.config;
    config.norm_place = NormPlace::Both;
    config.attention_scale = 1.0 / scalar.sqrt();
    config.attention_softcap = cap("attn_logit_softcapping", attention_softcap)?;
    config.logit_softcap = cap("final_logit_softcapping", logit_softcap)?;
    config.embedding_scale = f64::from(config.d_model).sqrt();
    let roles = &[
        Role::AttnNorm,
        Role::AttnPostNorm,
        Role::AttnQNorm,
        Role::AttnKNorm,
        Role::FfnNorm,
        Role::FfnPostNorm,
        Role::OutputNorm,
    ];
    d.changes.push(Change { roles, factor: 1.0, offset: 1.0 });
    Ok(())
}

/// Soft caps, and windows on every other layer.
fn gemma2(c: &Settings, d: &mut Description) -> Result<(), Error> {
    gemma(c, d, Some(50.0), Some(30.0))?;
    let window = sliding_window(c, 4096)?;
    d.config.windows = layer_windows(c, window, d.config.windows.len(), |i| i % 2 == 0)?;
    Ok(())
}

/// Queries and keys are normalized; layers with a window have their own RoPE.
fn gemma3(c: &Settings, d: &mut Description) -> Result<(), Error> {
    gemma(c, d, None, None)?;
    if c.bool("use_bidirectional_attention")? == Some(true) {
        let next = "only models that generate text token by token are";
        return Err(c.unsupported("bidirectional attention", next));
    }
    d.config.qk_norm = QkNorm::Head;
    let (window, n) = (sliding_window(c, 4096)?, d.config.windows.len());
    let every = c.u32("sliding_window_pattern")?.unwrap_or(6).max(1) as usize;
    d.config.windows = layer_windows(c, window, n, |i| !(i + 1).is_multiple_of(every))?;
    let global = rope_settings(c, Some("full_attention"))?;
    d.ropes = vec![rope(c, global.as_ref(), 1e6)?, local_rope(c)?];
    d.config.rope_theta = d.ropes[0].theta;
    d.config.layer_ropes = d.config.windows.iter().map(|&w| if w == 0 { 1 } else { 2 }).collect();
    Ok(())
}

/// The RoPE of layers with a window, scaled only if its own settings specify scaling.
fn local_rope(c: &Settings) -> Result<RopeSpec, Error> {
    let by_type = c.object("rope_parameters")?.filter(|r| r.has("sliding_attention"));
    let own = by_type.map(|r| r.object("sliding_attention")).transpose()?.flatten();
    if own.is_some() {
        return rope(c, own.as_ref(), 1e4);
    }
    let theta = c.f64("rope_local_base_freq")?.unwrap_or(1e4);
    if !(theta.is_finite() && theta > 1.0) {
        let what = format!("is {theta}, expected a number above 1");
        return Err(c.error("rope_local_base_freq", what));
    }
    Ok(RopeSpec { theta, scaling: Scaling::None })
}

/// Settings common to both generations; the converter has already added 1 to the norms. The
/// attention scale depends on the head size, except in the model with `largest` layers, which uses
/// width / heads.
fn gguf_gemma(keys: &Keys<'_>, d: &mut Description, largest: u32) -> Result<(), Error> {
    let c = &mut d.config;
    c.norm_place = NormPlace::Both;
    c.activation = Activation::Gelu;
    c.embedding_scale = f64::from(c.d_model).sqrt();
    c.attention_softcap = keys.positive("attn_logit_softcapping")?.unwrap_or(0.0);
    c.logit_softcap = keys.positive("final_logit_softcapping")?.unwrap_or(0.0);
    if c.n_layers == largest {
        c.attention_scale = 1.0 / (f64::from(c.d_model) / f64::from(c.n_heads)).sqrt();
    }
    Ok(())
}

fn gguf_gemma2(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    gguf_gemma(keys, d, 46)?;
    let window = keys.u32("attention.sliding_window")?.unwrap_or(4096);
    let of = |i| if i % 2 == 0 { window } else { 0 };
    d.config.windows = (0..d.config.windows.len()).map(of).collect();
    Ok(())
}

fn gguf_gemma3(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    gguf_gemma(keys, d, 62)?;
    d.config.qk_norm = QkNorm::Head;
    let window = keys.window()?;
    let every = keys.u32("attention.sliding_window_pattern")?.unwrap_or(6).max(1) as usize;
    let slides = |i: usize| window > 0 && !(i + 1).is_multiple_of(every);
    let n = d.config.windows.len();
    d.config.windows = (0..n).map(|i| if slides(i) { window } else { 0 }).collect();
    d.config.layer_ropes = (0..n).map(|i| if slides(i) { 2 } else { 1 }).collect();
    let theta = keys.positive("rope.freq_base_swa")?.unwrap_or(1e4);
    if theta <= 1.0 {
        let what = format!("is {theta}, expected a number above 1");
        return Err(keys.error("rope.freq_base_swa", &what));
    }
    d.ropes.push(RopeSpec { theta, scaling: Scaling::None });
    Ok(())
}
