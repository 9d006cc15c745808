//! Converts a `config.json` to a [`Description`]: everything that all architectures share.
//! Everything specific to one architecture is in its family's file.

use nanoinfer_format::{Activation, Config};

use super::rope::{rope, rope_settings, rotary_dim};
use super::settings::Settings;
use crate::description::{Biases, Description};
use crate::family::{self, HfSpelling};
use crate::rope::{RopeSpec, Scaling};
use crate::{Error, purpose};

/// Reads the settings; absent settings get transformers' defaults for the architecture.
pub(crate) fn describe(c: &Settings) -> Result<Description, Error> {
    let model_type = c.need("model_type", c.str("model_type")?)?;
    if let Some(spelling) = family::text_part(model_type) {
        let text = c.need("text_config", c.object("text_config")?)?;
        let mut d = describe_as(&text, spelling)?;
        d.config.tied_embeddings |= c.bool("tie_word_embeddings")? == Some(true);
        d.names = d.names.of_text_part();
        if c.has("vision_config") {
            d.left_out.insert(0, "the vision tower");
        }
        return Ok(d);
    }
    let spelling = family::hugging_face(model_type).map_err(|supported| {
        let purpose = purpose::of_model(c).map_or(String::new(), |p| format!(" ({p})"));
        let what = format!("architecture {model_type:?}{purpose}");
        c.unsupported(what, &format!("supported: {supported}"))
    })?;
    describe_as(c, spelling)
}

fn describe_as(c: &Settings, spelling: &'static HfSpelling) -> Result<Description, Error> {
    if let Some(class) = purpose::of_class(c) {
        return Err(c.unsupported(class, "use a model for text generation"));
    }
    refuse_quantized(c)?;
    let mut d = common(c, spelling)?;
    (spelling.adapt)(c, &mut d)?;
    check_divisors(c, &d)?;
    d.config.ropes = d.ropes.iter().map(RopeSpec::rope).collect();
    d.config.validate().map_err(|e| Error::source(c.path(), e.to_string()))?;
    Ok(d)
}

/// The description of a Llama with these settings.
fn common(c: &Settings, spelling: &'static HfSpelling) -> Result<Description, Error> {
    let size = |key: &str| c.need(key, c.u32(key)?);
    let d_model = size("hidden_size")?;
    let n_heads = size("num_attention_heads")?;
    let n_layers = match c.strings("layers_block_type")? {
        Some(layers) if !c.has("num_hidden_layers") => layers.len() as u32,
        _ => size("num_hidden_layers")?,
    };
    let head_dim = match c.u32("head_dim")?.or(spelling.head_dim) {
        Some(given) => given,
        None if n_heads > 0 && d_model.is_multiple_of(n_heads) => d_model / n_heads,
        None => {
            let what = format!("is {n_heads}, expected a divisor of hidden_size {d_model}");
            return Err(c.error("num_attention_heads", what));
        }
    };
    let stated = spelling.d_ff.iter().find(|key| c.has(key));
    let d_ff = stated.unwrap_or(&spelling.d_ff[0]);
    let settings = rope_settings(c, None)?;
    let rope = rope(c, settings.as_ref(), spelling.rope_theta)?;
    let config = Config {
        architecture: spelling.model_type.into(),
        d_model,
        d_ff: size(d_ff)?,
        n_heads,
        n_kv_heads: c.u32("num_key_value_heads")?.unwrap_or(n_heads),
        vocab_size: size("vocab_size")?,
        context_length: context_length(c, &rope.scaling)?,
        norm_eps: c.f64(spelling.norm_eps_key)?.unwrap_or(spelling.norm_eps),
        activation: activation(c)?.unwrap_or(spelling.activation),
        rope_theta: rope.theta,
        rotary_dim: rotary_dim(c, settings.as_ref(), head_dim)?,
        ropes: Vec::new(),
        tied_embeddings: c.bool("tie_word_embeddings")?.unwrap_or(spelling.tied_embeddings),
        ..Config::llama(n_layers, head_dim)
    };
    let (attention, mlp) = (c.bool("attention_bias")?, c.bool("mlp_bias")?);
    Ok(Description {
        config,
        ropes: vec![rope],
        biases: Biases {
            qkv: attention,
            output: attention,
            mlp,
            experts: Some(false),
            head: Some(false),
            norm: Some(false),
            ssm: Some(false),
            conv: Some(false),
        },
        names: spelling.names(),
        changes: Vec::new(),
        row_factors: Vec::new(),
        left_out: Vec::new(),
    })
}

fn refuse_quantized(c: &Settings) -> Result<(), Error> {
    let stated = match c.object("quantization_config")? {
        None => c.object("compression_config")?,
        given => given,
    };
    let mlx = c.get("quantization").is_some_and(|q| q.get("bits").is_some());
    let method = match &stated {
        _ if mlx => "MLX",
        None => return Ok(()),
        Some(q) => q.str("quant_method")?.unwrap_or("an unnamed method"),
    };
    let what = format!("a model quantized with {method:?}");
    Err(c
        .unsupported(what, "convert the original model (f32, f16 or bf16) or a GGUF version of it"))
}

fn activation(c: &Settings) -> Result<Option<Activation>, Error> {
    for key in ["hidden_activation", "hidden_act"] {
        if let Some(name) = c.str(key)? {
            return match name {
                "silu" | "swish" => Ok(Some(Activation::Silu)),
                "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" => Ok(Some(Activation::Gelu)),
                other => {
                    let next = "supported: silu, gelu_pytorch_tanh";
                    Err(c.unsupported(format!("{key} {other:?}"), next))
                }
            };
        }
    }
    Ok(None)
}

/// `max_position_embeddings`, multiplied by the factor of dynamic scaling, if any.
fn context_length(c: &Settings, scaling: &Scaling) -> Result<u32, Error> {
    let stated = c.need("max_position_embeddings", c.u32("max_position_embeddings")?)?;
    Ok(match scaling {
        Scaling::Dynamic { factor, .. } => (f64::from(stated) * factor) as u32,
        _ => stated,
    })
}

/// Checks that LongRoPE has a frequency factor for every rotated pair of a head.
fn check_divisors(c: &Settings, d: &Description) -> Result<(), Error> {
    let pairs = d.config.rotary_dim as usize / 2;
    for rope in &d.ropes {
        if let Scaling::LongRope { short, long, .. } = &rope.scaling
            && (short.len() != pairs || long.len() != pairs)
        {
            let what = format!(
                "has {} short and {} long factors, expected {pairs} each",
                short.len(),
                long.len()
            );
            return Err(c.error("rope_scaling", what));
        }
    }
    Ok(())
}
