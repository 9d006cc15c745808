//! The attention of each layer: its sizes, where its values come from, and whose cache it reads.

use serde::{Deserialize, Serialize};

use crate::units::{GROUP, LANES, pad};

/// The attention of a layer, in models whose layers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerAttention {
    /// Number of key/value heads; divides `n_heads`.
    pub n_kv_heads: u32,
    /// Width of one head; even.
    pub head_dim: u32,
    /// Whether values are the projected keys, before their norm and RoPE.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keys_as_values: bool,
    /// The earlier layer whose cached keys and values this layer reads; absent if it has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_of: Option<u32>,
}

/// Latent attention (DeepSeek-AI, "DeepSeek-V2", 2024): the keys and values of all heads are projections of one
/// latent vector per token, beside one part of the keys that RoPE rotates. `head_dim` is then the width of what is
/// cached, `rotary_dim` + `kv_rank`, `n_kv_heads` is 1, and `layer_attention` is empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latent {
    /// Width of the latent vectors.
    pub kv_rank: u32,
    /// Width of the vectors from which queries are projected; 0 if that is the residual stream.
    pub q_rank: u32,
    /// Width of a query without the part that RoPE rotates.
    pub nope_dim: u32,
    /// Width of a head's output.
    pub value_dim: u32,
    /// ε of the norms of both vectors.
    pub norm_eps: f64,
}

/// Sizes of a layer's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Number of query heads.
    pub n_heads: usize,
    /// Number of groups of queries, each with a key/value head, or all with the same one.
    pub n_kv_heads: usize,
    /// Number of key/value heads in the cache.
    pub cache_heads: usize,
    /// Width of a query and of a key.
    pub head_dim: usize,
    /// Width of a value.
    pub value_dim: usize,
    /// Width of a head's output.
    pub output_dim: usize,
    /// Number of leading values of each head that RoPE rotates.
    pub rotary_dim: usize,
    /// Whether its output is gated.
    pub gated: bool,
    /// Whether values are the projected keys.
    pub keys_as_values: bool,
    /// The layer whose cached keys and values it reads, if these are not its own.
    pub cache_of: Option<usize>,
}

impl AttentionShape {
    /// Number of query heads per key/value head.
    pub fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// `head_dim`, padded to whole panels: every head starts at a panel boundary.
    pub fn head_padded(&self) -> usize {
        pad(self.head_dim, LANES)
    }

    /// `value_dim`, padded likewise.
    pub fn value_padded(&self) -> usize {
        pad(self.value_dim, LANES)
    }

    /// Index of the key among the heads of a [unit](Self::unit_heads), behind the queries and their gates.
    pub fn key_at(&self) -> usize {
        self.group() * if self.gated { 2 } else { 1 }
    }

    /// Heads of the fused QKV tensor per KV head: its query group, their gates if attention is gated, and
    /// K and V, unless the layer has none.
    pub fn unit_heads(&self) -> usize {
        self.key_at()
            + match (self.cache_of, self.keys_as_values) {
                (Some(_), _) => 0,
                (None, true) => 1,
                (None, false) => 2,
            }
    }

    /// Rows of the fused QKV tensor, with padded heads.
    pub fn qkv_rows(&self) -> usize {
        self.n_kv_heads * self.unit_heads() * self.head_padded()
    }

    /// Inputs of the attention output projection: padded heads, padded to whole groups.
    pub fn output_inputs(&self) -> usize {
        pad(self.n_heads * pad(self.output_dim, LANES), GROUP)
    }

    /// Block size of the Hadamard rotation of keys and queries in a cache of 8 or 4 bits.
    pub fn key_rotation(&self) -> usize {
        (1 << self.head_dim.trailing_zeros()).min(GROUP)
    }
}
