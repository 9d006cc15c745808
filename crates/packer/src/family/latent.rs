//! Models with latent attention: MiniCPM3, DeepSeek V2 and V3, and GLM-4.7-Flash.

use nanoinfer_format::{Config, Experts, Latent, Role, RouterSoftmax, SharedExpert};

use super::nemotron_h::scale_experts;
use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::{Change, DRAFT_LAYERS, Description};
use crate::gguf::Keys;
use crate::hf::{Settings, expert_groups, experts, grouped_experts, rope_settings};
use crate::names::{Entry, RopeType};
use crate::rope::{Scaling, yarn_magnitude};

pub(super) const FAMILY: Family = Family {
    hugging_face: &[
        HfSpelling {
            model_type: "minicpm3",
            norm_eps: 1e-5,
            tied_embeddings: true,
            adapt: minicpm3,
            ..HfSpelling::LLAMA
        },
        HfSpelling { model_type: "deepseek_v2", adapt: deepseek_v2, ..DEEPSEEK },
        HfSpelling { model_type: "deepseek_v3", adapt: deepseek_v3, ..DEEPSEEK },
        HfSpelling {
            model_type: "glm4_moe_lite",
            norm_eps: 1e-5,
            adapt: glm4_moe_lite,
            ..DEEPSEEK
        },
    ],
    gguf: &[
        GgufSpelling { architecture: "minicpm3", adapt: gguf_minicpm3, ..GgufSpelling::NEOX },
        GgufSpelling {
            architecture: "deepseek2",
            own_names: &[
                ("attn_q_b", &[Role::AttnQNope, Role::AttnQRope]),
                ("attn_q", &[Role::AttnQNope, Role::AttnQRope]),
            ],
            adapt: gguf_deepseek,
            ..GgufSpelling::INTERLEAVED
        },
    ],
};

const DEEPSEEK: HfSpelling = HfSpelling {
    own_names: NAMES,
    head_dim: Some(64), // has no meaning here, so the model need not be divisible into heads
    ..HfSpelling::LLAMA
};

const NAMES: &[Entry] = &[
    ("self_attn.q_b_proj", &[Role::AttnQNope, Role::AttnQRope]),
    ("self_attn.q_proj", &[Role::AttnQNope, Role::AttnQRope]),
    ("mlp.gate_proj", &[Role::FfnGate]),
    ("mlp.up_proj", &[Role::FfnUp]),
    ("mlp.down_proj", &[Role::FfnDown]),
    ("mlp.gate", &[Role::FfnRouter]),
    ("mlp.gate.e_score_correction_bias", &[Role::FfnRouterBias]),
    ("mlp.experts.*.gate_proj", &[Role::FfnGateExperts]),
    ("mlp.experts.*.up_proj", &[Role::FfnUpExperts]),
    ("mlp.experts.*.down_proj", &[Role::FfnDownExperts]),
    ("mlp.shared_experts.gate_proj", &[Role::FfnGate]),
    ("mlp.shared_experts.up_proj", &[Role::FfnUp]),
    ("mlp.shared_experts.down_proj", &[Role::FfnDown]),
];

/// Replaces attention by latent attention whose keys have a part of `rope` values that RoPE rotates.
fn attend_to_latents(c: &mut Config, latent: Latent, rope: u32) {
    c.attention_scale = 1.0 / f64::from(latent.nope_dim.saturating_add(rope)).sqrt();
    c.n_kv_heads = 1;
    c.rotary_dim = rope;
    c.head_dim = latent.kv_rank.saturating_add(rope);
    c.latent = Some(latent);
}

/// The sizes of latent attention, and their defaults: of the latent vectors, the vectors of queries, and the parts of
/// keys without and with RoPE. Values have `value` values by default.
fn hugging_face(
    c: &Settings,
    d: &mut Description,
    [kv, q, nope, rope]: [u32; 4],
    value: u32,
) -> Result<(), Error> {
    let size = |key: &str, default| Ok::<_, Error>(c.u32(key)?.unwrap_or(default));
    let latent = Latent {
        kv_rank: size("kv_lora_rank", kv)?,
        // `null` means that queries are projections of the residual stream.
        q_rank: if c.has("q_lora_rank") { size("q_lora_rank", 0)? } else { q },
        nope_dim: size("qk_nope_head_dim", nope)?,
        value_dim: size("v_head_dim", value)?,
        norm_eps: 1e-6, // whatever that of other norms is
    };
    let rope = size("qk_rope_head_dim", rope)?;
    attend_to_latents(&mut d.config, latent, rope);
    Ok(())
}

/// Multipliers of MiniCPM: of embeddings, of what layers add, and of logits, as if the model were `base` wide.
fn scale(d: &mut Description, embeddings: f64, depth: f64, base: f64) {
    let c = &mut d.config;
    c.embedding_scale = embeddings;
    c.logit_scale = base / f64::from(c.d_model);
    let factor = (depth / f64::from(c.n_layers).sqrt()) as f32;
    d.changes.push(Change { roles: &[Role::AttnOutput, Role::FfnDown], factor, offset: 0.0 });
}

fn minicpm3(c: &Settings, d: &mut Description) -> Result<(), Error> {
    let width = d.config.d_model / d.config.n_heads.max(1);
    hugging_face(c, d, [256, 768, 64, 32], width)?;
    let (layers, d_model) = (f64::from(d.config.n_layers), f64::from(d.config.d_model));
    let stated = |key: &str, default: f64, none: f64| match c.has(key) {
        true => Ok::<_, Error>(c.positive(key)?.unwrap_or(none)),
        false => Ok(default),
    };
    let embeddings = stated("scale_emb", 12.0, 12.0)?;
    let depth = stated("scale_depth", 1.4, layers.sqrt())?;
    let base = stated("dim_model_base", 256.0, d_model)?;
    scale(d, embeddings, depth, base);
    Ok(())
}

/// llama.cpp has the multipliers of the published model in its code.
fn gguf_minicpm3(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    let rope = keys.size("rope.dimension_count")?;
    let head = keys.size("attention.key_length")?;
    let Some(nope_dim) = head.checked_sub(rope) else {
        let what = format!("is {rope}, expected at most attention.key_length {head}");
        return Err(keys.error("rope.dimension_count", &what));
    };
    let latent = Latent {
        kv_rank: keys.size("attention.kv_lora_rank")?,
        q_rank: keys.size("attention.q_lora_rank")?,
        nope_dim,
        value_dim: d.config.d_model / d.config.n_heads.max(1),
        norm_eps: d.config.norm_eps,
    };
    attend_to_latents(&mut d.config, latent, rope);
    scale(d, 12.0, 1.4, 256.0);
    Ok(())
}

/// What the descendants of DeepSeek-V2 have in common: experts behind `dense` layers, `width` wide by default, beside
/// `shared` ones, and neighbouring values that RoPE rotates.
fn descend(
    c: &Settings,
    d: &mut Description,
    mut e: Experts,
    [dense, width, shared]: [u32; 3],
) -> Result<(), Error> {
    if c.bool("rope_interleave")? != Some(false) {
        d.names.rope_type = RopeType::Interleaved;
    }
    let size = |key: &str, default| Ok::<_, Error>(c.u32(key)?.unwrap_or(default));
    e.d_ff = size("moe_intermediate_size", width)?;
    e.shared = SharedExpert::of(size("n_shared_experts", shared)?, e.d_ff);
    let dense = size("first_k_dense_replace", dense)? as usize;
    e.layers = (0..e.layers.len()).map(|layer| layer >= dense).collect();
    if let Some(kinds) = c.strings("mlp_layer_types")? {
        e.layers = kinds.iter().map(|kind| *kind == "sparse").collect();
    }
    scale_experts(d, c.positive("routed_scaling_factor")?);
    d.config.experts = e.layers.contains(&true).then_some(e);
    if let Some(Scaling::Yarn(yarn)) = d.ropes.first().map(|rope| &rope.scaling) {
        let settings = rope_settings(c, None)?;
        let all = settings.map(|r| r.positive("mscale_all_dim")).transpose()?.flatten();
        let sharper = all.map_or(1.0, |all| yarn_magnitude(yarn.factor, all));
        d.config.attention_scale *= sharper * sharper;
    }
    if c.u32("num_nextn_predict_layers")?.is_some_and(|n| n > 0) {
        d.left_out.push(DRAFT_LAYERS);
    }
    Ok(())
}

fn deepseek_v2(c: &Settings, d: &mut Description) -> Result<(), Error> {
    hugging_face(c, d, [512, 1536, 128, 64], 128)?;
    let mut e = experts(c, d, "n_routed_experts", [64, 0])?;
    e.router_softmax = RouterSoftmax::All;
    match c.str("topk_method")?.unwrap_or("greedy") {
        "greedy" => {}
        "group_limited_greedy" => e.router_groups = expert_groups(c, [1, 1], 1)?,
        other => {
            let next = "supported: greedy, group_limited_greedy";
            return Err(c.unsupported(format!("topk_method {other:?}"), next));
        }
    }
    descend(c, d, e, [0, 1407, 2])
}

fn deepseek_v3(c: &Settings, d: &mut Description) -> Result<(), Error> {
    hugging_face(c, d, [512, 1536, 128, 64], 128)?;
    let e = grouped_experts(c, d, [256, 8, 8, 4])?;
    descend(c, d, e, [3, 2048, 1])
}

fn glm4_moe_lite(c: &Settings, d: &mut Description) -> Result<(), Error> {
    hugging_face(c, d, [512, 768, 192, 64], 256)?;
    let e = grouped_experts(c, d, [64, 4, 1, 1])?;
    descend(c, d, e, [1, 1536, 1])
}

fn gguf_deepseek(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    const SOFTMAX: u32 = 1; // llama.cpp's LLAMA_EXPERT_GATING_FUNC_TYPE_SOFTMAX
    let rope = keys.size("rope.dimension_count")?;
    // Files from before April 2025 state the sizes of keys and values that are not latent.
    let sized = |new: &str, old: &str| match keys.u32(new)? {
        None => keys.size(old),
        Some(stated) => Ok::<_, Error>(stated),
    };
    let head = sized("attention.key_length_mla", "attention.key_length")?;
    let Some(nope_dim) = head.checked_sub(rope) else {
        let what = format!("is {rope}, expected at most the key length {head}");
        return Err(keys.error("rope.dimension_count", &what));
    };
    let latent = Latent {
        kv_rank: keys.size("attention.kv_lora_rank")?,
        q_rank: keys.u32("attention.q_lora_rank")?.unwrap_or(0),
        nope_dim,
        value_dim: sized("attention.value_length_mla", "attention.value_length")?,
        norm_eps: d.config.norm_eps,
    };
    attend_to_latents(&mut d.config, latent, rope);
    let n = d.config.n_layers;
    d.config.experts = keys.experts(n, RouterSoftmax::All)?;
    let sigmoid = keys.u32("expert_gating_func")?.is_some_and(|kind| kind != SOFTMAX);
    if let Some(e) = d.config.experts.as_mut().filter(|_| sigmoid) {
        (e.router_sigmoid, e.router_bias) = (true, true);
        if keys.bool("expert_weights_norm")? == Some(true) {
            e.router_softmax = RouterSoftmax::Chosen;
        }
    }
    if let Some(e) = &mut d.config.experts {
        e.router_groups = keys.expert_groups(if sigmoid { 2 } else { 1 })?;
        e.shared = SharedExpert::of(keys.u32("expert_shared_count")?.unwrap_or(0), e.d_ff);
    }
    scale_experts(d, keys.positive("expert_weights_scale")?);
    if let Some(Scaling::Yarn(yarn)) = d.ropes.first_mut().map(|rope| &mut rope.scaling) {
        // A tenth of `mscale_all_dim`, to which the factor of cosines and sines is relative.
        let tenth = keys.positive("rope.scaling.yarn_log_multiplier")?;
        let sharper = tenth.map_or(1.0, |tenth| yarn_magnitude(yarn.factor, 10.0 * tenth));
        d.config.attention_scale *= sharper * sharper;
        yarn.magnitude = 1.0;
    }
    Ok(())
}
