//! A GGUF file of the `llama` architecture, which is also what GGUF calls Mistral and Mixtral.

use std::path::Path;

use nanoinfer_format::{
    Activation, Config, Experts, Generation, Norm, NormPlace, QkNorm, Quant, Rope, RouterSoftmax,
};

use crate::Error;
use crate::gguf::Gguf;
use crate::model::{Model, check_generation};
use crate::rope::{Kind, Scaling};
use crate::source::{FileTensor, TensorSource};
use crate::text::Tokenizer;
use crate::weights::names::GGUF_LLAMA;
use crate::weights::{Biases, Weights};

/// Divisors of the RoPE frequencies; a tensor, but no weight.
const ROPE_FREQS: &str = "rope_freqs.weight";

/// Reads everything but the weights' values.
pub(crate) fn open(path: &Path) -> Result<Model, Error> {
    let mut g = Gguf::open(path)?;
    let architecture = g.str("general.architecture")?.unwrap_or("nothing").to_owned();
    if architecture != "llama" {
        let next = "supported: llama (which covers Mistral and Mixtral)".into();
        let what = format!("architecture {architecture:?}");
        return Err(Error::Unsupported { path: path.into(), what, next });
    }
    let mut config = config(&g)?;
    let mut weights = Weights::new(path, &GGUF_LLAMA);
    let mut factors = None;
    for tensor in std::mem::take(&mut g.tensors) {
        if tensor.name().1 == ROPE_FREQS {
            factors = Some(tensor);
        } else {
            weights.insert(tensor, &config)?;
        }
    }
    weights.check(&config, Biases::default())?;
    let rope = Kind { theta: config.rope_theta, scaling: scaling(&g, &config, factors.as_ref())? };
    config.ropes = vec![rope.rope()];
    let generation = generation(&g)?;
    check_generation(path, &generation, config.vocab_size)?;
    let bos = generation.bos.filter(|_| generation.add_bos);
    let tokenizer = Tokenizer::of_gguf(&g, bos, config.vocab_size)?;
    Ok(Model {
        turns: rope.turns(config.rotary_dim),
        config,
        weights,
        generation,
        tokenizer,
        chat_template: g.str("tokenizer.chat_template")?.map(str::to_owned),
        kind: "gguf",
        files: g.files,
    })
}

fn config(g: &Gguf) -> Result<Config, Error> {
    let size = |key: &str| {
        let key = format!("llama.{key}");
        g.u32(&key)?.ok_or_else(|| g.error(&key, "is missing"))
    };
    let (d_model, n_heads, n_layers) =
        (size("embedding_length")?, size("attention.head_count")?, size("block_count")?);
    let head_dim = match g.u32("llama.attention.key_length")? {
        Some(given) => given,
        None if n_heads > 0 && d_model.is_multiple_of(n_heads) => d_model / n_heads,
        None => {
            let what = format!("is {n_heads}, expected a divisor of embedding_length {d_model}");
            return Err(g.error("llama.attention.head_count", what));
        }
    };
    for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
        if let Some(other) = g.u32(key)?.filter(|&v| v != head_dim) {
            return Err(g.error(key, format!("is {other}, expected the head size {head_dim}")));
        }
    }
    let window = g.u32("llama.attention.sliding_window")?.unwrap_or(0);
    let vocab = g.tensors.iter().find(|t| t.name().1 == "token_embd.weight");
    let epsilon = "llama.attention.layer_norm_rms_epsilon";
    let scale = g.f64("llama.attention.scale")?.filter(|&s| s != 0.0);
    let config = Config {
        architecture: "llama".into(),
        quant: Quant::F32,
        n_layers,
        d_model,
        d_ff: size("feed_forward_length")?,
        n_heads,
        n_kv_heads: g.u32("llama.attention.head_count_kv")?.unwrap_or(n_heads),
        head_dim,
        vocab_size: vocab.map_or(Ok(0), |t| u32::try_from(t.shape()[0])).unwrap_or(u32::MAX),
        context_length: size("context_length")?,
        norm: Norm::Rms,
        norm_place: NormPlace::Pre,
        norm_eps: g.f64(epsilon)?.ok_or_else(|| g.error(epsilon, "is missing"))?,
        qk_norm: QkNorm::None,
        attention_scale: scale.unwrap_or_else(|| 1.0 / f64::from(head_dim).sqrt()),
        attention_softcap: 0.0,
        activation: Activation::Silu,
        gated: true,
        embedding_scale: 1.0,
        logit_scale: 1.0,
        logit_softcap: 0.0,
        rope_theta: g.f64("llama.rope.freq_base")?.unwrap_or(10000.0),
        rotary_dim: head_dim,
        ropes: vec![Rope { magnitude: 1.0, limits: Vec::new() }],
        layer_ropes: vec![1; n_layers.min(1 << 14) as usize],
        tied_embeddings: !g.tensors.iter().any(|t| t.name().1 == "output.weight"),
        value_rotation: 1,
        windows: vec![window; n_layers.min(1 << 14) as usize],
        experts: experts(g, n_layers)?,
    };
    if vocab.is_none() {
        return Err(Error::source(&g.path, "has no tensor \"token_embd.weight\""));
    }
    if !(config.rope_theta.is_finite() && config.rope_theta >= 1.0) {
        let what = format!("is {}, expected a number of at least 1", config.rope_theta);
        return Err(g.error("llama.rope.freq_base", what));
    }
    config.validate().map_err(|e| Error::source(&g.path, e.to_string()))?;
    Ok(config)
}

/// Experts of every layer, as llama.cpp runs them.
fn experts(g: &Gguf, n_layers: u32) -> Result<Option<Experts>, Error> {
    let Some(n_experts) = g.u32("llama.expert_count")?.filter(|&n| n > 0) else { return Ok(None) };
    let used = "llama.expert_used_count";
    let width = ["llama.expert_feed_forward_length", "llama.feed_forward_length"];
    let d_ff = match g.u32(width[0])? {
        None => g.u32(width[1])?,
        given => given,
    };
    Ok(Some(Experts {
        n_experts,
        experts_per_token: g.u32(used)?.ok_or_else(|| g.error(used, "is missing"))?,
        d_ff: d_ff.ok_or_else(|| g.error(width[1], "is missing"))?,
        router_softmax: RouterSoftmax::Chosen,
        layers: vec![true; n_layers.min(1 << 14) as usize],
    }))
}

fn scaling(g: &Gguf, c: &Config, factors: Option<&FileTensor>) -> Result<Scaling, Error> {
    // Linear unless stated otherwise, and 0 means 1: as llama.cpp reads it. Files from before
    // September 2023 have the older key.
    let kind = g.str("llama.rope.scaling.type")?.unwrap_or("linear");
    let stated = match g.f64("llama.rope.scaling.factor")? {
        None => g.f64("llama.rope.scale_linear")?,
        given => given,
    };
    let factor = match kind {
        "none" => 1.0,
        "linear" => stated.filter(|&f| f != 0.0).unwrap_or(1.0),
        other => {
            let next = "supported: none, linear, and the factors of rope_freqs.weight".into();
            let what = format!("RoPE scaling {other:?}");
            return Err(Error::Unsupported { path: g.path.clone(), what, next });
        }
    };
    if !(factor.is_finite() && factor > 0.0) {
        let what = format!("is {factor}, expected a positive number");
        return Err(g.error("llama.rope.scaling.factor", what));
    }
    let Some(tensor) = factors else {
        return Ok(if factor == 1.0 { Scaling::None } else { Scaling::Linear(factor) });
    };
    let half = c.head_dim as usize / 2;
    let fail =
        |what: String| Error::Tensor { path: g.path.clone(), tensor: ROPE_FREQS.into(), what };
    if tensor.shape() != [half, 1] || factor != 1.0 {
        let [n, k] = tensor.shape();
        return Err(fail(format!(
            "has shape [{n}, {k}] beside factor {factor}, expected [{half}, 1] and 1"
        )));
    }
    let mut values = vec![0.0; half];
    tensor.read_rows(0..half, &mut values)?;
    match values.iter().find(|v| !(v.is_finite() && **v >= 1e-6)) {
        Some(v) => Err(fail(format!("holds {v}, expected positive divisors"))),
        None => Ok(Scaling::Factors(values)),
    }
}

fn generation(g: &Gguf) -> Result<Generation, Error> {
    let bos = g.u32("tokenizer.ggml.bos_token_id")?;
    let mut eos = Vec::new();
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
        eos.extend(g.u32(key)?.filter(|id| !eos.contains(id)));
    }
    // Where the file does not say, llama.cpp's defaults for the kind of tokenizer hold.
    let by_kind = match g.str("tokenizer.ggml.model")? {
        Some("llama") => true,
        _ => matches!(g.str("tokenizer.ggml.pre")?, Some("llama3" | "llama-v3" | "llama-bpe")),
    };
    let add_bos = bos.is_some() && g.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(by_kind);
    Ok(Generation { bos, add_bos, eos, ..Generation::default() })
}
