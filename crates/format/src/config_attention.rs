//! The attention of the layers of a config, and its checks.

use crate::attention::{AttentionShape, Latent};
use crate::config::{Config, ConfigError, QkNorm};
use crate::units::{LANES, pad};

/// Maximum number of queries that share a read of a latent vector.
const LATENT_GROUP: usize = 8;

impl Config {
    /// Sizes of the attention of a layer, whether or not the layer has attention.
    pub fn attention_of(&self, layer: usize) -> AttentionShape {
        if let Some(latent) = &self.latent {
            return self.latent_attention(latent);
        }
        let own = self.layer_attention.get(layer);
        let head_dim = own.map_or(self.head_dim, |own| own.head_dim);
        let n_kv_heads = own.map_or(self.n_kv_heads, |own| own.n_kv_heads) as usize;
        AttentionShape {
            n_heads: self.n_heads as usize,
            n_kv_heads,
            cache_heads: n_kv_heads,
            head_dim: head_dim as usize,
            value_dim: head_dim as usize,
            output_dim: head_dim as usize,
            rotary_dim: self.rotary_dim.min(head_dim) as usize,
            gated: self.attention_gate,
            keys_as_values: own.is_some_and(|own| own.keys_as_values),
            cache_of: own.and_then(|own| own.cache_of).map(|layer| layer as usize),
        }
    }

    fn latent_attention(&self, latent: &Latent) -> AttentionShape {
        let heads = self.n_heads as usize;
        let group = (1..=LATENT_GROUP).rfind(|n| heads.is_multiple_of(*n)).unwrap_or(1);
        AttentionShape {
            n_heads: heads,
            n_kv_heads: heads / group,
            cache_heads: 1,
            head_dim: self.head_dim as usize,
            value_dim: latent.kv_rank as usize,
            output_dim: latent.value_dim as usize,
            rotary_dim: self.rotary_dim as usize,
            gated: false,
            keys_as_values: false,
            cache_of: None,
        }
    }

    /// Rows of a head's query in the projection of latent attention: both parts, padded; 0 without it.
    pub fn latent_query_rows(&self) -> usize {
        let part = |dim: u32| pad(dim as usize, LANES);
        self.latent.as_ref().map_or(0, |l| part(l.nope_dim) + part(self.rotary_dim))
    }

    /// Stored rows of the fused input projection of latent attention: query vector, rotated part of the key, latent
    /// vector.
    fn latent_rows(&self, latent: &Latent) -> usize {
        [latent.q_rank, self.rotary_dim, latent.kv_rank]
            .iter()
            .map(|&n| pad(n as usize, LANES))
            .sum()
    }

    /// Rows of the fused QKV tensor, of the layer with most.
    pub fn qkv_rows(&self) -> usize {
        match &self.latent {
            Some(latent) => self.latent_rows(latent),
            None => self.attention_shapes().map(|shape| shape.qkv_rows()).max().unwrap_or(0),
        }
    }

    /// Checks the sizes of latent attention.
    pub(crate) fn check_latent(&self) -> Result<(), ConfigError> {
        let err = |field, value: &dyn ToString, expected| {
            Err(ConfigError { field, value: value.to_string(), expected })
        };
        let Some(latent) = &self.latent else { return Ok(()) };
        let (rank, rope) = (latent.kv_rank, self.rotary_dim);
        let lanes = |n: u32| n > 0 && n.is_multiple_of(LANES as u32);
        if !lanes(rank) || !rank.is_multiple_of(self.value_rotation) {
            return err("latent.kv_rank", &rank, "a multiple of 16 and of value_rotation");
        }
        if !lanes(rope) || self.head_dim.checked_sub(rope) != Some(rank) || self.n_kv_heads != 1 {
            return err("rotary_dim", &rope, "a multiple of 16, head_dim - latent.kv_rank");
        }
        for (field, value, least) in [
            ("latent.q_rank", latent.q_rank, 0),
            ("latent.nope_dim", latent.nope_dim, 1),
            ("latent.value_dim", latent.value_dim, 1),
        ] {
            if !(least..=1 << 14).contains(&value) {
                return err(field, &value, "a size up to 2^14");
            }
        }
        let eps = latent.norm_eps;
        if !(eps.is_finite() && eps > 0.0 && (eps as f32).is_normal()) {
            return err("latent.norm_eps", &eps, "a positive finite number");
        }
        let plain = self.layer_attention.is_empty() && !self.attention_gate && !self.value_norm;
        if !plain || self.qk_norm != QkNorm::None {
            return err("latent", &"present", "no other variant of attention");
        }
        Ok(())
    }

    /// The different shapes of attention in the model, and perhaps some of them repeatedly.
    pub fn attention_shapes(&self) -> impl Iterator<Item = AttentionShape> {
        let layers = self.layer_attention.len().max(1);
        (0..layers).map(|layer| self.attention_of(layer))
    }

    /// Whether any layer reads the keys and values of another one.
    pub fn shares_caches(&self) -> bool {
        self.layer_attention.iter().any(|layer| layer.cache_of.is_some())
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
