//! Granite models with experts, and those with windows and attention sinks: the multipliers are those of
//! `granite.rs`.

use nanoinfer_format::{Role, RouterSoftmax, SharedExpert};

use super::granite::{self, EXPERTS, multipliers};
use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::Description;
use crate::gguf::Keys;
use crate::hf::{Settings, experts, layer_windows, sliding_window};
use crate::names::Entry;
use crate::rope::RopeSpec;

pub(super) const FAMILY: Family = Family {
    hugging_face: &[
        HfSpelling {
            model_type: "granitemoe",
            own_names: EXPERTS,
            adapt: sparse,
            ..HfSpelling::LLAMA
        },
        HfSpelling {
            model_type: "granitemoeshared",
            own_names: EXPERTS,
            adapt: shared,
            ..HfSpelling::LLAMA
        },
        HfSpelling {
            model_type: "granite_swa",
            norm_eps: 1e-5,
            tied_embeddings: true,
            own_names: SINKS,
            adapt: windows,
            ..HfSpelling::LLAMA
        },
        HfSpelling {
            model_type: "granitemoe_swa",
            own_names: SPARSE_SINKS,
            adapt: sparse_windows,
            ..HfSpelling::LLAMA
        },
    ],
    gguf: &[GgufSpelling { architecture: "granitemoe", adapt: gguf, ..GgufSpelling::NORM }],
};

const SINKS: &[Entry] = &[("self_attn.sinks", &[Role::AttnSinks])];

const SPARSE_SINKS: &[Entry] = &[
    SINKS[0],
    EXPERTS[0],
    EXPERTS[1],
    ("block_sparse_moe.router", &[Role::FfnRouter]),
    ("block_sparse_moe.experts.gate_up_proj", &[Role::FfnGateExperts, Role::FfnUpExperts]),
    ("block_sparse_moe.experts.down_proj", &[Role::FfnDownExperts]),
];

fn sparse(c: &Settings, d: &mut Description) -> Result<(), Error> {
    multipliers(c, d)?;
    d.config.experts = Some(experts(c, d, "num_local_experts", [8, 2])?);
    Ok(())
}

/// Experts beside a shared one, if that has a width.
fn shared(c: &Settings, d: &mut Description) -> Result<(), Error> {
    sparse(c, d)?;
    let width = c.u32("shared_intermediate_size")?;
    if let Some(e) = &mut d.config.experts {
        e.shared = width.and_then(|width| SharedExpert::of(1, width));
    }
    Ok(())
}

fn windows(c: &Settings, d: &mut Description) -> Result<(), Error> {
    multipliers(c, d)?;
    sinks(c, d)
}

fn sparse_windows(c: &Settings, d: &mut Description) -> Result<(), Error> {
    shared(c, d)?;
    sinks(c, d)
}

/// Sinks, windows on three of four layers, and a base of RoPE for each layer, of which 0 means none.
fn sinks(c: &Settings, d: &mut Description) -> Result<(), Error> {
    d.config.attention_sinks = true;
    let n = d.config.windows.len();
    let window = sliding_window(c, 128)?;
    d.config.windows = layer_windows(c, window, n, |layer| !layer.is_multiple_of(4))?;
    let Some(bases) = c.numbers("layer_rope_theta")? else { return Ok(()) };
    if bases.len() != n {
        let what = format!("lists {} layers, expected {n}", bases.len());
        return Err(c.error("layer_rope_theta", what));
    }
    if let Some(base) = bases.iter().find(|&&base| base != 0.0 && !(base.is_finite() && base > 1.0))
    {
        let what = format!("contains {base}, expected 0 or a number above 1");
        return Err(c.error("layer_rope_theta", what));
    }
    let scaling = d.ropes[0].scaling.clone();
    let mut kinds: Vec<f64> = Vec::new();
    for (kind, &base) in d.config.layer_ropes.iter_mut().zip(&bases) {
        let known = kinds.iter().position(|&known| known == base);
        *kind = match known {
            _ if base == 0.0 => 0,
            Some(at) => at as u32 + 1,
            None => {
                kinds.push(base);
                kinds.len() as u32
            }
        };
    }
    if let Some(&first) = kinds.first() {
        d.config.rope_theta = first;
        d.ropes =
            kinds.into_iter().map(|theta| RopeSpec { theta, scaling: scaling.clone() }).collect();
    }
    Ok(())
}

fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    granite::gguf(keys, d)?;
    d.config.experts = keys.experts(d.config.n_layers, RouterSoftmax::Chosen)?;
    let width = keys.u32("expert_shared_feed_forward_length")?;
    if let Some(e) = &mut d.config.experts {
        e.shared = width.and_then(|width| SharedExpert::of(1, width));
    }
    Ok(())
}
