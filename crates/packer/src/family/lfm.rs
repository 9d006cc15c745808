//! LFM2: most layers have a gated short convolution instead of attention. LFM2-MoE: most have experts, chosen by
//! sigmoids with a bias.

use nanoinfer_format::{QkNorm, Recurrent, RecurrentKind, Role, RouterSoftmax};

use super::nemotron_h::scale_experts;
use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::Description;
use crate::gguf::Keys;
use crate::hf::{Settings, experts, recurrent_layers};
use crate::names::Entry;

pub(super) const FAMILY: Family = Family {
    hugging_face: &[
        HfSpelling { d_ff: &["block_ff_dim", "intermediate_size"], ..HF },
        HfSpelling { model_type: "lfm2_moe", adapt: sparse, ..HF },
    ],
    gguf: &[
        GgufSpelling { architecture: "lfm2", ..GGUF },
        GgufSpelling { architecture: "lfm2moe", adapt: gguf_sparse, ..GGUF },
    ],
};

const HF: HfSpelling = HfSpelling {
    model_type: "lfm2",
    norm_eps: 1e-5,
    norm_eps_key: "norm_eps",
    rope_theta: 1e6,
    tied_embeddings: true,
    own_names: HF_NAMES,
    adapt: hugging_face,
    ..HfSpelling::LLAMA
};

const GGUF: GgufSpelling =
    GgufSpelling { own_names: GGUF_NAMES, adapt: gguf, ..GgufSpelling::NEOX };

const HF_NAMES: &[Entry] = &[
    ("model.embedding_norm", &[Role::OutputNorm]),
    ("operator_norm", &[Role::AttnNorm]),
    ("ffn_norm", &[Role::FfnNorm]),
    ("self_attn.q_layernorm", &[Role::AttnQNorm]),
    ("self_attn.k_layernorm", &[Role::AttnKNorm]),
    ("self_attn.out_proj", &[Role::AttnOutput]),
    ("conv.in_proj", &[Role::SsmInGate, Role::SsmGate, Role::SsmQkv]),
    ("conv.conv", &[Role::SsmConv]),
    ("conv.out_proj", &[Role::SsmOut]),
    ("feed_forward.w1", &[Role::FfnGate]),
    ("feed_forward.w2", &[Role::FfnDown]),
    ("feed_forward.w3", &[Role::FfnUp]),
    ("feed_forward.gate", &[Role::FfnRouter]),
    ("feed_forward.expert_bias", &[Role::FfnRouterBias]),
    ("feed_forward.experts.*.w1", &[Role::FfnGateExperts]),
    ("feed_forward.experts.*.w2", &[Role::FfnDownExperts]),
    ("feed_forward.experts.*.w3", &[Role::FfnUpExperts]),
];

const GGUF_NAMES: &[Entry] = &[
    ("token_embd_norm", &[Role::OutputNorm]), // in older files `output_norm`
    ("shortconv.in_proj", &[Role::SsmInGate, Role::SsmGate, Role::SsmQkv]),
    ("shortconv.conv", &[Role::SsmConv]),
    ("shortconv.out_proj", &[Role::SsmOut]),
];

fn hugging_face(c: &Settings, d: &mut Description) -> Result<(), Error> {
    mixers(c, d)?;
    d.config.d_ff = hidden_width(c, d.config.d_ff)?;
    Ok(())
}

/// Experts on all layers but the first ones.
fn sparse(c: &Settings, d: &mut Description) -> Result<(), Error> {
    mixers(c, d)?;
    let mut e = experts(c, d, "num_experts", [32, 4])?;
    e.d_ff = c.u32("moe_intermediate_size")?.unwrap_or(1792);
    e.router_sigmoid = true;
    e.router_bias = c.bool("use_expert_bias")?.unwrap_or(true);
    if c.bool("norm_topk_prob")? == Some(false) {
        e.router_softmax = RouterSoftmax::All;
    }
    let dense = c.u32("num_dense_layers")?.unwrap_or(2) as usize;
    e.layers.iter_mut().take(dense).for_each(|sparse| *sparse = false);
    scale_experts(d, c.positive("routed_scaling_factor")?);
    d.config.experts = Some(e).filter(|e| e.layers.contains(&true));
    Ok(())
}

/// Convolutions and attention.
fn mixers(c: &Settings, d: &mut Description) -> Result<(), Error> {
    let n = d.config.n_layers as usize;
    let bias = Some(c.bool("conv_bias")?.unwrap_or(false));
    (d.biases.ssm, d.biases.conv) = (bias, bias);
    d.config.qk_norm = QkNorm::Head;
    if let Some(tied) = c.bool("tie_embedding")? {
        d.config.tied_embeddings = tied;
    }
    let layers = match (recurrent_layers(c, &["conv"])?, c.ids("full_attn_idxs")?) {
        (Some(layers), _) => layers,
        (None, Some(attention)) => (0..n as u32).map(|layer| !attention.contains(&layer)).collect(),
        (None, None) => vec![false; n],
    };
    d.config.recurrent = convolutions(d, c.u32("conv_L_cache")?.unwrap_or(3), layers);
    Ok(())
}

fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.qk_norm = QkNorm::Head;
    d.config.recurrent = convolutions(d, keys.size("shortconv.l_cache")?, keys.recurrent_layers()?);
    Ok(())
}

fn gguf_sparse(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    const SIGMOID: u32 = 2; // llama.cpp's LLAMA_EXPERT_GATING_FUNC_TYPE_SIGMOID
    gguf(keys, d)?;
    if let Some(other) = keys.u32("expert_gating_func")?.filter(|&kind| kind != SIGMOID) {
        let what = format!("is {other}, expected {SIGMOID} (sigmoid)");
        return Err(keys.error("expert_gating_func", &what));
    }
    d.config.experts = keys.experts(d.config.n_layers, RouterSoftmax::Chosen)?;
    if let Some(e) = &mut d.config.experts {
        (e.router_sigmoid, e.router_bias) = (true, true);
    }
    Ok(())
}

/// Short convolutions on `layers`, if there are any.
fn convolutions(d: &Description, kernel: u32, layers: Vec<bool>) -> Option<Recurrent> {
    layers.contains(&true).then(|| Recurrent {
        kernel,
        key_heads: 0,
        key_dim: 0,
        value_heads: 1,
        value_dim: d.config.d_model,
        layers,
        ..Recurrent::of(RecurrentKind::Convolution)
    })
}

/// The hidden width of the feed-forward network: two thirds of the stated one, times a factor, rounded up.
fn hidden_width(c: &Settings, stated: u32) -> Result<u32, Error> {
    if !c.bool("block_auto_adjust_ff_dim")?.unwrap_or(true) {
        return Ok(stated);
    }
    let width = (2 * u64::from(stated) / 3) as f64;
    let width = (width * c.positive("block_ffn_dim_multiplier")?.unwrap_or(1.0)) as u32;
    let step = c.u32("block_multiple_of")?.unwrap_or(256).max(1);
    let rounded = width.checked_next_multiple_of(step);
    rounded.ok_or_else(|| c.error("block_multiple_of", format!("is {step}, which is too large")))
}
