//! What the sources call their weights.

use nanoinfer_format::Role;

/// A name and what it means: one weight, or several whose rows follow each other in one tensor. In
/// a name, `*` is the number of an expert.
pub(crate) type Entry = (&'static str, &'static [Role]);

/// How a kind of source names its tensors.
pub(crate) struct Names {
    pub(super) layer_prefix: &'static str,
    /// Tables of names within a layer; the first that has a name, or a role, decides.
    pub(super) in_layer: &'static [&'static [Entry]],
    pub(super) in_model: &'static [Entry],
    /// Queries and keys lie in the order of GGUF's Llama (see `source::Unpermuted`).
    pub(super) permuted: bool,
}

const HUGGING_FACE_LAYER: &[Entry] = &[
    ("input_layernorm", &[Role::AttnNorm]),
    ("self_attn.q_proj", &[Role::AttnQ]),
    ("self_attn.k_proj", &[Role::AttnK]),
    ("self_attn.v_proj", &[Role::AttnV]),
    ("self_attn.q_norm", &[Role::AttnQNorm]),
    ("self_attn.k_norm", &[Role::AttnKNorm]),
    ("self_attn.o_proj", &[Role::AttnOutput]),
    ("post_attention_layernorm", &[Role::FfnNorm]),
    ("mlp.gate_proj", &[Role::FfnGate]),
    ("mlp.up_proj", &[Role::FfnUp]),
    ("mlp.down_proj", &[Role::FfnDown]),
];

const HUGGING_FACE_MODEL: &[Entry] = &[
    ("model.embed_tokens", &[Role::TokenEmbd]),
    ("model.norm", &[Role::OutputNorm]),
    ("lm_head", &[Role::Output]),
];

const fn hugging_face(in_layer: &'static [&'static [Entry]]) -> Names {
    let (layer_prefix, in_model) = ("model.layers.", HUGGING_FACE_MODEL);
    Names { layer_prefix, in_layer, in_model, permuted: false }
}

/// Names of `LlamaForCausalLM` in transformers, and of most others.
pub(crate) const HUGGING_FACE: Names = hugging_face(&[HUGGING_FACE_LAYER]);

/// Phi-3 to Phi-4-mini: fused matrices.
pub(crate) const PHI3: Names = hugging_face(&[
    &[
        ("self_attn.qkv_proj", &[Role::AttnQ, Role::AttnK, Role::AttnV]),
        ("mlp.gate_up_proj", &[Role::FfnGate, Role::FfnUp]),
    ],
    HUGGING_FACE_LAYER,
]);

/// Gemma 2 and 3: norms before and after.
pub(crate) const GEMMA: Names = hugging_face(&[
    &[
        ("post_attention_layernorm", &[Role::AttnPostNorm]),
        ("pre_feedforward_layernorm", &[Role::FfnNorm]),
        ("post_feedforward_layernorm", &[Role::FfnPostNorm]),
    ],
    HUGGING_FACE_LAYER,
]);

/// OLMo 2 and EXAONE 4: norms after.
pub(crate) const OLMO2: Names = hugging_face(&[
    &[
        ("post_attention_layernorm", &[Role::AttnPostNorm]),
        ("post_feedforward_layernorm", &[Role::FfnPostNorm]),
    ],
    HUGGING_FACE_LAYER,
]);

/// StarCoder2: a feed-forward part without gate.
pub(crate) const STARCODER2: Names = hugging_face(&[
    &[("mlp.c_fc", &[Role::FfnUp]), ("mlp.c_proj", &[Role::FfnDown])],
    HUGGING_FACE_LAYER,
]);

/// Mixtral: a mixture of experts.
pub(crate) const MIXTRAL: Names = hugging_face(&[
    &[
        ("block_sparse_moe.gate", &[Role::FfnRouter]),
        ("block_sparse_moe.experts.*.w1", &[Role::FfnGateExperts]),
        ("block_sparse_moe.experts.*.w3", &[Role::FfnUpExperts]),
        ("block_sparse_moe.experts.*.w2", &[Role::FfnDownExperts]),
    ],
    HUGGING_FACE_LAYER,
]);

/// Mixtures of experts since: Qwen3-MoE, OLMoE.
pub(crate) const EXPERTS: Names = hugging_face(&[
    &[
        ("mlp.gate", &[Role::FfnRouter]),
        ("mlp.experts.*.gate_proj", &[Role::FfnGateExperts]),
        ("mlp.experts.*.up_proj", &[Role::FfnUpExperts]),
        ("mlp.experts.*.down_proj", &[Role::FfnDownExperts]),
    ],
    HUGGING_FACE_LAYER,
]);

const GGUF_LAYER: &[Entry] = &[
    ("attn_norm", &[Role::AttnNorm]),
    ("attn_q", &[Role::AttnQ]),
    ("attn_k", &[Role::AttnK]),
    ("attn_v", &[Role::AttnV]),
    ("attn_q_norm", &[Role::AttnQNorm]),
    ("attn_k_norm", &[Role::AttnKNorm]),
    ("attn_output", &[Role::AttnOutput]),
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
];

const GGUF_MODEL: &[Entry] = &[
    ("token_embd", &[Role::TokenEmbd]),
    ("output_norm", &[Role::OutputNorm]),
    ("output", &[Role::Output]),
];

const fn gguf(in_layer: &'static [&'static [Entry]], permuted: bool) -> Names {
    Names { layer_prefix: "blk.", in_layer, in_model: GGUF_MODEL, permuted }
}

/// Names in GGUF.
pub(crate) const GGUF: Names = gguf(&[GGUF_LAYER], false);

/// The same, of architectures that llama.cpp rotates as it does Llama.
pub(crate) const GGUF_LLAMA: Names = gguf(&[GGUF_LAYER], true);

/// Phi-3 to Phi-4-mini: fused matrices.
pub(crate) const GGUF_PHI3: Names = gguf(
    &[
        &[
            ("attn_qkv", &[Role::AttnQ, Role::AttnK, Role::AttnV]),
            ("ffn_up", &[Role::FfnGate, Role::FfnUp]),
        ],
        GGUF_LAYER,
    ],
    false,
);

/// What a tensor holds: the roles of its rows, in which layer, of which expert if it is of one,
/// and whether as biases.
#[derive(Clone, Copy)]
pub(super) struct Meaning {
    pub(super) layer: Option<u32>,
    pub(super) roles: &'static [Role],
    pub(super) expert: Option<u32>,
    pub(super) bias: bool,
}

impl Names {
    /// What a tensor of this name is, if the architecture has such a weight.
    pub(super) fn meaning(&self, name: &str) -> Option<Meaning> {
        let (stem, bias) = match name.strip_suffix(".weight") {
            Some(stem) => (stem, false),
            None => (name.strip_suffix(".bias")?, true),
        };
        let find = |table: &&'static [Entry], stem: &str| {
            table.iter().find_map(|&(name, roles)| Some((roles, matches(name, stem)?)))
        };
        if let Some((roles, expert)) = find(&self.in_model, stem) {
            return Some(Meaning { layer: None, roles, expert, bias });
        }
        let (layer, stem) = stem.strip_prefix(self.layer_prefix)?.split_once('.')?;
        let layer = Some(number(layer)?);
        let (roles, expert) = self.in_layer.iter().find_map(|table| find(table, stem))?;
        Some(Meaning { layer, roles, expert, bias })
    }

    /// The name a source of this kind gives to a weight, that of one expert if each has its own.
    pub(super) fn name(&self, layer: Option<u32>, role: Role, expert: u32, bias: bool) -> String {
        let find = |table: &&[Entry]| {
            table.iter().find(|&&(_, roles)| roles.contains(&role)).map(|&(n, _)| n)
        };
        let kind = if bias { "bias" } else { "weight" };
        match layer {
            Some(i) => {
                let name = self.in_layer.iter().find_map(find).unwrap_or(role.name());
                let name = name.replace('*', &expert.to_string());
                format!("{}{i}.{name}.{kind}", self.layer_prefix)
            }
            None => format!("{}.{kind}", find(&self.in_model).unwrap_or(role.name())),
        }
    }

    /// The names by which adapters know the weights: those of Hugging Face.
    pub(super) fn of_adapters(&'static self) -> &'static Names {
        if self.layer_prefix == HUGGING_FACE.layer_prefix { self } else { &HUGGING_FACE }
    }
}

/// Whether `stem` is what `name` says, and of which expert.
fn matches(name: &str, stem: &str) -> Option<Option<u32>> {
    match name.split_once('*') {
        None => (name == stem).then_some(None),
        Some((before, behind)) => {
            number(stem.strip_prefix(before)?.strip_suffix(behind)?).map(Some)
        }
    }
}

/// A number written in the only way there is for it.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n: &u32| n.to_string() == text)
}
