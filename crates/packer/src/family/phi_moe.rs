//! Phi-3.5-MoE: LayerNorm, biases on attention and output, and experts that SparseMixer chooses one after the other.

use nanoinfer_format::{Experts, Norm, Role, RouterSoftmax};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::{Biases, Description};
use crate::gguf::Keys;
use crate::hf::{Settings, experts, rope_settings, sliding_window};
use crate::names::Entry;
use crate::rope::Scaling;

pub(super) const FAMILY: Family = Family {
    hugging_face: &[HfSpelling {
        model_type: "phimoe",
        norm_eps: 1e-5,
        rope_theta: 1e6,
        own_names: HF_NAMES,
        adapt: hugging_face,
        ..HfSpelling::LLAMA
    }],
    gguf: &[GgufSpelling { architecture: "phimoe", adapt: gguf, ..GgufSpelling::NEOX }],
};

const HF_NAMES: &[Entry] = &[
    ("block_sparse_moe.gate", &[Role::FfnRouter]),
    ("block_sparse_moe.experts.*.w1", &[Role::FfnGateExperts]),
    ("block_sparse_moe.experts.*.w2", &[Role::FfnDownExperts]),
    ("block_sparse_moe.experts.*.w3", &[Role::FfnUpExperts]),
];

fn hugging_face(c: &Settings, d: &mut Description) -> Result<(), Error> {
    d.config.norm = Norm::Layer;
    let attention = Some(c.bool("attention_bias")?.unwrap_or(false));
    let head = Some(c.bool("lm_head_bias")?.unwrap_or(false));
    d.biases = Biases { qkv: attention, output: attention, norm: Some(true), head, ..d.biases };
    d.config.windows.fill(sliding_window(c, 0)?);
    magnitude(c, d)?;
    let e = experts(c, d, "num_local_experts", [16, 2])?;
    d.config.experts = Some(mixed(e, c.f64("router_jitter_noise")?.unwrap_or(0.01)));
    Ok(())
}

/// The factors of cosine and sine are stated, one for each set of frequencies.
fn magnitude(c: &Settings, d: &mut Description) -> Result<(), Error> {
    let Some(r) = rope_settings(c, None)? else { return Ok(()) };
    let Scaling::LongRope { magnitude, .. } = &mut d.ropes[0].scaling else { return Ok(()) };
    let stated = |key: &str| r.need(key, r.positive(key)?);
    let (short, long) = (stated("short_mscale")?, stated("long_mscale")?);
    if short != long {
        let next = "supported: the same for all lengths";
        return Err(r.unsupported("a long_mscale that differs from short_mscale", next));
    }
    *magnitude = short;
    Ok(())
}

fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.norm = Norm::Layer;
    d.biases = Biases { norm: Some(true), ..Biases::default() };
    d.config.windows.fill(keys.window()?);
    let experts = keys.experts(d.config.n_layers, RouterSoftmax::Chosen)?;
    // Files do not state the noise; this is that of the published model.
    d.config.experts = experts.map(|e| mixed(e, 0.01));
    Ok(())
}

/// SparseMixer leaves out experts whose scores are lower than the highest one by twice this noise.
fn mixed(e: Experts, noise: f64) -> Experts {
    let router_distance = Some(2.0 * noise);
    Experts { router_softmax: RouterSoftmax::All, router_distance, ..e }
}
