//! The architectures, as GGUF files have them: one entry each, as in `hf_arch.rs`. What a file does
//! not state is what llama.cpp takes for it.

use nanoinfer_format::{Activation, Experts, Norm, NormPlace, QkNorm, Role, RouterSoftmax};

use crate::Error;
use crate::gguf::Keys;
use crate::model::Description;
use crate::rope::{Kind, Scaling};
use crate::weights::{Biases, Change, Names, names};

/// An architecture.
pub(crate) struct Architecture {
    /// `general.architecture`, and the prefix of its keys.
    pub(crate) name: &'static str,
    pub(crate) names: &'static Names,
    /// Changes what a Llama would be.
    pub(crate) adapt: fn(&Keys<'_>, &mut Description) -> Result<(), Error>,
}

/// All there are.
pub(crate) const ALL: &[Architecture] = &[
    Architecture { name: "llama", names: &names::GGUF_LLAMA, adapt: llama },
    Architecture { name: "qwen2", names: &names::GGUF, adapt: |_, _| Ok(()) },
    Architecture { name: "qwen3", names: &names::GGUF, adapt: qwen3 },
    Architecture { name: "qwen3moe", names: &names::GGUF, adapt: qwen3moe },
    Architecture { name: "olmoe", names: &names::GGUF, adapt: olmoe },
    Architecture { name: "phi3", names: &names::GGUF_PHI3, adapt: window_everywhere },
    Architecture { name: "granite", names: &names::GGUF_LLAMA, adapt: granite },
    Architecture { name: "gemma2", names: &names::GGUF, adapt: gemma2 },
    Architecture { name: "gemma3", names: &names::GGUF, adapt: gemma3 },
    Architecture { name: "olmo2", names: &names::GGUF, adapt: olmo2 },
    Architecture { name: "smollm3", names: &names::GGUF_LLAMA, adapt: smollm3 },
    Architecture { name: "starcoder2", names: &names::GGUF, adapt: starcoder2 },
    Architecture { name: "exaone4", names: &names::GGUF, adapt: exaone4 },
];

/// Their names, for people.
pub(crate) fn names() -> String {
    ALL.iter().map(|a| a.name).collect::<Vec<_>>().join(", ")
}

fn window(keys: &Keys<'_>) -> Result<u32, Error> {
    Ok(keys.u32("attention.sliding_window")?.unwrap_or(0))
}

fn window_everywhere(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.windows.fill(window(keys)?);
    Ok(())
}

/// What GGUF calls Mistral and Mixtral too.
fn llama(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.experts = experts(keys, d.config.n_layers, RouterSoftmax::Chosen)?;
    window_everywhere(keys, d)
}

/// Experts of every layer. What the softmax is over, llama.cpp knows and the file does not say.
fn experts(
    keys: &Keys<'_>,
    n_layers: u32,
    router_softmax: RouterSoftmax,
) -> Result<Option<Experts>, Error> {
    let Some(n_experts) = keys.u32("expert_count")?.filter(|&n| n > 0) else { return Ok(None) };
    let d_ff = match keys.u32("expert_feed_forward_length")? {
        None => keys.size("feed_forward_length")?,
        Some(given) => given,
    };
    Ok(Some(Experts {
        n_experts,
        experts_per_token: keys.size("expert_used_count")?,
        d_ff,
        router_softmax,
        layers: vec![true; n_layers.min(1 << 14) as usize],
    }))
}

fn qwen3(_: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.qk_norm = QkNorm::Head;
    Ok(())
}

fn qwen3moe(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.experts = experts(keys, d.config.n_layers, RouterSoftmax::Chosen)?;
    qwen3(keys, d)
}

fn olmoe(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.experts = experts(keys, d.config.n_layers, RouterSoftmax::All)?;
    d.config.qk_norm = QkNorm::Full;
    Ok(())
}

/// The scales are keys, logits are divided by theirs.
fn granite(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.embedding_scale = keys.positive("embedding_scale")?.unwrap_or(1.0);
    d.config.logit_scale = 1.0 / keys.positive("logit_scale")?.unwrap_or(1.0);
    let factor = keys.positive("residual_scale")?.unwrap_or(1.0) as f32;
    d.changes.push(Change { roles: &[Role::AttnOutput, Role::FfnDown], factor, offset: 0.0 });
    Ok(())
}

/// What Gemma 2 and 3 have in common; the norms' weights have the 1 added already. Heads are
/// scaled by their size, but by width over heads in the model of `largest` layers.
fn gemma(keys: &Keys<'_>, d: &mut Description, largest: u32) -> Result<(), Error> {
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

fn gemma2(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    gemma(keys, d, 46)?;
    let window = keys.u32("attention.sliding_window")?.unwrap_or(4096);
    let of = |i| if i % 2 == 0 { window } else { 0 };
    d.config.windows = (0..d.config.windows.len()).map(of).collect();
    Ok(())
}

fn gemma3(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    gemma(keys, d, 62)?;
    d.config.qk_norm = QkNorm::Head;
    let window = window(keys)?;
    let every = keys.u32("attention.sliding_window_pattern")?.unwrap_or(6).max(1) as usize;
    let slides = |i: usize| window > 0 && !(i + 1).is_multiple_of(every);
    let n = d.config.windows.len();
    d.config.windows = (0..n).map(|i| if slides(i) { window } else { 0 }).collect();
    d.config.layer_ropes = (0..n).map(|i| if slides(i) { 2 } else { 1 }).collect();
    let theta = keys.positive("rope.freq_base_swa")?.unwrap_or(1e4);
    if theta <= 1.0 {
        return Err(keys.error("rope.freq_base_swa", "is not above 1"));
    }
    d.ropes.push(Kind { theta, scaling: Scaling::None });
    Ok(())
}

fn olmo2(_: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.norm_place = NormPlace::Post;
    d.config.qk_norm = QkNorm::Full;
    Ok(())
}

/// Every fourth layer has no RoPE.
fn smollm3(_: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    let has_rope = |i: usize| u32::from(!(i + 1).is_multiple_of(4));
    d.config.layer_ropes = (0..d.config.layer_ropes.len()).map(has_rope).collect();
    Ok(())
}

fn starcoder2(_: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.norm = Norm::Layer;
    d.config.activation = Activation::Gelu;
    d.config.gated = false;
    d.biases = Biases { norm: Some(true), ..Biases::default() };
    Ok(())
}

/// If there is a window, which one model has that may not state it, the layers without it have no
/// RoPE: those that the file names, else every fourth.
fn exaone4(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    let c = &mut d.config;
    c.norm_place = NormPlace::Post;
    c.qk_norm = QkNorm::Head;
    let of_largest = if c.n_layers == 64 { 4096 } else { 0 };
    let window = keys.u32("attention.sliding_window")?.unwrap_or(of_largest);
    if window > 0 {
        let of = |slides: bool| if slides { window } else { 0 };
        let stated = keys.g.ints(&keys.name("attention.sliding_window_pattern"))?;
        c.windows = match stated {
            Some(slides) => slides.iter().map(|&slides| of(slides != 0)).collect(),
            None => (0..c.windows.len()).map(|i| of(!(i + 1).is_multiple_of(4))).collect(),
        };
        c.layer_ropes = c.windows.iter().map(|&w| u32::from(w != 0)).collect();
    }
    Ok(())
}
