//! Llama 4 (text part): attention in chunks, except on layers without RoPE, and experts whose inputs are weighted.

use nanoinfer_format::{Experts, QkNorm, Role, RouterSoftmax, SharedExpert, Temperature};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::Description;
use crate::gguf::Keys;
use crate::hf::{Settings, experts};
use crate::names::{Entry, RopeType, Stacks};

pub(super) const FAMILY: Family = Family {
    hugging_face: &[HfSpelling {
        model_type: "llama4_text",
        wrapper: Some("llama4"),
        rope_type: RopeType::Interleaved,
        head_dim: Some(128),
        norm_eps: 1e-5,
        d_ff: &["intermediate_size_mlp"],
        rope_theta: 500_000.0,
        own_names: HF_NAMES,
        adapt: hugging_face,
        ..HfSpelling::LLAMA
    }],
    gguf: &[GgufSpelling { architecture: "llama4", adapt: gguf, ..GgufSpelling::INTERLEAVED }],
};

const HF_NAMES: &[Entry] = &[
    ("feed_forward.gate_proj", &[Role::FfnGate]),
    ("feed_forward.up_proj", &[Role::FfnUp]),
    ("feed_forward.down_proj", &[Role::FfnDown]),
    ("feed_forward.router", &[Role::FfnRouter]),
    ("feed_forward.experts.gate_up_proj", &[Role::FfnGateExperts, Role::FfnUpExperts]),
    ("feed_forward.experts.down_proj", &[Role::FfnDownExperts]),
    ("feed_forward.shared_expert.gate_proj", &[Role::FfnGate]),
    ("feed_forward.shared_expert.up_proj", &[Role::FfnUp]),
    ("feed_forward.shared_expert.down_proj", &[Role::FfnDown]),
    // Quantized checkpoints have a tensor for each matrix.
    ("feed_forward.experts.*.gate_proj", &[Role::FfnGateExperts]),
    ("feed_forward.experts.*.up_proj", &[Role::FfnUpExperts]),
    ("feed_forward.experts.*.down_proj", &[Role::FfnDownExperts]),
];

/// Every fourth layer has no RoPE, by default.
const INTERVAL: usize = 4;
const CHUNK: u32 = 8192;
/// Positions with the same factor of queries, and the factor of their logarithm, by default.
const STEP: u32 = 8192;
const SCALE: f64 = 0.1;

/// What both spellings state about attention.
struct Attention {
    /// For each layer, whether it has RoPE.
    rotates: Vec<bool>,
    /// For each layer, the size of its chunks; 0 if it sees all positions.
    windows: Vec<u32>,
    /// Whether queries and keys with RoPE are normalized.
    norm: bool,
    /// The step and the scale with which queries without RoPE grow, if they do.
    temperature: Option<(u32, f64)>,
}

/// Settings common to both spellings.
fn describe(d: &mut Description, a: Attention, experts: Option<Experts>) {
    let c = &mut d.config;
    c.chunked_windows = a.windows.iter().any(|&window| window > 0);
    c.windows = a.windows;
    c.layer_ropes = a.rotates.iter().map(|&rotates| u32::from(rotates)).collect();
    if a.norm && a.rotates.contains(&true) {
        (c.qk_norm, c.qk_norm_late) = (QkNorm::Unit, true);
    }
    let layers: Vec<bool> = a.rotates.iter().map(|rotates| !rotates).collect();
    let grows = a.temperature.filter(|_| layers.contains(&true));
    // The position counts from 1.
    c.temperature = grows.map(|(step, scale)| Temperature { scale, step, offset: 1, layers });
    c.experts = experts.map(|e| Experts {
        router_softmax: RouterSoftmax::All,
        router_sigmoid: true,
        weighted_inputs: true,
        shared: SharedExpert::of(1, e.d_ff),
        ..e
    });
}

fn hugging_face(c: &Settings, d: &mut Description) -> Result<(), Error> {
    let n = d.config.windows.len();
    let rotates = rotating_layers(c, n)?;
    let chunk = match c.has("attention_chunk_size") {
        true => c.u32("attention_chunk_size")?.unwrap_or(0),
        false => CHUNK,
    };
    // Early configs have a number here.
    let grows = match c.get("attn_temperature_tuning").and_then(|v| v.as_u64()) {
        Some(number) => number != 0,
        None => c.bool("attn_temperature_tuning")?.unwrap_or(true),
    };
    let step = c.u32("floor_scale")?.unwrap_or(STEP);
    let scale = c.positive("attn_scale")?.unwrap_or(SCALE);
    let attention = Attention {
        windows: windows(c, &rotates, chunk)?,
        rotates,
        norm: c.bool("use_qk_norm")?.unwrap_or(true),
        temperature: grows.then_some((step, scale)),
    };
    let mut e = experts(c, d, "num_local_experts", [16, 1])?;
    e.d_ff = c.u32("intermediate_size")?.unwrap_or(8192);
    e.layers = sparse_layers(c, n)?;
    d.names = d.names.with_stacks(Stacks { transposed: true, alternating: false });
    describe(d, attention, Some(e).filter(|e| e.layers.contains(&true)));
    Ok(())
}

/// Whether each of `n` layers has RoPE. An empty list is as good as none.
fn rotating_layers(c: &Settings, n: usize) -> Result<Vec<bool>, Error> {
    let key = "no_rope_layers";
    if let Some(list) = c.numbers(key)?.filter(|list| !list.is_empty()) {
        if list.len() < n {
            let what = format!("lists {} layers, expected {n}", list.len());
            return Err(c.error(key, what));
        }
        return Ok(list.iter().take(n).map(|&rotates| rotates != 0.0).collect());
    }
    let interval = c.u32("no_rope_layer_interval")?.map_or(INTERVAL, |stated| stated as usize);
    Ok((1..=n).map(|number| !number.is_multiple_of(interval.max(1))).collect())
}

/// The chunks of each layer: those that `layer_types` names have some, or else those with RoPE.
fn windows(c: &Settings, rotates: &[bool], chunk: u32) -> Result<Vec<u32>, Error> {
    let of = |chunked: bool| if chunked { chunk } else { 0 };
    let Some(types) = c.strings("layer_types")? else {
        return Ok(rotates.iter().map(|&rotates| of(rotates)).collect());
    };
    let window = |kind: &&str| match *kind {
        "chunked_attention" => Ok(of(true)),
        "full_attention" => Ok(of(false)),
        other => {
            let next = "supported: full_attention, chunked_attention";
            Err(c.unsupported(format!("layer type {other:?}"), next))
        }
    };
    types.iter().map(window).collect()
}

/// Whether each of `n` layers has experts: those in `moe_layers`, or else every `interleave_moe_layer_step`-th.
fn sparse_layers(c: &Settings, n: usize) -> Result<Vec<bool>, Error> {
    if let Some(listed) = c.numbers("moe_layers")? {
        return Ok((0..n).map(|layer| listed.contains(&(layer as f64))).collect());
    }
    let step = c.u32("interleave_moe_layer_step")?.unwrap_or(1) as usize;
    Ok((1..=n).map(|number| step > 0 && number.is_multiple_of(step)).collect())
}

/// As llama.cpp assumes: nothing but a window of 0 is stated about attention.
fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    const WITHOUT_NORM: u32 = 128; // experts of Llama 4 Maverick
    let n = d.config.windows.len();
    let chunked = keys.u32("attention.sliding_window")? != Some(0);
    let rotates: Vec<bool> =
        (1..=n).map(|number| !chunked || !number.is_multiple_of(INTERVAL)).collect();
    let of = |&rotates: &bool| if chunked && rotates { CHUNK } else { 0 };
    let attention = Attention {
        windows: rotates.iter().map(of).collect(),
        rotates,
        norm: keys.u32("expert_count")? != Some(WITHOUT_NORM),
        temperature: Some((STEP, SCALE)),
    };
    describe(d, attention, keys.experts(d.config.n_layers, RouterSoftmax::All)?);
    Ok(())
}
