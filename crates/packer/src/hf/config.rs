//! Converts a `config.json` to a [`Description`]: everything that all architectures share.
//! Everything specific to one architecture is in its family's file.

use nanoinfer_format::{Activation, Config};

use super::rope::{rope, rope_settings, rotary_dim};
use super::settings::Settings;
use crate::description::{Biases, Description};
use crate::family::{self, HfSpelling};
use crate::rope::{RopeSpec, Scaling};
use crate::{Error, purpose, quantized};

/// Reads the settings; absent settings get transformers' defaults for the architecture.
pub(crate) fn describe(c: &Settings) -> Result<Description, Error> {
    let model_type = c.need("model_type", c.str("model_type")?)?;
    if let Some(usual) = family::text_part(model_type) {
        let text = c.need("text_config", c.object("text_config")?)?;
        let mut d = describe_as(&text, spelling(&text, text.str("model_type")?.unwrap_or(usual))?)?;
        d.config.tied_embeddings |= c.bool("tie_word_embeddings")? == Some(true);
        d.names = d.names.of_text_part();
        if c.get("audio_config").is_some() {
            d.left_out.insert(0, "the audio tower");
        }
        d.quantized = quantized::method(c)?.or(d.quantized);
        if c.has("vision_config") {
            d.left_out.insert(0, "the vision tower");
        }
        return Ok(d);
    }
    let spelling = spelling(c, model_type)?;
    if let Some(class) = purpose::of_class(c) {
        return Err(c.unsupported(class, "use a model for text generation"));
    }
    describe_as(c, spelling)
}

/// The architecture with these settings and this `model_type`.
fn spelling(c: &Settings, model_type: &str) -> Result<&'static HfSpelling, Error> {
    family::hugging_face(model_type).map_err(|supported| {
        let purpose = purpose::of_model(c).map_or(String::new(), |p| format!(" ({p})"));
        let what = format!("architecture {model_type:?}{purpose}");
        c.unsupported(what, &format!("supported: {supported}"))
    })
}

fn describe_as(c: &Settings, spelling: &'static HfSpelling) -> Result<Description, Error> {
    let mut d = common(c, spelling)?;
    (spelling.adapt)(c, &mut d)?;
    check_divisors(c, &d)?;
    d.config.ropes = d.ropes.iter().map(RopeSpec::rope).collect();
    d.config.validate().map_err(|e| Error::source(c.path(), e.to_string()))?;
    Ok(d)
}

/// The description of a Llama with these settings.
fn common(c: &Settings, spelling: &'static HfSpelling) -> Result<Description, Error> {
    let stated = |key: &str| {
        let default = || spelling.sizes.iter().find(|(name, _)| *name == key).map(|&(_, n)| n);
        Ok::<_, Error>(c.u32(key)?.or_else(default))
    };
    let size = |key: &str| c.need(key, stated(key)?);
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
    let d_ff = spelling.d_ff.iter().find(|key| c.has(key)).unwrap_or(&spelling.d_ff[0]);
    let settings = rope_settings(c, None)?;
    let rope = rope(c, settings.as_ref(), spelling.rope_theta)?;
    let config = Config {
        architecture: spelling.model_type.into(),
        d_model,
        d_ff: size(d_ff)?,
        n_heads,
        n_kv_heads: stated("num_key_value_heads")?.unwrap_or(n_heads),
        vocab_size: size("vocab_size")?,
        context_length: context_length(size("max_position_embeddings")?, &rope.scaling),
        norm_eps: c.f64(spelling.norm_eps_key)?.unwrap_or(spelling.norm_eps),
        activation: activation(c)?.unwrap_or(spelling.activation),
        rope_theta: rope.theta,
        rotary_dim: rotary_dim(c, settings.as_ref(), (head_dim, spelling.rotary_factor))?,
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
        quantized: quantized::method(c)?,
        left_out: Vec::new(),
    })
}

fn activation(c: &Settings) -> Result<Option<Activation>, Error> {
    for key in ["hidden_activation", "hidden_act"] {
        if let Some(name) = c.str(key)? {
            return match name {
                "silu" | "swish" => Ok(Some(Activation::Silu)),
                "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" => Ok(Some(Activation::Gelu)),
                "relu2" => Ok(Some(Activation::Relu2)),
                "xielu" => Ok(Some(Activation::Xielu)),
                other => {
                    let next = "supported: silu, gelu_pytorch_tanh, relu2, xielu";
                    Err(c.unsupported(format!("{key} {other:?}"), next))
                }
            };
        }
    }
    Ok(None)
}

/// `max_position_embeddings`, multiplied by the factor of dynamic scaling, if any.
fn context_length(stated: u32, scaling: &Scaling) -> u32 {
    match scaling {
        Scaling::Dynamic { factor, .. } => (f64::from(stated) * factor) as u32,
        _ => stated,
    }
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
