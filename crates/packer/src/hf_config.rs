//! `config.json` of a Hugging Face folder → [`Config`]: what all architectures have in common. What
//! each has of its own is in `hf_arch.rs`.

use nanoinfer_format::{Activation, Config};

use crate::Error;
use crate::hf_arch::{self, Defaults};
use crate::hf_settings::{rope, rope_settings, rotary_dim, unsupported};
use crate::json::Settings;
use crate::model::Description;
use crate::rope::{Kind, Scaling};
use crate::weights::Biases;

/// Reads the settings; absent ones have the defaults that transformers gives to the architecture.
pub(crate) fn describe(c: &Settings) -> Result<Description, Error> {
    let model_type = c.need("model_type", c.str("model_type")?)?;
    let architecture = hf_arch::ALL.iter().find(|a| a.name == model_type).ok_or_else(|| {
        let what = format!("architecture {model_type:?}");
        unsupported(c, what, &format!("supported: {}", hf_arch::names()))
    })?;
    refuse_quantized(c)?;
    let mut d = common(c, architecture.name, &architecture.defaults)?;
    (architecture.adapt)(c, &mut d)?;
    check_divisors(c, &d)?;
    d.config.ropes = d.ropes.iter().map(Kind::rope).collect();
    d.config.validate().map_err(|e| Error::source(c.path(), e.to_string()))?;
    Ok(d)
}

fn common(c: &Settings, architecture: &str, defaults: &Defaults) -> Result<Description, Error> {
    let size = |key: &str| c.need(key, c.u32(key)?);
    let (d_model, n_heads, n_layers) =
        (size("hidden_size")?, size("num_attention_heads")?, size("num_hidden_layers")?);
    let head_dim = match c.u32("head_dim")?.or(defaults.head_dim) {
        Some(given) => given,
        None if n_heads > 0 && d_model.is_multiple_of(n_heads) => d_model / n_heads,
        None => {
            let what = format!("is {n_heads}, expected a divisor of hidden_size {d_model}");
            return Err(c.error("num_attention_heads", what));
        }
    };
    let settings = rope_settings(c, None)?;
    let rope = rope(c, settings.as_ref(), defaults.rope_theta)?;
    let config = Config {
        architecture: architecture.into(),
        d_model,
        d_ff: size("intermediate_size")?,
        n_heads,
        n_kv_heads: c.u32("num_key_value_heads")?.unwrap_or(n_heads),
        vocab_size: size("vocab_size")?,
        context_length: context_length(c, &rope.scaling)?,
        norm_eps: c.f64("rms_norm_eps")?.unwrap_or(defaults.norm_eps),
        activation: activation(c)?.unwrap_or(defaults.activation),
        rope_theta: rope.theta,
        rotary_dim: rotary_dim(c, settings.as_ref(), head_dim)?,
        ropes: Vec::new(),
        tied_embeddings: c.bool("tie_word_embeddings")?.unwrap_or(defaults.tied_embeddings),
        ..Config::llama(n_layers, head_dim)
    };
    let (attention, mlp) = (c.bool("attention_bias")?, c.bool("mlp_bias")?);
    Ok(Description {
        config,
        ropes: vec![rope],
        biases: Biases { qkv: attention, output: attention, mlp, norm: Some(false) },
        names: defaults.names,
        changes: Vec::new(),
    })
}

fn refuse_quantized(c: &Settings) -> Result<(), Error> {
    let stated = match c.object("quantization_config")? {
        None => c.object("compression_config")?,
        given => given,
    };
    let Some(q) = stated else { return Ok(()) };
    let method = q.str("quant_method")?.unwrap_or("an unnamed method");
    let what = format!("a model quantized with {method:?}");
    Err(unsupported(c, what, "convert the original model (f32, f16 or bf16) or a GGUF of it"))
}

fn activation(c: &Settings) -> Result<Option<Activation>, Error> {
    for key in ["hidden_activation", "hidden_act"] {
        if let Some(name) = c.str(key)? {
            return match name {
                "silu" | "swish" => Ok(Some(Activation::Silu)),
                "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" => Ok(Some(Activation::Gelu)),
                other => {
                    let next = "supported: silu, gelu_pytorch_tanh";
                    Err(unsupported(c, format!("{key} {other:?}"), next))
                }
            };
        }
    }
    Ok(None)
}

/// Where dynamic scaling is meant to be used up to; other models state what they can do.
fn context_length(c: &Settings, scaling: &Scaling) -> Result<u32, Error> {
    let stated = c.need("max_position_embeddings", c.u32("max_position_embeddings")?)?;
    Ok(match scaling {
        Scaling::Dynamic { factor, .. } => (f64::from(stated) * factor) as u32,
        _ => stated,
    })
}

/// Checks that longrope has a divisor for every pair of the head.
fn check_divisors(c: &Settings, d: &Description) -> Result<(), Error> {
    let pairs = d.config.rotary_dim as usize / 2;
    for kind in &d.ropes {
        if let Scaling::LongRope { short, long, .. } = &kind.scaling
            && (short.len() != pairs || long.len() != pairs)
        {
            let what = format!(
                "has {} short and {} long divisors, expected {pairs}",
                short.len(),
                long.len()
            );
            return Err(c.error("rope_scaling", what));
        }
    }
    Ok(())
}
