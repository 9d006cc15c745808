//! Kinds of norms, and their placement.

use serde::{Deserialize, Serialize};

/// Kind of norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// x / √(mean x² + ε) · w (Zhang and Sennrich, 2019).
    Rms,
    /// (x − mean x) / √(variance x + ε) · w + b (Ba et al., 2016).
    Layer,
}

/// Placement of the norms in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormPlace {
    /// Before attention and feed-forward: x + f(norm(x)).
    Pre,
    /// After attention and feed-forward: x + norm(f(x)).
    Post,
    /// Before and after: x + norm(f(norm(x))).
    Both,
}
