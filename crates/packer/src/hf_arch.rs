//! The architectures, as Hugging Face folders have them. Each is one entry: its defaults, the names
//! of its weights, and a function that says in the fields of [`Config`](crate::Config) what is
//! particular. The engine knows none of these names.

use nanoinfer_format::{Activation, Experts, Norm, NormPlace, QkNorm, Role, RouterSoftmax};

use crate::Error;
use crate::hf_settings::{
    layer_windows, longrope, rope, rope_settings, sliding_window, unsupported,
};
use crate::json::Settings;
use crate::model::Description;
use crate::rope::{Kind, Scaling};
use crate::weights::{Biases, Change, Names, names};

/// An architecture.
pub(crate) struct Architecture {
    /// `model_type` of its `config.json`.
    pub(crate) name: &'static str,
    pub(crate) defaults: Defaults,
    /// Changes what a Llama would be.
    pub(crate) adapt: fn(&Settings, &mut Description) -> Result<(), Error>,
}

/// Values of settings that a `config.json` may leave out, and names of weights.
pub(crate) struct Defaults {
    /// None: width over heads.
    pub(crate) head_dim: Option<u32>,
    pub(crate) norm_eps: f64,
    pub(crate) rope_theta: f64,
    pub(crate) activation: Activation,
    pub(crate) tied_embeddings: bool,
    pub(crate) names: &'static Names,
}

const LLAMA: Defaults = Defaults {
    head_dim: None,
    norm_eps: 1e-6,
    rope_theta: 10000.0,
    activation: Activation::Silu,
    tied_embeddings: false,
    names: &names::HUGGING_FACE,
};

const GEMMA: Defaults = Defaults {
    head_dim: Some(256),
    activation: Activation::Gelu,
    tied_embeddings: true,
    names: &names::GEMMA,
    ..LLAMA
};

/// All there are.
pub(crate) const ALL: &[Architecture] = &[
    Architecture { name: "llama", defaults: LLAMA, adapt: |_, _| Ok(()) },
    Architecture { name: "mistral", defaults: LLAMA, adapt: mistral },
    Architecture {
        name: "mixtral",
        defaults: Defaults { norm_eps: 1e-5, rope_theta: 1e6, names: &names::MIXTRAL, ..LLAMA },
        adapt: mixtral,
    },
    Architecture { name: "qwen2", defaults: LLAMA, adapt: qwen2 },
    Architecture {
        name: "qwen3",
        defaults: Defaults { head_dim: Some(128), ..LLAMA },
        adapt: qwen3,
    },
    Architecture {
        name: "qwen3_moe",
        defaults: Defaults { names: &names::EXPERTS, ..LLAMA },
        adapt: qwen3_moe,
    },
    Architecture {
        name: "olmoe",
        defaults: Defaults { norm_eps: 1e-5, names: &names::EXPERTS, ..LLAMA },
        adapt: olmoe,
    },
    Architecture {
        name: "phi3",
        defaults: Defaults { norm_eps: 1e-5, names: &names::PHI3, ..LLAMA },
        adapt: phi3,
    },
    Architecture { name: "granite", defaults: LLAMA, adapt: granite },
    Architecture { name: "gemma2", defaults: GEMMA, adapt: gemma2 },
    Architecture { name: "gemma3_text", defaults: GEMMA, adapt: gemma3 },
    Architecture {
        name: "olmo2",
        defaults: Defaults { norm_eps: 1e-5, names: &names::OLMO2, ..LLAMA },
        adapt: olmo2,
    },
    Architecture {
        name: "smollm3",
        defaults: Defaults { rope_theta: 2e6, tied_embeddings: true, ..LLAMA },
        adapt: smollm3,
    },
    Architecture {
        name: "starcoder2",
        defaults: Defaults {
            activation: Activation::Gelu,
            tied_embeddings: true,
            names: &names::STARCODER2,
            ..LLAMA
        },
        adapt: starcoder2,
    },
    Architecture { name: "ministral", defaults: LLAMA, adapt: ministral },
    Architecture {
        name: "exaone4",
        defaults: Defaults { norm_eps: 1e-5, names: &names::OLMO2, ..LLAMA },
        adapt: exaone4,
    },
];

/// Their names, for people.
pub(crate) fn names() -> String {
    ALL.iter().map(|a| a.name).collect::<Vec<_>>().join(", ")
}

/// A window on every layer.
fn mistral(c: &Settings, d: &mut Description) -> Result<(), Error> {
    window_everywhere(c, d, 4096)
}

/// A mixture of experts on every layer.
fn mixtral(c: &Settings, d: &mut Description) -> Result<(), Error> {
    window_everywhere(c, d, 0)?;
    d.config.experts = Some(experts(c, d, "num_local_experts", [8, 2])?);
    Ok(())
}

/// Experts of every layer, as wide as `intermediate_size` says. `default` is how many they are
/// and how many a token goes to.
fn experts(
    c: &Settings,
    d: &Description,
    count: &str,
    default: [u32; 2],
) -> Result<Experts, Error> {
    Ok(Experts {
        n_experts: c.u32(count)?.unwrap_or(default[0]),
        experts_per_token: c.u32("num_experts_per_tok")?.unwrap_or(default[1]),
        d_ff: d.config.d_ff,
        router_softmax: RouterSoftmax::Chosen,
        layers: vec![true; d.config.windows.len()],
    })
}

/// Weights of the chosen experts sum to 1 where the file says so.
fn router_softmax(c: &Settings) -> Result<RouterSoftmax, Error> {
    Ok(match c.bool("norm_topk_prob")? {
        Some(true) => RouterSoftmax::Chosen,
        _ => RouterSoftmax::All,
    })
}

fn window_everywhere(c: &Settings, d: &mut Description, default: u32) -> Result<(), Error> {
    let window = sliding_window(c, default)?;
    d.config.windows.fill(window);
    Ok(())
}

/// Biases on queries, keys and values; windows from some layer on, if at all.
fn qwen2(c: &Settings, d: &mut Description) -> Result<(), Error> {
    d.biases = Biases { qkv: Some(true), output: Some(false), mlp: Some(false), norm: Some(false) };
    qwen_windows(c, d)
}

fn qwen_windows(c: &Settings, d: &mut Description) -> Result<(), Error> {
    if c.bool("use_sliding_window")? == Some(true) {
        let window = sliding_window(c, 4096)?;
        let first = c.u32("max_window_layers")?.unwrap_or(28) as usize;
        d.config.windows = layer_windows(c, window, d.config.windows.len(), |i| i >= first)?;
    }
    Ok(())
}

/// Queries and keys are normalised, head by head.
fn qwen3(c: &Settings, d: &mut Description) -> Result<(), Error> {
    d.config.qk_norm = QkNorm::Head;
    qwen_windows(c, d)
}

/// The same with experts, except on some layers.
fn qwen3_moe(c: &Settings, d: &mut Description) -> Result<(), Error> {
    qwen3(c, d)?;
    // transformers 5 renamed it in the files that it writes.
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

/// Experts on every layer; one norm over all queries, one over all keys.
fn olmoe(c: &Settings, d: &mut Description) -> Result<(), Error> {
    if let Some(clip) = c.f64("clip_qkv")? {
        return Err(unsupported(c, format!("clip_qkv {clip}"), "only models without it are"));
    }
    d.config.qk_norm = QkNorm::Full;
    let mut experts = experts(c, d, "num_experts", [64, 8])?;
    experts.router_softmax = router_softmax(c)?;
    d.config.experts = Some(experts);
    Ok(())
}

/// Fused matrices; `su` and `yarn` are early names of its `longrope`.
fn phi3(c: &Settings, d: &mut Description) -> Result<(), Error> {
    if let Some(r) = rope_settings(c, None)?
        && r.str("type")? == Some("yarn")
    {
        d.ropes[0].scaling = longrope(c, &r)?;
    }
    window_everywhere(c, d, 0)
}

/// Four multipliers. That of what is added to the residual stream is multiplied into the matrices
/// it comes out of.
fn granite(c: &Settings, d: &mut Description) -> Result<(), Error> {
    let number = |key: &str| match c.f64(key)?.unwrap_or(1.0) {
        v if v.is_finite() && v > 0.0 => Ok(v),
        v => Err(c.error(key, format!("is {v}, expected a positive number"))),
    };
    d.config.attention_scale = number("attention_multiplier")?;
    d.config.embedding_scale = number("embedding_multiplier")?;
    d.config.logit_scale = 1.0 / number("logits_scaling")?;
    let factor = number("residual_multiplier")? as f32;
    d.changes.push(Change { roles: &[Role::AttnOutput, Role::FfnDown], factor, offset: 0.0 });
    Ok(())
}

/// Norms before and after, soft caps, windows on every other layer.
fn gemma2(c: &Settings, d: &mut Description) -> Result<(), Error> {
    gemma(c, d, Some(50.0), Some(30.0))?;
    let window = sliding_window(c, 4096)?;
    d.config.windows = layer_windows(c, window, d.config.windows.len(), |i| i % 2 == 0)?;
    Ok(())
}

/// Norms before and after, and of queries and keys; windows on most layers, which have a RoPE of
/// their own.
fn gemma3(c: &Settings, d: &mut Description) -> Result<(), Error> {
    gemma(c, d, None, None)?;
    if c.bool("use_bidirectional_attention")? == Some(true) {
        let next = "only models that generate text, token after token, are";
        return Err(unsupported(c, "bidirectional attention".into(), next));
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

/// That of layers with a window: never scaled unless it is stated by itself.
fn local_rope(c: &Settings) -> Result<Kind, Error> {
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
    Ok(Kind { theta, scaling: Scaling::None })
}

/// What Gemma 2 and 3 have in common. Their norms multiply by 1 + w.
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
    let scalar = c.f64("query_pre_attn_scalar")?.unwrap_or(256.0);
    if !(scalar.is_finite() && scalar > 0.0) {
        let what = format!("is {scalar}, expected a positive number");
        return Err(c.error("query_pre_attn_scalar", what));
    }
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

/// Norms after attention and feed-forward only; one norm over all queries, one over all keys.
fn olmo2(_: &Settings, d: &mut Description) -> Result<(), Error> {
    d.config.norm_place = NormPlace::Post;
    d.config.qk_norm = QkNorm::Full;
    Ok(())
}

/// Some layers, usually every fourth, have no RoPE.
fn smollm3(c: &Settings, d: &mut Description) -> Result<(), Error> {
    let n = d.config.layer_ropes.len();
    let every = c.u32("no_rope_layer_interval")?.unwrap_or(4).max(1) as usize;
    d.config.layer_ropes = match c.ids("no_rope_layers")? {
        Some(has_rope) => has_rope.iter().map(|&has| u32::from(has != 0)).collect(),
        None => (0..n).map(|i| u32::from(!(i + 1).is_multiple_of(every))).collect(),
    };
    if c.bool("use_sliding_window")? == Some(true) {
        let window = sliding_window(c, 0)?;
        let has_rope = d.config.layer_ropes.clone();
        d.config.windows = layer_windows(c, window, n, |i| has_rope.get(i) == Some(&1))?;
    }
    Ok(())
}

/// LayerNorm, no gate, biases everywhere.
fn starcoder2(c: &Settings, d: &mut Description) -> Result<(), Error> {
    d.config.norm = Norm::Layer;
    d.config.norm_eps = c.f64("norm_epsilon")?.unwrap_or(1e-5);
    d.config.gated = false;
    let bias = Some(c.bool("use_bias")?.unwrap_or(true));
    d.biases = Biases { qkv: bias, output: bias, mlp: bias, norm: Some(true) };
    window_everywhere(c, d, 0)
}

/// Windows on the layers that `layer_types` names, else on all.
fn ministral(c: &Settings, d: &mut Description) -> Result<(), Error> {
    let window = sliding_window(c, 4096)?;
    d.config.windows = layer_windows(c, window, d.config.windows.len(), |_| true)?;
    Ok(())
}

/// Norms after attention and feed-forward only, and of queries and keys, head by head. If there is
/// a window, the layers without it, usually every fourth, have no RoPE.
fn exaone4(c: &Settings, d: &mut Description) -> Result<(), Error> {
    d.config.norm_place = NormPlace::Post;
    d.config.qk_norm = QkNorm::Head;
    let none = Some(false); // `attention_bias` means nothing here
    d.biases = Biases { qkv: none, output: none, mlp: none, norm: none };
    let window = sliding_window(c, 4096)?;
    if window > 0 {
        let every = match c.get("layer_types") {
            None => c.u32("sliding_window_pattern")?.unwrap_or(4).max(1) as usize,
            Some(_) => 4, // means nothing then, and the pattern may be a text
        };
        let slides = |i: usize| !(i + 1).is_multiple_of(every);
        d.config.windows = layer_windows(c, window, d.config.windows.len(), slides)?;
        d.config.layer_ropes = d.config.windows.iter().map(|&w| u32::from(w != 0)).collect();
    }
    Ok(())
}
