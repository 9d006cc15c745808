//! Qwen3-Next and Qwen 3.5: three of four layers follow the gated delta rule; attention has gates; experts, if
//! any, are beside a shared one with a gate. Of models that also see images, the text part.

use nanoinfer_format::{QkNorm, Recurrent, RecurrentKind, Role, RouterSoftmax, SharedExpert};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::{Change, DRAFT_LAYERS, Description};
use crate::gguf::Keys;
use crate::hf::{Settings, experts, recurrent_layers, router_softmax, shared_expert};
use crate::names::Entry;

pub(super) const FAMILY: Family = Family {
    hugging_face: &[
        HfSpelling {
            model_type: "qwen3_5_text",
            wrapper: Some("qwen3_5"),
            head_dim: Some(256),
            own_names: HF_NAMES,
            adapt: hugging_face,
            ..HfSpelling::LLAMA
        },
        HfSpelling {
            model_type: "qwen3_5_moe_text",
            wrapper: Some("qwen3_5_moe"),
            head_dim: Some(256),
            d_ff: &["shared_expert_intermediate_size"],
            own_names: HF_NAMES,
            adapt: sparse,
            ..HfSpelling::LLAMA
        },
        HfSpelling {
            model_type: "qwen3_next",
            head_dim: Some(256),
            own_names: HF_NAMES,
            adapt: next,
            ..HfSpelling::LLAMA
        },
    ],
    gguf: &[
        GgufSpelling { architecture: "qwen35", tiled_heads: true, ..GGUF },
        GgufSpelling { architecture: "qwen35moe", tiled_heads: true, ..GGUF },
        GgufSpelling { architecture: "qwen3next", ..GGUF },
    ],
};

const GGUF: GgufSpelling =
    GgufSpelling { own_names: GGUF_NAMES, adapt: gguf, ..GgufSpelling::NEOX };

const HF_NAMES: &[Entry] = &[
    ("self_attn.q_proj", &[Role::AttnQ, Role::AttnGate]),
    ("linear_attn.in_proj_qkv", &[Role::SsmQkv]),
    ("linear_attn.in_proj_z", &[Role::SsmGate]),
    ("linear_attn.in_proj_b", &[Role::SsmBeta]),
    ("linear_attn.in_proj_a", &[Role::SsmAlpha]),
    ("linear_attn.in_proj_qkvz", &[Role::SsmQkv, Role::SsmGate]),
    ("linear_attn.in_proj_ba", &[Role::SsmBeta, Role::SsmAlpha]),
    ("linear_attn.conv1d", &[Role::SsmConv]),
    ("linear_attn.A_log", &[Role::SsmA]),
    ("linear_attn.dt_bias", &[Role::SsmDtBias]),
    ("linear_attn.norm", &[Role::SsmNorm]),
    ("linear_attn.out_proj", &[Role::SsmOut]),
    ("mlp.gate_proj", &[Role::FfnGate]),
    ("mlp.up_proj", &[Role::FfnUp]),
    ("mlp.down_proj", &[Role::FfnDown]),
    ("mlp.shared_expert.gate_proj", &[Role::FfnGate]),
    ("mlp.shared_expert.up_proj", &[Role::FfnUp]),
    ("mlp.shared_expert.down_proj", &[Role::FfnDown]),
    ("mlp.shared_expert_gate", &[Role::FfnSharedGate]),
    ("mlp.gate", &[Role::FfnRouter]),
    ("mlp.experts.*.gate_proj", &[Role::FfnGateExperts]),
    ("mlp.experts.*.up_proj", &[Role::FfnUpExperts]),
    ("mlp.experts.*.down_proj", &[Role::FfnDownExperts]),
    // All experts in one tensor.
    ("mlp.experts.gate_up_proj", &[Role::FfnGateExperts, Role::FfnUpExperts]),
    ("mlp.experts.down_proj", &[Role::FfnDownExperts]),
];

const GGUF_NAMES: &[Entry] = &[
    ("post_attention_norm", &[Role::FfnNorm]),
    ("attn_q", &[Role::AttnQ, Role::AttnGate]),
    ("attn_qkv", &[Role::SsmQkv]),
    ("attn_gate", &[Role::SsmGate]),
    ("ssm_beta", &[Role::SsmBeta]),
    ("ssm_alpha", &[Role::SsmAlpha]),
    ("ssm_in", &[Role::SsmQkv, Role::SsmGate]), // in older files
    ("ssm_ba", &[Role::SsmBeta, Role::SsmAlpha]),
    ("ssm_conv1d", &[Role::SsmConv]),
    ("ssm_a", &[Role::SsmA]),
    ("ssm_dt.bias", &[Role::SsmDtBias]),
    ("ssm_norm", &[Role::SsmNorm]),
    ("ssm_out", &[Role::SsmOut]),
    ("ffn_gate", &[Role::FfnGate]),
    ("ffn_up", &[Role::FfnUp]),
    ("ffn_down", &[Role::FfnDown]),
    ("ffn_gate_shexp", &[Role::FfnGate]),
    ("ffn_up_shexp", &[Role::FfnUp]),
    ("ffn_down_shexp", &[Role::FfnDown]),
    ("ffn_gate_inp_shexp", &[Role::FfnSharedGate]),
    ("ffn_gate_up_exps", &[Role::FfnGateExperts, Role::FfnUpExperts]),
];

/// The norms that multiply by 1 + w, which are all except those of recurrent layers.
const ONE_PLUS: &[Role] =
    &[Role::AttnNorm, Role::FfnNorm, Role::OutputNorm, Role::AttnQNorm, Role::AttnKNorm];

fn hugging_face(c: &Settings, d: &mut Description) -> Result<(), Error> {
    if c.bool("attn_output_gate")? == Some(false) {
        let next = "supported: models whose attention output has gates";
        return Err(c.unsupported("attn_output_gate false", next));
    }
    attention(d);
    d.changes.push(Change { roles: ONE_PLUS, factor: 1.0, offset: 1.0 });
    let settings = c.object("rope_parameters")?;
    let stated = |c: &Settings| c.has("partial_rotary_factor");
    if !stated(c) && !settings.as_ref().is_some_and(stated) {
        d.config.rotary_dim = d.config.head_dim / 4;
    }
    if c.u32("mtp_num_hidden_layers")?.unwrap_or(0) > 0 {
        d.left_out.push(DRAFT_LAYERS);
    }
    let layers = match recurrent_layers(c, &["linear_attention"])? {
        Some(layers) => layers,
        None => interval(c.u32("full_attention_interval")?, d),
    };
    let size = |key: &str, default| Ok::<_, Error>(c.u32(key)?.unwrap_or(default));
    let recurrent = Recurrent {
        kernel: size("linear_conv_kernel_dim", 4)?,
        key_heads: size("linear_num_key_heads", 16)?,
        key_dim: size("linear_key_head_dim", 128)?,
        value_heads: size("linear_num_value_heads", 32)?,
        value_dim: size("linear_value_head_dim", 128)?,
        layers,
        ..Recurrent::of(RecurrentKind::Delta)
    };
    d.config.recurrent = recurrent.layers.contains(&true).then_some(recurrent);
    Ok(())
}

/// Heads are normalized, and outputs have gates.
fn attention(d: &mut Description) {
    d.config.qk_norm = QkNorm::Head;
    d.config.attention_gate = true;
}

/// All layers are recurrent but every fourth, or whatever is stated.
fn interval(stated: Option<u32>, d: &Description) -> Vec<bool> {
    let interval = stated.unwrap_or(4).max(1) as usize;
    (0..d.config.windows.len()).map(|layer| !(layer + 1).is_multiple_of(interval)).collect()
}

/// Qwen 3.5 with experts on every layer.
fn sparse(c: &Settings, d: &mut Description) -> Result<(), Error> {
    hugging_face(c, d)?;
    let mut experts = experts(c, d, "num_experts", [256, 8])?;
    experts.d_ff = c.u32("moe_intermediate_size")?.unwrap_or(512);
    experts.shared = shared_expert(c)?;
    d.config.experts = Some(experts);
    Ok(())
}

/// Qwen3-Next: experts except on some layers.
fn next(c: &Settings, d: &mut Description) -> Result<(), Error> {
    hugging_face(c, d)?;
    let mut experts = experts(c, d, "num_experts", [512, 10])?;
    experts.d_ff = c.u32("moe_intermediate_size")?.unwrap_or(512);
    experts.shared = shared_expert(c)?;
    if c.has("norm_topk_prob") {
        experts.router_softmax = router_softmax(c)?;
    }
    let (dense, step) = (
        c.ids("mlp_only_layers")?.unwrap_or_default(),
        c.u32("decoder_sparse_step")?.unwrap_or(1).max(1),
    );
    let some = experts.n_experts > 0;
    for (layer, sparse) in (0..).zip(&mut experts.layers) {
        *sparse = some && !dense.contains(&layer) && (layer + 1).is_multiple_of(step);
    }
    d.config.experts = Some(experts).filter(|e| e.layers.contains(&true));
    Ok(())
}

fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    attention(d);
    let layers = match keys.ints("attention.recurrent_layers")? {
        Some(stated) => {
            stated.iter().map(|&layer| layer != 0).take(d.config.windows.len()).collect()
        }
        None => interval(keys.u32("full_attention_interval")?, d),
    };
    d.config.recurrent = keys.states(RecurrentKind::Delta, layers)?;
    d.config.experts = keys.experts(d.config.n_layers, RouterSoftmax::Chosen)?;
    if let Some(experts) = &mut d.config.experts {
        let d_ff = keys.u32("expert_shared_feed_forward_length")?.unwrap_or(d.config.d_ff);
        experts.shared = Some(SharedExpert { d_ff, gate: true });
    }
    Ok(())
}
