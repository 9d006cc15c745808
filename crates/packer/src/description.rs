//! A model as described by its source's settings, before its weights are read. Readers start from a
//! Llama, and the model's family changes whatever differs.

use std::ops::Range;

use nanoinfer_format::{Config, Role};

use crate::names::Names;
use crate::quantized::Method;
use crate::rope::RopeSpec;

/// A model as described by its settings.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) config: Config,
    /// One for each entry of `config.ropes`, which the reader derives from this list.
    pub(crate) ropes: Vec<RopeSpec>,
    pub(crate) biases: Biases,
    pub(crate) names: Names,
    /// Applied to the weights while packing, in this order.
    pub(crate) changes: Vec<Change>,
    /// Applied after them.
    pub(crate) row_factors: Vec<RowFactor>,
    /// How the weights of the source were quantized, if its settings say so.
    pub(crate) quantized: Option<Method>,
    /// Parts of the source that are not converted, for the user.
    pub(crate) left_out: Vec<&'static str>,
}

impl Description {
    /// A note about the parts that are not converted.
    pub(crate) fn left_out(&self) -> Option<String> {
        let parts = self.left_out.join(" and ");
        (!parts.is_empty()).then(|| format!("converted without {parts}"))
    }
}

/// What drafts in a model that predicts several tokens at once.
pub(crate) const DRAFT_LAYERS: &str = "the layers that only draft (MTP)";

/// Which biases a model has: `Some(true)` = present, `Some(false)` = absent, `None` = whatever the
/// source contains.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Biases {
    /// Queries, keys and values.
    pub(crate) qkv: Option<bool>,
    /// The output projection of attention.
    pub(crate) output: Option<bool>,
    pub(crate) mlp: Option<bool>,
    /// The router and the matrices of experts.
    pub(crate) experts: Option<bool>,
    /// The output layer.
    pub(crate) head: Option<bool>,
    /// Norms, except those of queries and keys.
    pub(crate) norm: Option<bool>,
    /// The input and output projections of recurrent layers.
    pub(crate) ssm: Option<bool>,
    /// Their short convolution.
    pub(crate) conv: Option<bool>,
}

impl Biases {
    /// Whether the weight with this role has a bias.
    pub(crate) fn of(self, role: Role) -> Option<bool> {
        match role {
            Role::AttnQ | Role::AttnK | Role::AttnV | Role::AttnGate => self.qkv,
            Role::AttnQA | Role::AttnKRope | Role::AttnKvA => self.qkv,
            Role::SsmQkv
            | Role::SsmGate
            | Role::SsmInGate
            | Role::SsmBeta
            | Role::SsmAlpha
            | Role::SsmOut => self.ssm,
            Role::SsmConv => self.conv,
            Role::AttnOutput => self.output,
            Role::Output => self.head,
            Role::FfnGate | Role::FfnUp | Role::FfnDown => self.mlp,
            Role::FfnRouter | Role::FfnGateExperts | Role::FfnUpExperts | Role::FfnDownExperts => {
                self.experts
            }
            Role::AttnNorm | Role::FfnNorm | Role::OutputNorm => self.norm,
            _ => Some(false),
        }
    }
}

/// A change made while packing to the weights and biases of some roles: w becomes `factor`·w +
/// `offset`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) roles: &'static [Role],
    pub(crate) factor: f32,
    pub(crate) offset: f32,
}

/// A factor of some rows of the weights of a role, in every layer.
#[derive(Clone, Debug)]
pub(crate) struct RowFactor {
    pub(crate) role: Role,
    pub(crate) rows: Range<usize>,
    pub(crate) factor: f32,
}
