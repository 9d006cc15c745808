//! Tensor names: a table from a source's names to the [`Role`]s of their rows.

use std::borrow::Cow;

use nanoinfer_format::Role;

/// A tensor name and the roles of its rows: one weight, or several stacked in one tensor. `*` in
/// the name stands for the number of an expert; of names like `{a,b}`, the tensors follow each other in one weight.
pub(crate) type Entry = (&'static str, &'static [Role]);

/// The order of the rows of each head of Q and K, by llama.cpp's names (`llama_model_rope_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RopeType {
    /// RoPE pairs neighbouring rows: llama.cpp's converter has permuted them.
    Norm,
    /// RoPE pairs row `i` with row `i + head_dim / 2`, as in most Hugging Face checkpoints.
    Neox,
    /// RoPE pairs neighbouring rows, as in the model's Hugging Face checkpoints.
    Interleaved,
}

/// The tensor names of an architecture in one kind of source. Names within a layer are looked up in
/// `own` first, then in `shared`, without the roles that `own` has other names for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    layer_prefix: &'static str,
    own: &'static [Entry],
    shared: &'static [Entry],
    outside_layers: &'static [Entry],
    pub(crate) rope_type: RopeType,
    /// Whether heads of values that share a key are apart in the delta rule's weights.
    pub(crate) tiled_heads: bool,
    /// How matrices of all experts in one tensor are stored.
    pub(crate) stacks: Stacks,
    /// Whether the model is a part of another one: names may then begin with one of [`TEXT_PARTS`].
    is_part: bool,
}

/// How the matrices of all experts are stored in one tensor.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stacks {
    /// Whether each is transposed: `[experts, inputs, rows]`.
    pub(crate) transposed: bool,
    /// Whether rows of gate and up alternate, rather than those of all gates being first.
    pub(crate) alternating: bool,
}

/// The prefix of layers in GGUF files.
const GGUF_PREFIX: &str = "blk.";

/// Prefixes of the names in a model's text part, and what they stand for.
const TEXT_PARTS: [(&str, &str); 2] =
    [("model.language_model.", "model."), ("language_model.", "")];

impl Names {
    /// Names of `LlamaForCausalLM` in transformers, except for those in `own`.
    pub(crate) const fn hugging_face(own: &'static [Entry]) -> Self {
        Self {
            layer_prefix: "model.layers.",
            own,
            shared: HF_LAYER,
            outside_layers: HF_OUTSIDE_LAYERS,
            rope_type: RopeType::Neox,
            tiled_heads: false,
            stacks: Stacks { transposed: false, alternating: false },
            is_part: false,
        }
    }

    /// The same names, with this order of the rows of heads.
    pub(crate) const fn with_rope_type(self, rope_type: RopeType) -> Self {
        Self { rope_type, ..self }
    }

    /// The names if those of layers begin with `layer_prefix`.
    pub(crate) fn in_layers(self, layer_prefix: &'static str) -> Self {
        Self { layer_prefix, ..self }
    }

    /// The names in a model of which this is the text part.
    pub(crate) fn of_text_part(self) -> Self {
        Self { is_part: true, ..self }
    }

    /// The same names, with stacks of experts stored like this.
    pub(crate) fn with_stacks(self, stacks: Stacks) -> Self {
        Self { stacks, ..self }
    }

    /// The same names, with this order of heads.
    pub(crate) fn with_tiled_heads(self, tiled_heads: bool) -> Self {
        Self { tiled_heads, ..self }
    }

    /// Names of llama.cpp's converter, except for those in `own`.
    pub(crate) const fn gguf(rope_type: RopeType, own: &'static [Entry]) -> Self {
        Self {
            layer_prefix: GGUF_PREFIX,
            own,
            shared: GGUF_LAYER,
            outside_layers: GGUF_OUTSIDE_LAYERS,
            rope_type,
            tiled_heads: false,
            stacks: Stacks { transposed: false, alternating: false },
            is_part: false,
        }
    }
}

const HF_LAYER: &[Entry] = &[
    ("input_layernorm", &[Role::AttnNorm]),
    ("self_attn.q_proj", &[Role::AttnQ]),
    ("self_attn.k_proj", &[Role::AttnK]),
    ("self_attn.v_proj", &[Role::AttnV]),
    ("self_attn.q_norm", &[Role::AttnQNorm]),
    ("self_attn.k_norm", &[Role::AttnKNorm]),
    ("self_attn.o_proj", &[Role::AttnOutput]),
    // Latent attention.
    ("self_attn.q_a_proj", &[Role::AttnQA]),
    ("self_attn.q_a_layernorm", &[Role::AttnQNorm]),
    ("self_attn.q_b_proj", &[Role::AttnQNope, Role::AttnQRope]),
    ("self_attn.kv_a_proj_with_mqa", &[Role::AttnKvA, Role::AttnKRope]),
    ("self_attn.kv_a_layernorm", &[Role::AttnKNorm]),
    ("self_attn.kv_b_proj", &[Role::AttnKB, Role::AttnVB]),
    ("post_attention_layernorm", &[Role::FfnNorm]),
    ("mlp.gate_proj", &[Role::FfnGate]),
    ("mlp.up_proj", &[Role::FfnUp]),
    ("mlp.down_proj", &[Role::FfnDown]),
    // Mamba-2.
    ("mamba.in_proj", &[Role::SsmGate, Role::SsmQkv, Role::SsmAlpha]),
    ("mamba.conv1d", &[Role::SsmConv]),
    ("mamba.A_log", &[Role::SsmA]),
    ("mamba.dt_bias", &[Role::SsmDtBias]),
    ("mamba.D", &[Role::SsmD]),
    ("mamba.norm", &[Role::SsmNorm]),
    ("mamba.out_proj", &[Role::SsmOut]),
];

const HF_OUTSIDE_LAYERS: &[Entry] = &[
    ("model.embed_tokens", &[Role::TokenEmbd]),
    ("model.norm", &[Role::OutputNorm]),
    ("lm_head", &[Role::Output]),
];

/// Hugging Face: normalization after attention and feed-forward only (OLMo 2, EXAONE 4).
pub(crate) const HF_POST_NORMS: &[Entry] = &[
    ("post_attention_layernorm", &[Role::AttnPostNorm]),
    ("post_feedforward_layernorm", &[Role::FfnPostNorm]),
];

/// Hugging Face: mixtures of experts since Mixtral (Qwen3-MoE, OLMoE).
pub(crate) const HF_EXPERTS: &[Entry] = &[
    ("mlp.gate", &[Role::FfnRouter]),
    ("mlp.experts.*.gate_proj", &[Role::FfnGateExperts]),
    ("mlp.experts.*.up_proj", &[Role::FfnUpExperts]),
    ("mlp.experts.*.down_proj", &[Role::FfnDownExperts]),
];

/// Hugging Face: experts since DeepSeek-V3, beside shared ones.
pub(crate) const DEEPSEEK_EXPERTS: &[Entry] = &[
    ("mlp.gate", &[Role::FfnRouter]),
    ("mlp.gate.e_score_correction_bias", &[Role::FfnRouterBias]),
    ("mlp.moe_statics.e_score_correction_bias", &[Role::FfnRouterBias]), // ERNIE 4.5
    ("mlp.experts.*.gate_proj", &[Role::FfnGateExperts]),
    ("mlp.experts.*.up_proj", &[Role::FfnUpExperts]),
    ("mlp.experts.*.down_proj", &[Role::FfnDownExperts]),
    ("mlp.gate_proj", &[Role::FfnGate]),
    ("mlp.up_proj", &[Role::FfnUp]),
    ("mlp.down_proj", &[Role::FfnDown]),
    ("mlp.shared_experts.gate_proj", &[Role::FfnGate]),
    ("mlp.shared_experts.up_proj", &[Role::FfnUp]),
    ("mlp.shared_experts.down_proj", &[Role::FfnDown]),
];

const GGUF_LAYER: &[Entry] = &[
    ("attn_norm", &[Role::AttnNorm]),
    ("attn_q", &[Role::AttnQ]),
    ("attn_k", &[Role::AttnK]),
    ("attn_v", &[Role::AttnV]),
    ("attn_q_norm", &[Role::AttnQNorm]),
    ("attn_k_norm", &[Role::AttnKNorm]),
    ("attn_sinks", &[Role::AttnSinks]),
    ("attn_output", &[Role::AttnOutput]),
    // Latent attention.
    ("attn_q_a", &[Role::AttnQA]),
    ("attn_q_a_norm", &[Role::AttnQNorm]),
    ("attn_q_b", &[Role::AttnQNope, Role::AttnQRope]),
    ("attn_kv_a_mqa", &[Role::AttnKvA, Role::AttnKRope]),
    ("attn_kv_a_norm", &[Role::AttnKNorm]),
    ("attn_kv_b", &[Role::AttnKB, Role::AttnVB]),
    ("attn_k_b", &[Role::AttnKB]),
    ("attn_v_b", &[Role::AttnVB]),
    ("ffn_norm", &[Role::FfnNorm]),
    ("ffn_gate", &[Role::FfnGate]),
    ("ffn_up", &[Role::FfnUp]),
    ("ffn_down", &[Role::FfnDown]),
    ("post_attention_norm", &[Role::AttnPostNorm]),
    ("post_ffw_norm", &[Role::FfnPostNorm]),
    ("ffn_gate_inp", &[Role::FfnRouter]),
    ("ffn_gate_exps", &[Role::FfnGateExperts]),
    ("ffn_up_exps", &[Role::FfnUpExperts]),
    ("ffn_down_exps", &[Role::FfnDownExperts]),
    // Before April 2024 each expert was a tensor of its own.
    ("ffn_gate.*", &[Role::FfnGateExperts]),
    ("ffn_up.*", &[Role::FfnUpExperts]),
    ("ffn_down.*", &[Role::FfnDownExperts]),
    ("ffn_gate_shexp", &[Role::FfnGate]),
    ("ffn_up_shexp", &[Role::FfnUp]),
    ("ffn_down_shexp", &[Role::FfnDown]),
    ("exp_probs_b.bias", &[Role::FfnRouterBias]),
    // Mamba-2.
    ("ssm_in", &[Role::SsmGate, Role::SsmQkv, Role::SsmAlpha]),
    ("ssm_conv1d", &[Role::SsmConv]),
    ("ssm_a", &[Role::SsmA]),
    ("ssm_dt.bias", &[Role::SsmDtBias]),
    ("ssm_d", &[Role::SsmD]),
    ("ssm_norm", &[Role::SsmNorm]),
    ("ssm_out", &[Role::SsmOut]),
];

const GGUF_OUTSIDE_LAYERS: &[Entry] = &[
    ("token_embd", &[Role::TokenEmbd]),
    ("output_norm", &[Role::OutputNorm]),
    ("output", &[Role::Output]),
];

/// The names in LoRA adapters, whatever the source of the model.
const ADAPTERS: Names = Names::hugging_face(&[]);

/// What a tensor holds: the roles of its rows and, where they apply, the layer and the expert.
#[derive(Clone, Copy)]
pub(crate) struct Meaning {
    pub(crate) layer: Option<u32>,
    pub(crate) roles: &'static [Role],
    pub(crate) expert: Option<u32>,
    pub(crate) bias: bool,
}

impl Names {
    /// What a tensor of this name holds, if the architecture has such a weight.
    pub(crate) fn meaning(&self, name: &str) -> Option<Meaning> {
        let text = |&(prefix, own): &(&str, &str)| {
            Some(Cow::from(format!("{own}{}", name.strip_prefix(prefix)?)))
        };
        let part = TEXT_PARTS.iter().filter(|_| self.is_part).find_map(text);
        let name = &part.unwrap_or_else(|| name.into());
        // Some parameters are no weights of a module, so their names have no suffix, or that of a bias.
        let bias = name.strip_suffix(".bias").or_else(|| name.strip_suffix("_bias"));
        let (stem, bias) = match (name.strip_suffix(".weight"), bias) {
            _ if self.own.iter().chain(self.shared).any(|(known, _)| name.ends_with(known)) => {
                (&**name, false)
            }
            (Some(stem), _) => (stem, false),
            (_, Some(stem)) => (stem, true),
            _ => return None,
        };
        let find = |table: &'static [Entry], stem: &str| {
            table.iter().find_map(|&(name, roles)| Some((roles, matches(name, stem)?)))
        };
        // A name in `own` with the prefix of the whole model is outside layers.
        let outside = find(self.outside_layers, stem).or_else(|| find(self.own, stem));
        if let Some((roles, expert)) = outside {
            return Some(Meaning { layer: None, roles, expert, bias });
        }
        let (layer, stem) = stem.strip_prefix(self.layer_prefix)?.split_once('.')?;
        let layer = Some(canonical(layer)?);
        let shared = || {
            let renamed = |roles| self.own.iter().any(|(_, own)| *own == roles);
            find(self.shared, stem).filter(|&(roles, _)| !renamed(roles))
        };
        let (roles, expert) = find(self.own, stem).or_else(shared)?;
        Some(Meaning { layer, roles, expert, bias })
    }

    /// The name of a weight in this kind of source; that of one expert if each has its own tensor.
    pub(crate) fn name(&self, layer: Option<u32>, role: Role, expert: u32, bias: bool) -> String {
        let find = |table: &[Entry]| {
            table.iter().find(|(_, roles)| roles.contains(&role)).map(|&(name, _)| name)
        };
        let kind = match role {
            // No weights of a module.
            Role::SsmA | Role::SsmDtBias | Role::SsmD | Role::LayerScale => "",
            Role::FfnRouterNorm | Role::FfnExpertsScale => "",
            _ if bias => ".bias",
            _ => ".weight",
        };
        match layer {
            Some(i) => {
                let name = find(self.own).or_else(|| find(self.shared)).unwrap_or(role.name());
                let name = match name.split_once('{') {
                    Some((before, rest)) => {
                        let (choices, behind) = rest.split_once('}').unwrap_or((rest, ""));
                        let choice = choices.split(',').nth(expert as usize).unwrap_or_default();
                        format!("{before}{choice}{behind}")
                    }
                    None => name.replace('*', &expert.to_string()),
                };
                format!("{}{i}.{name}{kind}", self.layer_prefix)
            }
            None => {
                let name = find(self.own).or_else(|| find(self.outside_layers));
                format!("{}{kind}", name.unwrap_or(role.name()))
            }
        }
    }

    /// Whether a tensor is in a layer behind the first `n_layers`.
    pub(crate) fn is_beyond(&self, name: &str, n_layers: u32) -> bool {
        let layer = name.strip_prefix(self.layer_prefix).and_then(|rest| rest.split_once('.'));
        layer.and_then(|(layer, _)| canonical(layer)).is_some_and(|layer| layer >= n_layers)
    }

    /// The names that LoRA adapters of this model use, which are always those of Hugging Face.
    pub(crate) fn of_adapters(self) -> Names {
        if self.layer_prefix == GGUF_PREFIX { ADAPTERS } else { self }
    }
}

/// Whether `stem` matches the pattern `name`, and for which expert or part.
fn matches(name: &str, stem: &str) -> Option<Option<u32>> {
    if let Some((before, rest)) = name.split_once('{') {
        let (choices, behind) = rest.split_once('}')?;
        let choice = stem.strip_prefix(before)?.strip_suffix(behind)?;
        return choices.split(',').zip(0..).find(|(c, _)| *c == choice).map(|(_, at)| Some(at));
    }
    match name.split_once('*') {
        None => (name == stem).then_some(None),
        Some((before, behind)) => {
            canonical(stem.strip_prefix(before)?.strip_suffix(behind)?).map(Some)
        }
    }
}

/// A number in its canonical spelling: no sign, no leading zeros.
fn canonical(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n: &u32| n.to_string() == text)
}
