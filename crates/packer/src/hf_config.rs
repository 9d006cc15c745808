//! `config.json` of a Hugging Face folder → [`Config`].

use nanoinfer_format::{Config, Quant};

use crate::Error;
use crate::json::Settings;
use crate::rope::Scaling;
use crate::weights::Biases;

/// What `config.json` says.
pub(crate) struct Description {
    pub(crate) config: Config,
    pub(crate) scaling: Scaling,
    pub(crate) biases: Biases,
}

/// Reads the settings of a Llama or Mistral model; absent ones have the defaults that
/// transformers gives to the architecture.
pub(crate) fn describe(c: &Settings) -> Result<Description, Error> {
    let architecture = supported_architecture(c)?;
    refuse_quantized(c)?;
    for key in ["hidden_act", "hidden_activation"] {
        if let Some(act) = c.str(key)?.filter(|a| !matches!(*a, "silu" | "swish")) {
            return Err(unsupported(c, format!("{key} {act:?}"), "only \"silu\" is"));
        }
    }
    let size = |key: &str| c.need(key, c.u32(key)?);
    let (d_model, n_heads, n_layers) =
        (size("hidden_size")?, size("num_attention_heads")?, size("num_hidden_layers")?);
    let head_dim = match c.u32("head_dim")? {
        Some(given) => given,
        None if n_heads > 0 && d_model.is_multiple_of(n_heads) => d_model / n_heads,
        None => {
            let what = format!("is {n_heads}, expected a divisor of hidden_size {d_model}");
            return Err(c.error("num_attention_heads", what));
        }
    };
    let (rope_theta, scaling) = rope(c)?;
    let config = Config {
        architecture: architecture.into(),
        quant: Quant::F32,
        n_layers,
        d_model,
        d_ff: size("intermediate_size")?,
        n_heads,
        n_kv_heads: c.u32("num_key_value_heads")?.unwrap_or(n_heads),
        head_dim,
        vocab_size: size("vocab_size")?,
        context_length: size("max_position_embeddings")?,
        norm_eps: c.f64("rms_norm_eps")?.unwrap_or(1e-6),
        attention_scale: 1.0 / f64::from(head_dim).sqrt(),
        rope_theta,
        tied_embeddings: c.bool("tie_word_embeddings")?.unwrap_or(false),
        value_rotation: 1,
        // Mistral alone has windows; transformers ignores the setting in a Llama.
        windows: match architecture {
            "mistral" => vec![sliding_window(c)?; n_layers.min(1 << 14) as usize],
            _ => vec![0; n_layers.min(1 << 14) as usize],
        },
    };
    config.validate().map_err(|e| Error::source(c.path(), e.to_string()))?;
    let biases = Biases { attention: c.bool("attention_bias")?, mlp: c.bool("mlp_bias")? };
    Ok(Description { config, scaling, biases })
}

fn unsupported(c: &Settings, what: String, next: &str) -> Error {
    Error::Unsupported { path: c.path().into(), what, next: next.into() }
}

fn supported_architecture(c: &Settings) -> Result<&'static str, Error> {
    let model_type = c.need("model_type", c.str("model_type")?)?;
    ["llama", "mistral"].into_iter().find(|&a| a == model_type).ok_or_else(|| {
        unsupported(c, format!("architecture {model_type:?}"), "supported: llama, mistral")
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

/// `null` means no window; an absent setting means Mistral's default.
fn sliding_window(c: &Settings) -> Result<u32, Error> {
    Ok(match c.has("sliding_window") {
        true => c.u32("sliding_window")?.unwrap_or(0),
        false => 4096,
    })
}

/// RoPE base and scaling, from `rope_parameters` (transformers 5) or `rope_theta` and
/// `rope_scaling` (before).
fn rope(c: &Settings) -> Result<(f64, Scaling), Error> {
    let new = c.object("rope_parameters")?;
    let old = c.object("rope_scaling")?;
    let theta = match &new {
        Some(r) => r.f64("rope_theta")?.or(c.f64("rope_theta")?),
        None => c.f64("rope_theta")?,
    };
    let theta = theta.unwrap_or(10000.0);
    if !(theta.is_finite() && theta >= 1.0) {
        return Err(c.error("rope_theta", format!("is {theta}, expected a number of at least 1")));
    }
    let r = new.or(old);
    for settings in [Some(c), r.as_ref()].into_iter().flatten() {
        if let Some(part) = settings.f64("partial_rotary_factor")?.filter(|&f| f != 1.0) {
            let what = format!("partial_rotary_factor {part}");
            return Err(unsupported(c, what, "only full rotary embeddings are"));
        }
    }
    let scaling = r.as_ref().map_or(Ok(Scaling::None), rope_scaling)?;
    Ok((theta, scaling))
}

fn rope_scaling(r: &Settings) -> Result<Scaling, Error> {
    let kind = match r.str("rope_type")? {
        Some(kind) => Some(kind),
        None => r.str("type")?,
    };
    let positive = |key: &str| match r.need(key, r.f64(key)?)? {
        v if v.is_finite() && v > 0.0 => Ok(v),
        v => Err(r.error(key, format!("is {v}, expected a positive number"))),
    };
    match kind {
        None | Some("default") => Ok(Scaling::None),
        Some("linear") => Ok(Scaling::Linear(positive("factor")?)),
        Some("llama3") => {
            let (low_freq, high_freq) =
                (positive("low_freq_factor")?, positive("high_freq_factor")?);
            if low_freq >= high_freq {
                let what =
                    format!("is {low_freq}, expected less than high_freq_factor {high_freq}");
                return Err(r.error("low_freq_factor", what));
            }
            let original_context = positive("original_max_position_embeddings")?;
            Ok(Scaling::Llama3 {
                factor: positive("factor")?,
                low_freq,
                high_freq,
                original_context,
            })
        }
        Some(other) => {
            let next = "supported: default, linear, llama3";
            Err(unsupported(r, format!("RoPE scaling {other:?}"), next))
        }
    }
}
