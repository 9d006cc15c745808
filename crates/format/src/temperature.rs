//! Attention whose queries grow with their position.

use serde::{Deserialize, Serialize};

/// A temperature of attention that depends on the position (Llama 4, 2025): the query at position p is
/// multiplied by 1 + scale · ln(1 + ⌊(p + offset) / step⌋), so that attention remains sharp in long contexts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Temperature {
    /// Factor of the logarithm.
    pub scale: f64,
    /// Number of positions with the same factor.
    pub step: u32,
    /// Added to positions.
    pub offset: u32,
    /// For each layer, whether its queries are multiplied.
    pub layers: Vec<bool>,
}
