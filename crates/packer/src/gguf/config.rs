//! Converts a GGUF file to a [`Model`]: everything that all architectures share. Everything
//! specific to one architecture is in its family's file.

use std::collections::HashSet;
use std::path::Path;

use nanoinfer_format::Config;

use super::file::Gguf;
use super::keys::Keys;
use super::metadata::Metadata;
use super::{scales, split, text};
use crate::description::{Biases, DRAFT_LAYERS, Description};
use crate::family::{self, GgufSpelling};
use crate::model::Model;
use crate::rope::{RopeSpec, Scaling, Yarn, yarn_magnitude};
use crate::source::{FileTensor, TensorSource};
use crate::weights::Weights;
use crate::{Error, purpose};

/// RoPE frequency factors: tensors that are not weights.
const ROPE_TENSORS: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"];

/// Reads everything except the values of the weights.
pub(crate) fn open(path: &Path) -> Result<Model, Error> {
    let Gguf { metadata, tensors, files } = split::open(path)?;
    purpose::check_gguf(&metadata)?;
    let architecture = metadata.str("general.architecture")?.unwrap_or("nothing");
    let spelling = family::gguf(architecture).map_err(|supported| {
        let what = format!("architecture {architecture:?}");
        Error::Unsupported { path: path.into(), what, next: format!("supported: {supported}") }
    })?;
    let (divisors, tensors): (Vec<_>, Vec<_>) =
        tensors.into_iter().partition(|t| ROPE_TENSORS.contains(&t.name().1));
    let tensors = scales::apply(tensors)?;
    let described = describe(&metadata, spelling, &tensors, &divisors)?;
    let left_out = described.left_out();
    let config = described.config;
    let mut weights = Weights::new(path, described.names);
    for tensor in tensors {
        if !is_beyond(tensor.name().1, &config) || left_out.is_none() {
            weights.insert(tensor, &config)?;
        }
    }
    weights.check(&config, described.biases)?;
    weights.change(described.changes);
    weights.scale_rows(described.row_factors);
    let text = text::read(&metadata, config.vocab_size)?;
    Ok(Model {
        turns: described.ropes.iter().flat_map(|rope| rope.turns(config.rotary_dim)).collect(),
        config,
        weights,
        generation: text.generation,
        tokenizer: text.tokenizer,
        chat_template: metadata.str("tokenizer.chat_template")?.map(str::to_owned),
        kind: "gguf",
        notes: left_out.into_iter().chain(text.notes).collect(),
        files,
    })
}

fn describe(
    metadata: &Metadata,
    spelling: &'static GgufSpelling,
    tensors: &[FileTensor],
    divisors: &[FileTensor],
) -> Result<Description, Error> {
    let names: HashSet<&str> = tensors.iter().map(|t| t.name().1).collect();
    let (architecture, uneven) = (spelling.architecture, spelling.uneven);
    let keys = Keys { metadata, architecture, tensors: &names, uneven };
    let config = common(&keys, tensors)?;
    let left_out = if draft_layers(&keys)? > 0 { vec![DRAFT_LAYERS] } else { Vec::new() };
    let scaling = scaling(&keys, &config, divisors)?;
    let ropes = vec![RopeSpec { theta: config.rope_theta, scaling }];
    let biases = Biases { norm: Some(false), ..Biases::default() };
    let mut d = Description {
        config,
        ropes,
        biases,
        names: spelling.names(),
        changes: Vec::new(),
        row_factors: Vec::new(),
        quantized: None,
        left_out,
    };
    (spelling.adapt)(&keys, &mut d)?;
    if let (Some(1..), None) = (keys.u32("expert_count")?, &d.config.experts) {
        let what =
            format!("a mixture-of-experts model of architecture {:?}", spelling.architecture);
        return Err(keys.unsupported(what, "only dense models of this architecture are"));
    }
    if let Some(experts) = &mut d.config.experts {
        let router = |layer: usize| format!("blk.{layer}.ffn_gate_inp.weight");
        for (layer, sparse) in experts.layers.iter_mut().enumerate() {
            *sparse = names.contains(router(layer).as_str());
        }
    }
    if let Some(r) = d.config.recurrent.as_mut().filter(|r| r.parallel) {
        r.without_norm = !names.contains("blk.0.ssm_norm.weight");
    }
    let has_values = |layer: usize| names.contains(format!("blk.{layer}.attn_v.weight").as_str());
    for (layer, attention) in d.config.layer_attention.iter_mut().enumerate() {
        attention.keys_as_values = attention.cache_of.is_none() && !has_values(layer);
    }
    keys.check_parts(&d.config)?;
    d.config.ropes = d.ropes.iter().map(RopeSpec::rope).collect();
    d.config.validate().map_err(|e| Error::source(metadata.path(), e.to_string()))?;
    Ok(d)
}

/// The config of a Llama with these keys.
fn common(keys: &Keys<'_>, tensors: &[FileTensor]) -> Result<Config, Error> {
    let d_model = keys.size("embedding_length")?;
    let n_heads = keys.need("attention.head_count", keys.per_layer("attention.head_count")?)?;
    let all_layers = keys.size("block_count")?;
    let Some(n_layers) = all_layers.checked_sub(draft_layers(keys)?) else {
        let what = format!("is more than block_count {all_layers}");
        return Err(keys.error("nextn_predict_layers", &what));
    };
    let head_dim = match keys.u32("attention.key_length")? {
        Some(given) => given,
        None if n_heads > 0 && d_model.is_multiple_of(n_heads) => d_model / n_heads,
        None => {
            let what = format!("is {n_heads}, expected a divisor of embedding_length {d_model}");
            return Err(keys.error("attention.head_count", &what));
        }
    };
    let latent = keys.u32("attention.kv_lora_rank")?.is_some();
    let other = keys.u32("attention.value_length")?.filter(|&v| v != head_dim && !latent);
    if let Some(other) = other {
        let what = format!("is {other}, expected the head size {head_dim}");
        return Err(keys.error("attention.value_length", &what));
    }
    let named = |name: &str| tensors.iter().find(|t| t.name().1 == name);
    let Some(vocab) = named("token_embd.weight") else {
        return Err(Error::source(keys.metadata.path(), "has no tensor \"token_embd.weight\""));
    };
    let rope_theta = keys.f64("rope.freq_base")?.unwrap_or(10000.0);
    if !(rope_theta.is_finite() && rope_theta > 1.0) {
        let what = format!("is {rope_theta}, expected a number above 1");
        return Err(keys.error("rope.freq_base", &what));
    }
    let norm_eps = match keys.f64("attention.layer_norm_rms_epsilon")? {
        None => keys.f64("attention.layer_norm_epsilon")?,
        given => given,
    };
    let missing = || keys.error("attention.layer_norm_rms_epsilon", "is missing");
    Ok(Config {
        architecture: keys.architecture.into(),
        d_model,
        d_ff: d_ff(keys)?,
        n_heads,
        n_kv_heads: keys.per_layer("attention.head_count_kv")?.unwrap_or(n_heads),
        vocab_size: u32::try_from(vocab.shape()[0]).unwrap_or(u32::MAX),
        context_length: keys.size("context_length")?,
        norm_eps: norm_eps.ok_or_else(missing)?,
        attention_scale: keys
            .positive("attention.scale")?
            .unwrap_or_else(|| 1.0 / f64::from(head_dim).sqrt()),
        rope_theta,
        rotary_dim: keys.u32("rope.dimension_count")?.unwrap_or(head_dim),
        ropes: Vec::new(),
        tied_embeddings: named("output.weight").is_none(),
        ..Config::llama(n_layers, head_dim)
    })
}

/// Hidden width of the feed-forward network. A model that has only experts need not state it.
fn d_ff(keys: &Keys<'_>) -> Result<u32, Error> {
    let key = "feed_forward_length";
    let stated = match keys.per_layer(key)? {
        None => keys.u32("expert_shared_feed_forward_length")?,
        stated => stated,
    };
    keys.need(key, stated)
}

/// Number of layers at the end that draft tokens after the next one.
fn draft_layers(keys: &Keys<'_>) -> Result<u32, Error> {
    Ok(keys.u32("nextn_predict_layers")?.unwrap_or(0))
}

/// Whether a tensor is in a layer that the model does not have.
fn is_beyond(name: &str, c: &Config) -> bool {
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    layer.and_then(|(layer, _)| layer.parse().ok()).is_some_and(|layer: u32| layer >= c.n_layers)
}

fn scaling(keys: &Keys<'_>, c: &Config, divisors: &[FileTensor]) -> Result<Scaling, Error> {
    let read = |name: &str| -> Result<Option<Vec<f32>>, Error> {
        let tensor = divisors.iter().find(|t| t.name().1 == name);
        tensor.map(|t| read_divisors(t, c.rotary_dim as usize / 2)).transpose()
    };
    let [freqs, short, long] = ROPE_TENSORS;
    let original = match keys.u32("rope.scaling.original_context_length")? {
        None | Some(0) => c.context_length,
        Some(stated) => stated,
    };
    // llama.cpp: LLM_KV_ROPE_SCALING_ATTN_FACTOR.
    let attn_factor = keys.positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
    if let (Some(short), Some(long)) = (read(short)?, read(long)?) {
        let wide = |v: Vec<f32>| v.into_iter().map(f64::from).collect();
        return Ok(Scaling::LongRope {
            short: wide(short),
            long: wide(long),
            original_context: original,
            magnitude: attn_factor,
        });
    }
    let factors = read(freqs)?;
    // As in llama.cpp: linear by default, and a factor of 0 means 1. Files written before September
    // 2023 use the older key.
    let stated = match keys.positive("rope.scaling.factor")? {
        None => keys.positive("rope.scale_linear")?,
        given => given,
    };
    let kind = keys.str("rope.scaling.type")?.unwrap_or("linear");
    let scaling = match (kind, stated.unwrap_or(1.0)) {
        ("none", _) | ("linear" | "longrope", 1.0) => Scaling::None,
        ("linear", factor) => Scaling::Linear(factor),
        ("yarn", factor) => Scaling::Yarn(Yarn {
            factor,
            original_context: f64::from(original),
            beta_fast: keys.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: keys.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            truncate: true,
            magnitude: attn_factor * yarn_magnitude(factor, 1.0),
        }),
        (other, _) => {
            let next = "supported: none, linear, yarn, and frequency-factor tensors";
            return Err(keys.unsupported(format!("RoPE scaling {other:?}"), next));
        }
    };
    match (factors, scaling) {
        (None, scaling) => Ok(scaling),
        (Some(factors), Scaling::None) => Ok(Scaling::Factors(factors)),
        (Some(_), _) => {
            Err(keys.error("rope.scaling", "conflicts with the tensor rope_freqs.weight"))
        }
    }
}

/// Reads one frequency factor for each rotated pair of a head.
fn read_divisors(tensor: &FileTensor, half: usize) -> Result<Vec<f32>, Error> {
    let fail = |what: String| {
        let (path, name) = tensor.name();
        Error::Tensor { path: path.into(), tensor: name.into(), what }
    };
    if tensor.shape() != [half, 1] {
        let [n, k] = tensor.shape();
        return Err(fail(format!("has shape [{n}, {k}], expected [{half}, 1]")));
    }
    let mut values = vec![0.0; half];
    tensor.read_rows(0..half, &mut values)?;
    match values.iter().find(|v| !(v.is_finite() && **v >= 1e-6)) {
        Some(v) => Err(fail(format!("contains {v}, expected positive factors"))),
        None => Ok(values),
    }
}
