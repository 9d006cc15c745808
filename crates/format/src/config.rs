//! The architecture of a model as data. The forward pass reads it and never checks the model's name.

use std::ops::Not;

use serde::{Deserialize, Serialize};

use crate::activation::{Activation, Xielu};
use crate::attention::{Latent, LayerAttention};
use crate::encoding::Encoding;
use crate::experts::Experts;
use crate::norm::{Norm, NormPlace};
use crate::recurrent::Recurrent;
use crate::role::Role;
use crate::temperature::Temperature;
use crate::units::{GROUP, LANES, pad};

/// How the weights of linear layers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quant {
    /// 32-bit floats without rotation: the reference that is compared with published implementations.
    F32,
    /// 8-bit integers in the Hadamard domain, one scale per output channel.
    Q8,
    /// The same with trellis codes of 5 bits, and more bits for the most sensitive matrices.
    Q5,
    /// The same with 4 bits.
    Q4,
    /// The same with 3 bits.
    Q3,
    /// The same with 2 bits.
    Q2,
}

impl Quant {
    /// All values, the most precise first.
    pub const ALL: [Quant; 6] = [Self::F32, Self::Q8, Self::Q5, Self::Q4, Self::Q3, Self::Q2];

    /// `f32`, `q8`, `q5`, `q4`, `q3` or `q2`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Q8 => "q8",
            Self::Q5 => "q5",
            Self::Q4 => "q4",
            Self::Q3 => "q3",
            Self::Q2 => "q2",
        }
    }

    /// What no quantization encodes: one row per head, whose errors add up over all tokens that a state
    /// remembers.
    pub(crate) const KEPT: [Role; 2] = [Role::SsmAlpha, Role::SsmBeta];

    /// The encoding of a matrix, or part of a fused one, with this role. The values and the feed-forward
    /// outputs are the most sensitive to rounding, relative to their size.
    pub fn encoding(self, role: Role) -> Encoding {
        use Encoding::{F32Panel, Q2Panel, Q3Panel, Q4Panel, Q5Panel, Q8Panel};
        let head = matches!(role, Role::TokenEmbd | Role::Output);
        let value = matches!(role, Role::AttnV | Role::AttnKvA | Role::AttnVB);
        let down = matches!(role, Role::FfnDown | Role::FfnDownExperts);
        match self {
            Self::F32 => F32Panel,
            _ if Self::KEPT.contains(&role) => F32Panel,
            Self::Q8 => Q8Panel,
            Self::Q5 if head || value => Q8Panel,
            Self::Q5 => Q5Panel,
            Self::Q4 if head || down || value => Q5Panel,
            Self::Q4 => Q4Panel,
            Self::Q3 if head || value => Q5Panel,
            Self::Q3 if down => Q4Panel,
            Self::Q3 => Q3Panel,
            Self::Q2 if head => Q5Panel,
            Self::Q2 if value => Q4Panel,
            Self::Q2 if matches!(role, Role::AttnK | Role::AttnKRope | Role::AttnKB) => Q3Panel,
            Self::Q2 => Q2Panel,
        }
    }

    /// The encoding of a matrix, or part of a fused one, in a layer of `n_layers`, or in none. With 2
    /// bits, errors of the first layers distort the inputs of all others, so most matrices in the first
    /// eighth of the layers have 3 bits, and the feed-forward outputs in the first three eighths.
    pub fn encoding_in(self, role: Role, layer: Option<u32>, n_layers: u32) -> Encoding {
        use Role::{
            AttnOutput, FfnDown, FfnDownExperts, FfnGate, FfnGateExperts, FfnUp, FfnUpExperts,
        };
        let eighths = match role {
            FfnDown | FfnDownExperts => 3,
            AttnOutput | FfnGate | FfnUp | FfnGateExperts | FfnUpExperts => 1,
            _ => 0,
        };
        let early = |layer: u32| 8 * (u64::from(layer) + 1) <= eighths * u64::from(n_layers);
        match self.encoding(role) {
            Encoding::Q2Panel if layer.is_some_and(early) => Encoding::Q3Panel,
            encoding => encoding,
        }
    }

    /// Whether matrices are trellis-coded, and therefore better if calibrated.
    pub fn is_coded(self) -> bool {
        self.encoding(Role::FfnUp).trellis_bits().is_some()
    }

    /// Whether matrices are rotated and multiplied by 8-bit activations.
    pub fn is_rotated(self) -> bool {
        self != Self::F32
    }
}

/// Norms of queries and keys, before RoPE unless [`Config::qk_norm_late`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QkNorm {
    /// No norm.
    None,
    /// RMSNorm of each head separately.
    Head,
    /// RMSNorm of all heads of a token together.
    Full,
    /// LayerNorm of each head separately, with weights of its own.
    Layer,
    /// RMSNorm of each head separately without weights, in layers with RoPE.
    Unit,
}

/// What a layer consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerParts {
    /// Attention or a recurrence, then a feed-forward network or experts.
    Both,
    /// Attention or a recurrence.
    Mixer,
    /// A feed-forward network or experts.
    Ffn,
}

/// A kind of rotary position embedding, with one row of the tensor `rope_turns` per range of session
/// capacities.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    /// Factor applied to cosine and sine.
    pub magnitude: f64,
    /// Ascending capacity limits: a session uses the row of the first limit that is at least its capacity,
    /// or the last row if its capacity exceeds all limits.
    pub limits: Vec<u32>,
}

impl Rope {
    /// Number of rows in `rope_turns`.
    pub fn rows(&self) -> usize {
        self.limits.len() + 1
    }

    /// The row used by a session with room for `capacity` positions.
    pub fn row(&self, capacity: usize) -> usize {
        self.limits.partition_point(|&limit| (limit as usize) < capacity)
    }
}

/// Architecture of a decoder-only transformer. All sizes are logical (unpadded).
///
/// Stored as canonical JSON: fields in this order, no whitespace. Unknown fields are rejected, because a
/// model that needs an unsupported feature would produce incorrect output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Model family recognized by the packer, such as `llama` or `qwen3`. Informative. Printable ASCII
    /// without spaces, at most 64 characters.
    pub architecture: String,
    /// Encoding of the linear layers.
    pub quant: Quant,
    /// Number of transformer layers.
    pub n_layers: u32,
    /// Width of the residual stream.
    pub d_model: u32,
    /// Hidden width of the feed-forward network in layers without experts.
    pub d_ff: u32,
    /// Number of query heads.
    pub n_heads: u32,
    /// Number of key/value heads; divides `n_heads`.
    pub n_kv_heads: u32,
    /// Width of one head; even.
    pub head_dim: u32,
    /// Number of token ids.
    pub vocab_size: u32,
    /// Context length the model was trained for.
    pub context_length: u32,
    /// Kind of all norms except those of queries and keys.
    pub norm: Norm,
    /// Placement of the norms in a layer.
    pub norm_place: NormPlace,
    /// ε of all norms.
    pub norm_eps: f64,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// Factor applied to q·k before the softmax, usually 1/√head_dim.
    pub attention_scale: f64,
    /// Soft cap c of attention: a score s becomes c·tanh(s/c); 0 disables it.
    pub attention_softcap: f64,
    /// Activation of the feed-forward network.
    pub activation: Activation,
    /// Whether the network is down(act(gate x) · up x) rather than down(act(up x)).
    pub gated: bool,
    /// Factor applied to token embeddings before the first layer.
    pub embedding_scale: f64,
    /// Factor applied to logits.
    pub logit_scale: f64,
    /// Soft cap c of logits: a scaled logit z becomes c·tanh(z/c); 0 disables it.
    pub logit_softcap: f64,
    /// RoPE base. Informative: the frequencies, including any scaling, are stored as a tensor.
    pub rope_theta: f64,
    /// Number of leading values of each head that RoPE rotates; even.
    pub rotary_dim: u32,
    /// Kinds of RoPE in use; at least one.
    pub ropes: Vec<Rope>,
    /// Kind of RoPE of each layer, counted from 1; 0 = none.
    pub layer_ropes: Vec<u32>,
    /// Whether the output layer shares the token embedding.
    pub tied_embeddings: bool,
    /// Block size of the Hadamard rotation that is folded into W_v and expected by W_o; 1 = none.
    pub value_rotation: u32,
    /// Attention window of each layer in positions, including the current one; 0 = unlimited.
    pub windows: Vec<u32>,
    /// Mixture of experts, if any layer has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<Experts>,
    /// Whether the output of attention is multiplied by the sigmoid of a projection of its input.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub attention_gate: bool,
    /// Whether each query head has a score that enters its softmax without a position.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub attention_sinks: bool,
    /// Whether windows follow each other, each beginning at a multiple of its size, rather than ending at the
    /// current position.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub chunked_windows: bool,
    /// Recurrent layers, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recurrent: Option<Recurrent>,
    /// The parts of each layer; empty if all layers have both.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layer_parts: Vec<LayerParts>,
    /// How queries grow with their position, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<Temperature>,
    /// Whether attention and the feed-forward network of a layer have the same input.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub parallel: bool,
    /// Whether norms of single queries and keys (`head` and `unit`) come after RoPE.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub qk_norm_late: bool,
    /// Parameters of xIELU in each layer; empty with another activation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xielu: Vec<Xielu>,
    /// The attention of each layer; empty if it is the same in all. `n_kv_heads` and `head_dim` are then
    /// those of the widest heads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layer_attention: Vec<LayerAttention>,
    /// Latent attention, if layers attend to latent vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latent: Option<Latent>,
    /// Whether values are divided by their root mean square, per head.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub value_norm: bool,
    /// Hidden width of each layer's feed-forward network; empty if it is `d_ff` in all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layer_d_ff: Vec<u32>,
    /// Width of the embeddings of tokens that enter each layer; 0 if there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub layer_embedding: u32,
    /// Whether the residual stream is multiplied by a factor behind each layer.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub layer_scale: bool,
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// An invalid value in a config or generation default.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("config: {field} is {value}, expected {expected}")]
pub struct ConfigError {
    /// The invalid field.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// The allowed values.
    pub expected: &'static str,
}

/// Maximum number of layers.
pub(crate) const MAX_LAYERS: u32 = 1 << 14;

impl Config {
    /// A plain Llama, as the base of other configs:
    /// `Config { d_model, d_ff, …, ..Config::llama(n_layers, head_dim) }`. All other sizes are 0.
    pub fn llama(n_layers: u32, head_dim: u32) -> Self {
        let entries = n_layers.min(MAX_LAYERS) as usize; // `validate` rejects more
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
            attention_gate: false,
            attention_sinks: false,
            chunked_windows: false,
            recurrent: None,
            layer_parts: Vec::new(),
            temperature: None,
            parallel: false,
            qk_norm_late: false,
            xielu: Vec::new(),
            layer_attention: Vec::new(),
            latent: None,
            value_norm: false,
            layer_d_ff: Vec::new(),
            layer_embedding: 0,
            layer_scale: false,
        }
    }

    /// Whether a layer normalizes the inputs of attention and feed-forward.
    pub fn pre_norms(&self, layer: usize) -> bool {
        self.norm_place_of(layer) != NormPlace::Post
    }

    /// Whether a layer normalizes the outputs of attention and feed-forward.
    pub fn post_norms(&self, layer: usize) -> bool {
        self.norm_place_of(layer) != NormPlace::Pre
    }

    /// Number of rows in `rope_turns`, over all kinds of RoPE.
    pub fn rope_rows(&self) -> usize {
        self.ropes.iter().map(Rope::rows).sum()
    }

    /// Number of heads of queries (or keys) for which a layer has weights of norms; 0 without norms.
    pub fn qk_norm_heads(&self, heads: usize) -> usize {
        match self.qk_norm {
            QkNorm::None | QkNorm::Unit => 0,
            QkNorm::Head => 1,
            QkNorm::Full | QkNorm::Layer => heads,
        }
    }

    /// Number of input projections of the feed-forward network: gate and up, or up alone.
    pub fn ffn_inputs(&self) -> usize {
        if self.gated { 2 } else { 1 }
    }

    /// Whether a layer has attention or a recurrence.
    pub fn has_mixer(&self, layer: usize) -> bool {
        self.layer_parts.get(layer) != Some(&LayerParts::Ffn)
    }

    /// Whether a layer has a feed-forward network or experts.
    pub fn has_ffn(&self, layer: usize) -> bool {
        self.layer_parts.get(layer) != Some(&LayerParts::Mixer)
    }

    /// Hidden width of a layer's feed-forward network, which in a layer with experts is the shared one; 0 if
    /// there is none.
    pub fn d_ff_of(&self, layer: usize) -> u32 {
        match self.experts_of(layer) {
            None if !self.has_ffn(layer) => 0,
            None => self.layer_d_ff.get(layer).copied().unwrap_or(self.d_ff),
            Some(e) => e.shared.as_ref().map_or(0, |shared| shared.d_ff),
        }
    }

    /// Hidden width of the widest feed-forward network, without experts, padded to whole activation groups.
    pub fn widest_d_ff_padded(&self) -> usize {
        let widest = (0..self.n_layers as usize).map(|layer| self.d_ff_of(layer)).max();
        pad(widest.unwrap_or(0) as usize, GROUP)
    }

    /// The experts of a layer, if any.
    pub fn experts_of(&self, layer: usize) -> Option<&Experts> {
        self.experts.as_ref().filter(|e| e.layers.get(layer) == Some(&true))
    }

    /// Number of bytes of a tensor read in a pass over `tokens` tokens. Of embeddings that are not the output matrix,
    /// a few rows are read, which count as nothing. Of experts, only the chosen ones are: as many as are expected to
    /// differ if every token chooses at random.
    pub fn read_bytes(&self, role: Role, bytes: u64, tokens: usize) -> u64 {
        match (&self.experts, role) {
            (_, Role::LayerEmbd) => 0,
            (_, Role::TokenEmbd) if !self.tied_embeddings => 0,
            (Some(e), Role::FfnGateUpExperts | Role::FfnDownExperts) => {
                let unused = 1.0 - f64::from(e.experts_per_token) / f64::from(e.n_experts);
                let used = 1.0 - unused.powf(tokens as f64);
                (bytes as f64 * used).round() as u64
            }
            _ => bytes,
        }
    }

    /// `d_model`, padded to whole activation groups: the stride of the residual stream.
    pub fn d_model_padded(&self) -> usize {
        pad(self.d_model as usize, GROUP)
    }

    /// Inputs of the attention output projection, of the layer with most.
    pub fn attn_out_inputs(&self) -> usize {
        self.attention_shapes().map(|shape| shape.output_inputs()).max().unwrap_or(0)
    }

    /// Width of the embeddings that enter layers, all together.
    pub fn layer_embeddings(&self) -> usize {
        self.n_layers as usize * self.layer_embedding as usize
    }

    /// `vocab_size`, padded to whole panels.
    pub fn vocab_padded(&self) -> usize {
        pad(self.vocab_size as usize, LANES)
    }

    /// Largest Hadamard block by which the values of one head can be rotated.
    pub fn largest_value_rotation(head_dim: u32) -> u32 {
        (1 << head_dim.trailing_zeros()).min(GROUP as u32)
    }
}
