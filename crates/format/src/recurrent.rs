//! Recurrent layers as data: those whose mixer keeps a state of fixed size instead of keys and values.

use serde::{Deserialize, Serialize};

use crate::norm::NormPlace;
use crate::role::Role;
use crate::units::{LANES, pad};

/// What a recurrent layer computes after its short convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecurrentKind {
    /// Nothing: gates before and after the convolution (LFM2).
    Convolution,
    /// The gated delta rule (Yang et al., 2024): a state that decays, and is corrected towards each value.
    Delta,
    /// Mamba-2 (Dao and Gu, 2024): a state that decays, and to which each value is added.
    Mamba2,
}

/// The recurrent layers of a model. Their mixer has the same parts in every model: a projection, a short
/// convolution of some of its channels, a state per head, a gate, and an output projection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recurrent {
    /// What follows the convolution.
    pub kind: RecurrentKind,
    /// Number of positions that the convolution covers, including the current one.
    pub kernel: u32,
    /// Number of heads of queries and of keys; divides `value_heads`. 0 for `convolution`.
    pub key_heads: u32,
    /// Width of a query or key: rows of a head's state. 0 for `convolution`.
    pub key_dim: u32,
    /// Number of heads.
    pub value_heads: u32,
    /// Width of a value: columns of a head's state.
    pub value_dim: u32,
    /// For each layer, whether it is recurrent.
    pub layers: Vec<bool>,
    /// Placement of the norms in recurrent layers, if it differs from that in others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm_place: Option<NormPlace>,
    /// ε of the norm of the values, if it differs from that of other norms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm_eps: Option<f64>,
    /// Factor of how much of each value enters the state (`delta`), usually 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub write_scale: f64,
    /// Whether these layers have attention too, of the same input: the outputs of both are added.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub parallel: bool,
    /// Whether outputs of heads are not normalized; only for `mamba2`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_norm: bool,
}

fn one() -> f64 {
    1.0
}

fn is_one(value: &f64) -> bool {
    *value == 1.0
}

impl Recurrent {
    /// The base of other descriptions: `Recurrent { layers, …, ..Recurrent::of(kind) }`. All sizes are 0.
    pub fn of(kind: RecurrentKind) -> Self {
        Self {
            kind,
            kernel: 0,
            key_heads: 0,
            key_dim: 0,
            value_heads: 0,
            value_dim: 0,
            layers: Vec::new(),
            norm_place: None,
            norm_eps: None,
            write_scale: 1.0,
            parallel: false,
            without_norm: false,
        }
    }

    /// Width of the output: the values of all heads.
    pub fn inner(&self) -> usize {
        self.value_heads as usize * self.value_dim as usize
    }

    /// Width of the queries, or the keys, of all heads.
    pub fn keys(&self) -> usize {
        self.key_heads as usize * self.key_dim as usize
    }

    /// Number of heads that share a key; 0 for `convolution`.
    pub fn per_key(&self) -> usize {
        self.value_heads.checked_div(self.key_heads).unwrap_or(0) as usize
    }

    /// Number of channels that pass through the convolution: queries, keys and values.
    pub fn channels(&self) -> usize {
        2 * self.keys() + self.inner()
    }

    /// Parts of the input projection and their rows, in the order in which they are stored.
    pub fn parts(&self) -> impl Iterator<Item = (Role, u32)> + use<> {
        let (channels, inner) = (self.channels() as u32, self.inner() as u32);
        let heads = self.value_heads;
        let (in_gate, beta, alpha) = match self.kind {
            RecurrentKind::Convolution => (Some(inner), None, None),
            RecurrentKind::Delta => (None, Some(heads), Some(heads)),
            RecurrentKind::Mamba2 => (None, None, Some(heads)),
        };
        [
            (Role::SsmQkv, Some(channels)),
            (Role::SsmGate, Some(inner)),
            (Role::SsmInGate, in_gate),
            (Role::SsmBeta, beta),
            (Role::SsmAlpha, alpha),
        ]
        .into_iter()
        .filter_map(|(role, rows)| Some((role, rows?)))
    }

    /// Stored rows of the input projection.
    pub fn projected(&self) -> usize {
        self.parts().map(|(_, rows)| pad(rows as usize, LANES)).sum()
    }

    /// First stored row of a part of the input projection; `None` if there is no such part.
    pub fn offset(&self, role: Role) -> Option<usize> {
        let at = self.parts().position(|(part, _)| part == role)?;
        Some(self.parts().take(at).map(|(_, rows)| pad(rows as usize, LANES)).sum())
    }

    /// First channel of the queries, the keys and the values among those of the convolution.
    pub fn qkv_offsets(&self) -> [usize; 3] {
        let (keys, inner) = (self.keys(), self.inner());
        match self.kind {
            RecurrentKind::Mamba2 => [inner + keys, inner, 0],
            RecurrentKind::Convolution | RecurrentKind::Delta => [0, keys, 2 * keys],
        }
    }

    /// Width of the weights of the norm, which applies to each head (`delta`) or to all values of the heads
    /// that share a key (`mamba2`); 0 if there is no norm.
    pub fn norm_weights(&self) -> usize {
        match self.kind {
            RecurrentKind::Convolution => 0,
            RecurrentKind::Delta => self.value_dim as usize,
            RecurrentKind::Mamba2 if self.without_norm => 0,
            RecurrentKind::Mamba2 => self.inner(),
        }
    }

    /// Width of what the state is computed from: the channels of the convolution and, for each head, how much
    /// it writes and how much remains, padded to whole panels.
    pub fn mixed(&self) -> usize {
        let steps = if self.has_matrix() { pad(self.value_heads as usize, LANES) } else { 0 };
        self.channels() + 2 * steps
    }

    /// Whether heads have a matrix as their state.
    pub fn has_matrix(&self) -> bool {
        self.kind != RecurrentKind::Convolution
    }
}
