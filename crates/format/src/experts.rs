//! Mixtures of experts as data.

use std::ops::Not;

use serde::{Deserialize, Serialize};

use crate::units::{GROUP, LANES, pad};

/// The experts covered by the router's softmax.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouterSoftmax {
    /// All experts; the weights of the chosen experts sum to less than 1.
    All,
    /// Only the chosen experts, equivalent to a softmax over all experts followed by renormalization.
    Chosen,
}

/// A mixture of experts (Shazeer et al., 2017) in place of a feed-forward network: a router scores all
/// experts for each token, and the outputs of the highest-scoring experts are added, weighted by the
/// softmax of their scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    /// Experts per layer.
    pub n_experts: u32,
    /// Experts chosen for each token.
    pub experts_per_token: u32,
    /// Hidden width of one expert.
    pub d_ff: u32,
    /// The experts covered by the softmax.
    pub router_softmax: RouterSoftmax,
    /// For each layer, whether it has experts. Other layers have a feed-forward network, as in a model
    /// without experts.
    pub layers: Vec<bool>,
    /// The feed-forward network beside the experts of a layer, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedExpert>,
    /// Whether the scores of experts are sigmoids rather than their softmax; with `chosen`, the weights of the
    /// chosen experts are divided by their sum.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub router_sigmoid: bool,
    /// Whether a bias is added to these sigmoids, or to the softmax over all experts, to choose experts, but not
    /// to their weights. Of a softmax, too, the weights are then divided by their sum with `chosen`.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub router_bias: bool,
    /// The groups of experts, of which a token first chooses some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_groups: Option<ExpertGroups>,
    /// Of the SparseMixer (Phi-3.5-MoE): experts are chosen one after the other, each with its softmax over those
    /// that are not chosen yet, and whose scores are within this relative distance of the highest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_distance: Option<f64>,
    /// Whether weights are factors of the inputs of experts rather than of their outputs (Llama 4).
    #[serde(default, skip_serializing_if = "Not::not")]
    pub weighted_inputs: bool,
    /// Whether the weights of each expert are multiplied by a factor of its own.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub scaled: bool,
    /// Whether the router, the experts and the network beside them have the residual stream as their input, each with
    /// its own norm, and norms of their outputs before the norm of the sum (Gemma 4).
    #[serde(default, skip_serializing_if = "Not::not")]
    pub separate_norms: bool,
}

/// A feed-forward network through which every token passes, beside the experts of a layer: the tensors are
/// those of a layer without experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedExpert {
    /// Hidden width.
    pub d_ff: u32,
    /// Whether its output is multiplied by the sigmoid of a score of its input.
    pub gate: bool,
}

/// Groups of consecutive experts (DeepSeek-V2, 2024): a token's experts are in the groups with the highest scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertGroups {
    /// Groups of equal size.
    pub n: u32,
    /// Groups chosen for each token.
    pub chosen: u32,
    /// Number of its highest scores, with their bias, whose sum is the score of a group: 1 or 2.
    pub best: u32,
}

impl SharedExpert {
    /// `n` experts of this width that every token has: one wider network, without a gate. `None` if there are none.
    pub fn of(n: u32, d_ff: u32) -> Option<Self> {
        let d_ff = n.saturating_mul(d_ff);
        (d_ff > 0).then_some(Self { d_ff, gate: false })
    }
}

impl Experts {
    /// Experts on every layer whose weights are a softmax over the chosen ones.
    pub fn new(n_experts: u32, experts_per_token: u32, d_ff: u32, n_layers: usize) -> Self {
        Self {
            n_experts,
            experts_per_token,
            d_ff,
            router_softmax: RouterSoftmax::Chosen,
            layers: vec![true; n_layers],
            shared: None,
            router_sigmoid: false,
            router_bias: false,
            router_groups: None,
            router_distance: None,
            weighted_inputs: false,
            scaled: false,
            separate_norms: false,
        }
    }

    /// `d_ff`, padded to whole activation groups.
    pub fn d_ff_padded(&self) -> usize {
        pad(self.d_ff as usize, GROUP)
    }

    /// Rows of the router: `n_experts`, padded to whole panels.
    pub fn router_rows(&self) -> usize {
        pad(self.n_experts as usize, LANES)
    }
}
