//! What an architecture is, as data: the forward pass reads this and never asks for a model's name.

use serde::{Deserialize, Serialize};

use crate::role::Role;
use crate::units::{GROUP, LANES, pad};

/// How the weights of linear layers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quant {
    /// 32-bit floats, nothing rotated: the reference that published implementations are compared to.
    F32,
    /// 8-bit integers in the Hadamard domain, one scale per output channel.
    Q8,
}

impl Quant {
    /// `f32` or `q8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Q8 => "q8",
        }
    }
}

/// What a norm computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// x / √(mean x² + ε) · w (Zhang and Sennrich, 2019).
    Rms,
    /// (x − mean x) / √(variance x + ε) · w + b (Ba et al., 2016).
    Layer,
}

/// Where the norms of a layer stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormPlace {
    /// On the inputs of attention and feed-forward: x + f(norm(x)).
    Pre,
    /// On their outputs: x + norm(f(x)).
    Post,
    /// On both: x + norm(f(norm(x))).
    Both,
}

/// RMSNorm of queries and keys, before they are rotated by their positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QkNorm {
    /// There is none.
    None,
    /// Each head by itself.
    Head,
    /// All heads of a token together.
    Full,
}

/// The function between the matrices of the feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// x / (1 + e⁻ˣ)
    Silu,
    /// x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))), which GELU is computed by.
    Gelu,
}

/// A kind of rotary position embedding: rows of the tensor `rope_turns`, one for each range of
/// the room a session has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    /// Factor on cosine and sine.
    pub magnitude: f64,
    /// Sessions with room for at most so many positions use the row with this index, ascending;
    /// those with more use the row after the last of them.
    pub limits: Vec<u32>,
}

impl Rope {
    /// Rows of `rope_turns`.
    pub fn rows(&self) -> usize {
        self.limits.len() + 1
    }

    /// Which of them a session with room for `capacity` positions uses.
    pub fn row(&self, capacity: usize) -> usize {
        self.limits.partition_point(|&limit| (limit as usize) < capacity)
    }
}

/// Which of a token's experts its router's softmax covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouterSoftmax {
    /// All; the weights of the chosen ones sum to less than 1.
    All,
    /// The chosen ones. The same as over all and then divided by the sum of the chosen.
    Chosen,
}

/// A mixture of experts (Shazeer et al., 2017) in place of one feed-forward part: a router scores
/// all experts for each token, and the outputs of those with the largest scores are added, each
/// times the softmax of its score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    /// Experts of a layer.
    pub n_experts: u32,
    /// Those a token goes to.
    pub experts_per_token: u32,
    /// Width of the hidden layer of one expert.
    pub d_ff: u32,
    /// What the weights are a softmax over.
    pub router_softmax: RouterSoftmax,
    /// Per layer: whether it has experts. The others have one feed-forward part, as in a model
    /// without experts.
    pub layers: Vec<bool>,
}

/// Architecture of a decoder-only transformer. All sizes are logical (unpadded) counts.
///
/// Stored as canonical JSON: fields in this order, no white space. Unknown fields are refused,
/// because a model that needs a feature this engine does not know would give wrong answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Family the packer recognised, for people: `llama`, `qwen3`. Printable ASCII without
    /// blanks, at most 64 characters.
    pub architecture: String,
    /// Encoding of the linear layers.
    pub quant: Quant,
    /// Transformer layers.
    pub n_layers: u32,
    /// Width of the residual stream.
    pub d_model: u32,
    /// Width of the feed-forward hidden layer, of layers without experts.
    pub d_ff: u32,
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: u32,
    /// Width of one head; even.
    pub head_dim: u32,
    /// Token ids the output layer scores.
    pub vocab_size: u32,
    /// Positions the model was trained for.
    pub context_length: u32,
    /// What all norms compute, those of queries and keys excepted.
    pub norm: Norm,
    /// Where those of a layer stand.
    pub norm_place: NormPlace,
    /// ε of all norms.
    pub norm_eps: f64,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// Factor on q·k before the softmax, usually 1/√head_dim.
    pub attention_scale: f64,
    /// Scores s become c·tanh(s/c), c being this; 0 = as they are.
    pub attention_softcap: f64,
    /// Activation of the feed-forward part.
    pub activation: Activation,
    /// down(act(gate x) · up x) if true, down(act(up x)) if not.
    pub gated: bool,
    /// Factor on token embeddings as they enter the first layer.
    pub embedding_scale: f64,
    /// Factor on logits.
    pub logit_scale: f64,
    /// Logits z, scaled, become c·tanh(z/c), c being this; 0 = as they are.
    pub logit_softcap: f64,
    /// RoPE base. Informative: the frequencies themselves, scaling included, are a tensor.
    pub rope_theta: f64,
    /// Values of a head that RoPE rotates, the first ones; even.
    pub rotary_dim: u32,
    /// The kinds of RoPE the model has; at least one.
    pub ropes: Vec<Rope>,
    /// Per layer: its kind of RoPE, from 1; 0 = none.
    pub layer_ropes: Vec<u32>,
    /// The output layer is the token embedding.
    pub tied_embeddings: bool,
    /// Block of the Hadamard rotation folded into W_v and expected by W_o's input; 1 = none.
    pub value_rotation: u32,
    /// Per layer: how many positions back attention sees, itself included; 0 = all.
    pub windows: Vec<u32>,
    /// Experts, if some layers have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<Experts>,
}

/// A config or generation default that no model can have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("config: {field} is {value}, expected {expected}")]
pub struct ConfigError {
    /// Field at fault.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What would be right.
    pub expected: &'static str,
}

/// Most layers accepted.
pub(crate) const MAX_LAYERS: u32 = 1 << 14;

impl Config {
    /// What a plain Llama has, to say the sizes of and whatever a model has otherwise:
    /// `Config { d_model, d_ff, …, ..Config::llama(n_layers, head_dim) }`. Sizes not given here are 0.
    pub fn llama(n_layers: u32, head_dim: u32) -> Self {
        let entries = n_layers.min(MAX_LAYERS) as usize; // more are refused by `validate`
        Self {
            architecture: "llama".into(),
            quant: Quant::F32,
            n_layers,
            d_model: 0,
            d_ff: 0,
            n_heads: 0,
            n_kv_heads: 0,
            head_dim,
            vocab_size: 0,
            context_length: 0,
            norm: Norm::Rms,
            norm_place: NormPlace::Pre,
            norm_eps: 1e-5,
            qk_norm: QkNorm::None,
            attention_scale: 1.0 / f64::from(head_dim).sqrt(),
            attention_softcap: 0.0,
            activation: Activation::Silu,
            gated: true,
            embedding_scale: 1.0,
            logit_scale: 1.0,
            logit_softcap: 0.0,
            rope_theta: 10000.0,
            rotary_dim: head_dim,
            ropes: vec![Rope { magnitude: 1.0, limits: Vec::new() }],
            layer_ropes: vec![1; entries],
            tied_embeddings: false,
            value_rotation: 1,
            windows: vec![0; entries],
            experts: None,
        }
    }

    /// Whether a layer normalises the inputs of attention and feed-forward.
    pub fn pre_norms(&self) -> bool {
        self.norm_place != NormPlace::Post
    }

    /// Whether a layer normalises their outputs.
    pub fn post_norms(&self) -> bool {
        self.norm_place != NormPlace::Pre
    }

    /// Rows of `rope_turns`: those of each kind of RoPE, one kind after the other.
    pub fn rope_rows(&self) -> usize {
        self.ropes.iter().map(Rope::rows).sum()
    }

    /// Heads whose queries (or keys) one norm covers; 0 = there is no such norm.
    pub fn qk_norm_heads(&self, heads: u32) -> usize {
        match self.qk_norm {
            QkNorm::None => 0,
            QkNorm::Head => 1,
            QkNorm::Full => heads as usize,
        }
    }

    /// Matrices that the input of the feed-forward part meets: gate and up, or up alone.
    pub fn ffn_inputs(&self) -> usize {
        if self.gated { 2 } else { 1 }
    }

    /// The experts of a layer, if it has them.
    pub fn experts_of(&self, layer: usize) -> Option<&Experts> {
        self.experts.as_ref().filter(|e| e.layers.get(layer) == Some(&true))
    }

    /// Of the bytes of a tensor, those that a pass of one token reads: of experts, the chosen ones.
    pub fn read_bytes(&self, role: Role, bytes: u64) -> u64 {
        match (&self.experts, role) {
            (Some(e), Role::FfnGateUpExperts | Role::FfnDownExperts) => {
                bytes / u64::from(e.n_experts) * u64::from(e.experts_per_token)
            }
            _ => bytes,
        }
    }

    /// Query heads that share one key/value head.
    pub fn group(&self) -> usize {
        (self.n_heads / self.n_kv_heads) as usize
    }

    /// `d_model` padded to whole activation groups: the stride of the residual stream.
    pub fn d_model_padded(&self) -> usize {
        pad(self.d_model as usize, GROUP)
    }

    /// `d_ff` padded to whole activation groups.
    pub fn d_ff_padded(&self) -> usize {
        pad(self.d_ff as usize, GROUP)
    }

    /// `head_dim` padded to whole panels: every head starts a panel.
    pub fn head_padded(&self) -> usize {
        pad(self.head_dim as usize, LANES)
    }

    /// Rows of the fused QKV tensor: per KV head its query group, K and V, each head padded.
    pub fn qkv_rows(&self) -> usize {
        self.n_kv_heads as usize * (self.group() + 2) * self.head_padded()
    }

    /// Inputs of the attention output projection: padded heads, padded to whole groups.
    pub fn attn_out_inputs(&self) -> usize {
        pad(self.n_heads as usize * self.head_padded(), GROUP)
    }

    /// Vocabulary rows, padded to whole panels.
    pub fn vocab_padded(&self) -> usize {
        pad(self.vocab_size as usize, LANES)
    }

    /// The largest Hadamard block the values of one head can be rotated by.
    pub fn largest_value_rotation(head_dim: u32) -> u32 {
        (1 << head_dim.trailing_zeros()).min(GROUP as u32)
    }
}

impl Experts {
    /// `d_ff` padded to whole activation groups.
    pub fn d_ff_padded(&self) -> usize {
        pad(self.d_ff as usize, GROUP)
    }

    /// Experts, padded to whole panels: outputs of the router.
    pub fn router_rows(&self) -> usize {
        pad(self.n_experts as usize, LANES)
    }
}
