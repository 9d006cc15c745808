//! The attention of each layer: its sizes, where its values come from, and whose cache it reads.

use serde::{Deserialize, Serialize};

use crate::config::{Config, ConfigError};
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

/// Sizes of a layer's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Number of query heads.
    pub n_heads: usize,
    /// Number of key/value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
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
        pad(self.n_heads * self.head_padded(), GROUP)
    }

    /// Block size of the Hadamard rotation of keys and queries in a cache of 8 or 4 bits.
    pub fn key_rotation(&self) -> usize {
        Config::largest_value_rotation(self.head_dim as u32) as usize
    }
}

impl Config {
    /// Sizes of the attention of a layer, whether or not the layer has attention.
    pub fn attention_of(&self, layer: usize) -> AttentionShape {
        let own = self.layer_attention.get(layer);
        let head_dim = own.map_or(self.head_dim, |own| own.head_dim);
        AttentionShape {
            n_heads: self.n_heads as usize,
            n_kv_heads: own.map_or(self.n_kv_heads, |own| own.n_kv_heads) as usize,
            head_dim: head_dim as usize,
            rotary_dim: self.rotary_dim.min(head_dim) as usize,
            gated: self.attention_gate,
            keys_as_values: own.is_some_and(|own| own.keys_as_values),
            cache_of: own.and_then(|own| own.cache_of).map(|layer| layer as usize),
        }
    }

    /// The different shapes of attention in the model, and perhaps some of them repeatedly.
    pub fn attention_shapes(&self) -> impl Iterator<Item = AttentionShape> {
        let layers = self.layer_attention.len().max(1);
        (0..layers).map(|layer| self.attention_of(layer))
    }

    /// Whether a layer has attention with keys and values of its own.
    pub fn caches(&self, layer: usize) -> bool {
        self.attends(layer) && self.attention_of(layer).cache_of.is_none()
    }

    /// Checks the attention of layers that differ.
    pub(crate) fn check_layer_attention(&self) -> Result<(), ConfigError> {
        let err = |field, value: &dyn ToString, expected| {
            Err(ConfigError { field, value: value.to_string(), expected })
        };
        let layers = &self.layer_attention;
        if layers.is_empty() {
            return Ok(());
        }
        if layers.len() != self.n_layers as usize {
            let list = format!("a list of {} entries", layers.len());
            return err("layer_attention", &list, "one entry per layer");
        }
        for (layer, own) in layers.iter().enumerate() {
            let heads = own.n_kv_heads;
            if heads == 0 || !self.n_heads.is_multiple_of(heads) {
                return err("layer_attention.n_kv_heads", &heads, "a divisor of n_heads");
            }
            let width = own.head_dim;
            if width == 0 || width > self.head_dim || !width.is_multiple_of(2) {
                let expected = "an even number up to head_dim";
                return err("layer_attention.head_dim", &width, expected);
            }
            if !width.is_multiple_of(self.value_rotation) {
                return err("layer_attention.head_dim", &width, "a multiple of value_rotation");
            }
            let Some(of) = own.cache_of else { continue };
            let fits = |other: &Self, of: usize| {
                let (a, b) = (other.attention_of(layer), other.attention_of(of));
                let same = (a.n_kv_heads, a.head_dim) == (b.n_kv_heads, b.head_dim);
                of < layer && other.caches(of) && same && !own.keys_as_values
            };
            if !self.attends(layer) || !fits(self, of as usize) {
                return err(
                    "layer_attention.cache_of",
                    &of,
                    "an earlier layer with a cache of the same sizes",
                );
            }
        }
        Ok(())
    }
}
