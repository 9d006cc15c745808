//! Granite 3: a Llama with four multipliers. The residual-stream multiplier is folded into the
//! matrices that write to the residual stream.

use nanoinfer_format::Role;

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::{Change, Description};
use crate::gguf::Keys;
use crate::hf::Settings;

pub(super) const FAMILY: Family = Family {
    hugging_face: &[HfSpelling { model_type: "granite", adapt: hugging_face, ..HfSpelling::LLAMA }],
    gguf: &[GgufSpelling { architecture: "granite", adapt: gguf, ..GgufSpelling::NORM }],
};

fn scale_residual(d: &mut Description, factor: f64) {
    let roles = &[Role::AttnOutput, Role::FfnDown];
    d.changes.push(Change { roles, factor: factor as f32, offset: 0.0 });
}

fn hugging_face(c: &Settings, d: &mut Description) -> Result<(), Error> {
    let multiplier = |key: &str| Ok::<_, Error>(c.positive(key)?.unwrap_or(1.0));
    d.config.attention_scale = multiplier("attention_multiplier")?;
    d.config.embedding_scale = multiplier("embedding_multiplier")?;
    d.config.logit_scale = 1.0 / multiplier("logits_scaling")?;
    scale_residual(d, multiplier("residual_multiplier")?);
    Ok(())
}

/// `attention.scale` is already read for every architecture.
fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    let multiplier = |key: &str| Ok::<_, Error>(keys.positive(key)?.unwrap_or(1.0));
    d.config.embedding_scale = multiplier("embedding_scale")?;
    d.config.logit_scale = 1.0 / multiplier("logit_scale")?;
    scale_residual(d, multiplier("residual_scale")?);
    Ok(())
}
