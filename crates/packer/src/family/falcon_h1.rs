//! Falcon-H1: every layer has attention and Mamba-2 of the same input. Its multipliers are folded into weights, as
//! llama.cpp's converter does, except those of embeddings and logits.

use nanoinfer_format::Role;

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::{Change, Description, RowFactor};
use crate::gguf::Keys;
use crate::hf::{Mamba2Sizes, Settings, refuse_step_limit};
use crate::names::Entry;

pub(super) const FAMILY: Family = Family {
    hugging_face: &[HfSpelling {
        model_type: "falcon_h1",
        norm_eps: 1e-5,
        own_names: HF_NAMES,
        adapt: hugging_face,
        ..HfSpelling::LLAMA
    }],
    gguf: &[GgufSpelling { architecture: "falcon-h1", adapt: gguf, ..GgufSpelling::NEOX }],
};

const HF_NAMES: &[Entry] = &[
    ("model.final_layernorm", &[Role::OutputNorm]),
    ("pre_ff_layernorm", &[Role::FfnNorm]),
    ("feed_forward.gate_proj", &[Role::FfnGate]),
    ("feed_forward.up_proj", &[Role::FfnUp]),
    ("feed_forward.down_proj", &[Role::FfnDown]),
];

fn hugging_face(c: &Settings, d: &mut Description) -> Result<(), Error> {
    refuse_step_limit(c)?;
    for key in ["attention_bias", "mlp_bias", "projectors_bias", "mamba_proj_bias"] {
        if c.bool(key)? == Some(true) {
            return Err(c.unsupported(format!("{key} true"), "supported: models without biases"));
        }
    }
    d.biases.conv = Some(c.bool("mamba_conv_bias")?.unwrap_or(true));
    let inner = match c.u32("mamba_d_ssm")? {
        Some(stated) => stated,
        None if c.has("mamba_d_ssm") => {
            c.u32("mamba_expand")?.unwrap_or(2).saturating_mul(d.config.d_model)
        }
        None => 1024,
    };
    let layers = vec![true; d.config.windows.len()];
    d.config.recurrent = Mamba2Sizes::USUAL.read(c, inner, layers)?;
    let normed = c.bool("mamba_rms_norm")?.unwrap_or(false);
    if normed && c.bool("mamba_norm_before_gate")?.unwrap_or(true) {
        let next = "supported: mamba_norm_before_gate false";
        return Err(c.unsupported("a norm before the gate of Mamba-2", next));
    }
    if let Some(r) = &mut d.config.recurrent {
        (r.parallel, r.without_norm) = (true, !normed);
    }
    multipliers(c, d)
}

fn multipliers(c: &Settings, d: &mut Description) -> Result<(), Error> {
    let one = |key: &str| Ok::<_, Error>(c.positive(key)?.unwrap_or(1.0));
    let list = |key: &str, n: usize| match c.numbers(key)? {
        None => Ok(vec![1.0; n]),
        Some(list) if list.len() == n && list.iter().all(|m| m.is_finite()) => Ok(list),
        Some(list) => {
            let what = format!("has {} entries, expected {n} finite numbers", list.len());
            Err(c.error(key, what))
        }
    };
    d.config.embedding_scale = one("embedding_multiplier")?;
    d.config.logit_scale = one("lm_head_multiplier")?;
    let input = one("attention_in_multiplier")?;
    let mlp = list("mlp_multipliers", 2)?;
    let (ssm, ssm_in) = (list("ssm_multipliers", 5)?, one("ssm_in_multiplier")?);
    let changes: [(&'static [Role], f64); 8] = [
        (&[Role::AttnQ, Role::AttnV], input),
        (&[Role::AttnK], one("key_multiplier")? * input),
        (&[Role::AttnOutput], one("attention_out_multiplier")?),
        (&[Role::FfnGate], mlp[0]),
        (&[Role::FfnDown], mlp[1]),
        (&[Role::SsmGate], ssm_in * ssm[0]),
        (&[Role::SsmAlpha], ssm_in * ssm[4]),
        (&[Role::SsmOut], one("ssm_out_multiplier")?),
    ];
    let change = |(roles, factor): (_, f64)| Change { roles, factor: factor as f32, offset: 0.0 };
    d.changes.extend(changes.map(change));
    if let Some(r) = &d.config.recurrent {
        let [queries, keys, values] = r.qkv_offsets();
        let part = |first, len: usize, m| RowFactor {
            role: Role::SsmQkv,
            rows: first..first + len,
            factor: (ssm_in * m) as f32,
        };
        d.row_factors.extend([
            part(values, r.inner(), ssm[1]),
            part(keys, r.keys(), ssm[2]),
            part(queries, r.keys(), ssm[3]),
        ]);
    }
    Ok(())
}

/// Which models have a norm shows only in their tensors.
fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.recurrent = keys.mamba2(vec![true; d.config.windows.len()])?;
    if let Some(r) = &mut d.config.recurrent {
        r.parallel = true;
    }
    Ok(())
}
