//! Nemotron-H: a layer is one of Mamba-2, attention without RoPE, and a feed-forward network or experts. Steps of
//! states have no minimum, as in the authors' code and llama.cpp; transformers 5 raises them to `time_step_min`.

use nanoinfer_format::{Activation, LayerParts, Role, RouterSoftmax, SharedExpert};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::{Change, Description};
use crate::gguf::Keys;
use crate::hf::{Mamba2Sizes, Settings, experts, refuse_step_limit};
use crate::names::Entry;

pub(super) const FAMILY: Family = Family {
    hugging_face: &[HfSpelling {
        model_type: "nemotron_h",
        layer_prefix: "backbone.layers.",
        head_dim: Some(128),
        norm_eps: 1e-5,
        norm_eps_key: "layer_norm_epsilon",
        activation: Activation::Relu2,
        own_names: HF_NAMES,
        adapt: hugging_face,
        ..HfSpelling::LLAMA
    }],
    gguf: &[
        GgufSpelling { architecture: "nemotron_h", ..GGUF },
        GgufSpelling { architecture: "nemotron_h_moe", ..GGUF },
    ],
};

const GGUF: GgufSpelling = GgufSpelling { adapt: gguf, ..GgufSpelling::NORM };

/// The norm of a layer is that of its only part.
const HF_NAMES: &[Entry] = &[
    ("backbone.embeddings", &[Role::TokenEmbd]),
    ("backbone.norm_f", &[Role::OutputNorm]),
    ("norm", &[Role::AttnNorm]),
    ("mixer.q_proj", &[Role::AttnQ]),
    ("mixer.k_proj", &[Role::AttnK]),
    ("mixer.v_proj", &[Role::AttnV]),
    ("mixer.o_proj", &[Role::AttnOutput]),
    ("mixer.in_proj", &[Role::SsmGate, Role::SsmQkv, Role::SsmAlpha]),
    ("mixer.conv1d", &[Role::SsmConv]),
    ("mixer.A_log", &[Role::SsmA]),
    ("mixer.dt_bias", &[Role::SsmDtBias]),
    ("mixer.D", &[Role::SsmD]),
    ("mixer.norm", &[Role::SsmNorm]),
    ("mixer.out_proj", &[Role::SsmOut]),
    ("mixer.up_proj", &[Role::FfnUp]),
    ("mixer.down_proj", &[Role::FfnDown]),
    ("mixer.shared_experts.up_proj", &[Role::FfnUp]),
    ("mixer.shared_experts.down_proj", &[Role::FfnDown]),
    ("mixer.gate", &[Role::FfnRouter]),
    ("mixer.gate.e_score_correction_bias", &[Role::FfnRouterBias]),
    ("mixer.experts.*.up_proj", &[Role::FfnUpExperts]),
    ("mixer.experts.*.down_proj", &[Role::FfnDownExperts]),
];

const SIZES: Mamba2Sizes = Mamba2Sizes {
    heads: ("mamba_num_heads", 128),
    groups: ("n_groups", 8),
    state: ("ssm_state_size", 128),
    kernel: ("conv_kernel", 4),
};

/// What a layer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Mamba,
    Attention,
    Mlp,
    Experts,
}

fn hugging_face(c: &Settings, d: &mut Description) -> Result<(), Error> {
    let stated = |key: &str, supported: &str| match c.str(key)? {
        Some(other) if other != supported => {
            Err(c.unsupported(format!("{key} {other:?}"), &format!("supported: {supported}")))
        }
        _ => Ok(()),
    };
    refuse_step_limit(c)?;
    stated("mlp_hidden_act", "relu2")?;
    stated("mamba_hidden_act", "silu")?;
    let head_dim = c.u32("attention_head_dim")?.filter(|_| !c.has("head_dim"));
    if head_dim.is_some_and(|other| other != d.config.head_dim) {
        return Err(c.unsupported("attention_head_dim other than 128", "state head_dim instead"));
    }
    d.biases.ssm = Some(c.bool("use_bias")?.unwrap_or(false));
    d.biases.conv = Some(c.bool("use_conv_bias")?.unwrap_or(true));
    d.config.gated = false;
    d.config.layer_ropes.fill(0);
    let blocks = blocks(c, d.config.windows.len())?;
    d.config.layer_parts = blocks.iter().map(|block| block.part()).collect();
    let are = |kind| blocks.iter().map(|&block| block == kind).collect::<Vec<_>>();
    let heads = c.u32(SIZES.heads.0)?.unwrap_or(SIZES.heads.1);
    let inner = heads.saturating_mul(c.u32("mamba_head_dim")?.unwrap_or(64));
    d.config.recurrent = SIZES.read(c, inner, are(Block::Mamba))?;
    if blocks.contains(&Block::Experts) {
        experts_of(c, d, are(Block::Experts))?;
        if !blocks.contains(&Block::Mlp) {
            d.config.d_ff = d.config.experts.as_ref().map_or(0, |e| e.d_ff);
        }
    }
    Ok(())
}

fn experts_of(c: &Settings, d: &mut Description, layers: Vec<bool>) -> Result<(), Error> {
    if c.get("moe_latent_size").is_some() {
        return Err(c.unsupported("moe_latent_size", "supported: experts as wide as the model"));
    }
    let groups = c.u32("n_group")?.unwrap_or(1);
    if groups > 1 && c.u32("topk_group")?.unwrap_or(1) < groups {
        let next = "supported: experts chosen among all";
        return Err(c.unsupported("a choice of some groups of experts", next));
    }
    let mut e = experts(c, d, "n_routed_experts", [8, 2])?;
    e.d_ff = c.u32("moe_intermediate_size")?.unwrap_or(7688);
    (e.router_sigmoid, e.router_bias, e.layers) = (true, true, layers);
    if c.bool("norm_topk_prob")? == Some(false) {
        e.router_softmax = RouterSoftmax::All;
    }
    let width = c.u32("moe_shared_expert_intermediate_size")?.unwrap_or(7688);
    e.shared = Some(SharedExpert { d_ff: width, gate: false });
    scale_experts(d, c.positive("routed_scaling_factor")?);
    d.config.experts = Some(e);
    Ok(())
}

/// Multiplies the outputs of experts by a factor.
pub(super) fn scale_experts(d: &mut Description, factor: Option<f64>) {
    if let Some(factor) = factor.filter(|&factor| factor != 1.0) {
        let roles = &[Role::FfnDownExperts];
        d.changes.push(Change { roles, factor: factor as f32, offset: 0.0 });
    }
}

impl Block {
    fn part(self) -> LayerParts {
        match self {
            Self::Mamba | Self::Attention => LayerParts::Mixer,
            Self::Mlp | Self::Experts => LayerParts::Ffn,
        }
    }
}

/// The kinds of the `n` layers: a list of names, or a string with a letter for each.
fn blocks(c: &Settings, n: usize) -> Result<Vec<Block>, Error> {
    let pattern = c.str("hybrid_override_pattern")?;
    let listed = match c.strings("layers_block_type")? {
        None => c.strings("layer_types")?,
        stated => stated,
    };
    let letters: Vec<String> = match (listed, pattern) {
        (Some(list), _) => list.into_iter().map(str::to_owned).collect(),
        (None, Some(pattern)) => pattern.chars().map(String::from).collect(),
        (None, None) => return Err(c.error("hybrid_override_pattern", "is missing")),
    };
    if letters.len() != n {
        let what = format!("lists {} layers, expected {n}", letters.len());
        return Err(c.error("hybrid_override_pattern", what));
    }
    let block = |name: &String| match name.as_str() {
        "M" | "mamba" | "linear_attention" => Ok(Block::Mamba),
        "*" | "attention" | "full_attention" => Ok(Block::Attention),
        "-" | "mlp" => Ok(Block::Mlp),
        "E" | "moe" => Ok(Block::Experts),
        other => {
            let next = "supported: linear_attention, full_attention, mlp, moe";
            Err(c.unsupported(format!("layer type {other:?}"), next))
        }
    };
    letters.iter().map(block).collect()
}

fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.gated = false;
    d.config.activation = Activation::Relu2;
    d.config.layer_ropes.fill(0);
    let list = "feed_forward_length";
    let without_ffn = keys.need(list, keys.without(list)?)?;
    let part = |&without: &bool| if without { LayerParts::Mixer } else { LayerParts::Ffn };
    d.config.layer_parts = without_ffn.iter().map(part).collect();
    let recurrent = keys.recurrent_layers()?.into_iter().zip(&without_ffn);
    let recurrent = recurrent.map(|(recurrent, &without_ffn)| recurrent && without_ffn).collect();
    d.config.recurrent = keys.mamba2(recurrent)?;
    if keys.u32("moe_latent_size")?.is_some_and(|size| size > 0) {
        let next = "supported: experts as wide as the model";
        return Err(keys.unsupported("moe_latent_size".into(), next));
    }
    if keys.u32("expert_group_count")?.unwrap_or(1) > 1 {
        let next = "supported: experts chosen among all";
        return Err(keys.unsupported("a choice of some groups of experts".into(), next));
    }
    d.config.experts = keys.experts(d.config.n_layers, RouterSoftmax::Chosen)?;
    let Some(e) = &mut d.config.experts else { return Ok(()) };
    (e.router_sigmoid, e.router_bias) = (true, true);
    if keys.bool("expert_weights_norm")? == Some(false) {
        e.router_softmax = RouterSoftmax::All;
    }
    let width = keys.u32("expert_shared_feed_forward_length")?;
    e.shared = width.and_then(|width| SharedExpert::of(1, width));
    scale_experts(d, keys.positive("expert_weights_scale")?);
    Ok(())
}
