//! Activation functions of feed-forward networks.

use serde::{Deserialize, Serialize};

/// Activation function of the feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// x / (1 + e⁻ˣ)
    Silu,
    /// x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))), the tanh approximation of GELU.
    Gelu,
    /// max(x, 0)²
    Relu2,
    /// That of gpt-oss, only with a gate: g / (1 + e^(−1.702 g)) · (u + 1), with g = min(gate, 7) and u = up
    /// clamped to −7…7.
    Clamped,
    /// [`Xielu`], with parameters of its own in each layer.
    Xielu,
}

/// The parameters of xIELU (Huang and Schlag, 2024, <https://arxiv.org/abs/2411.13010>): positive · x² + beta · x
/// for x > 0, and negative · (e^min(x, eps) − 1 − x) + beta · x otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Xielu {
    /// Factor of x² above 0.
    pub positive: f64,
    /// Factor of the exponential part below 0.
    pub negative: f64,
    /// Slope at 0.
    pub beta: f64,
    /// Largest exponent, close to 0.
    pub eps: f64,
}
