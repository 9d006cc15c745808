//! The extension of [`Simd`] for instruction sets with a dedicated loop for whole tiles of 16 tokens.

use crate::isa::Simd;
use crate::layout::{GROUP_LINES, Lanes, TOKENS, TokenLine, WeightLine};

/// One panel and one tile of 16 tokens, by group.
pub(crate) struct Tile<'a> {
    /// The panel's weight lines.
    pub w: &'a [[WeightLine; GROUP_LINES]],
    /// The tokens' input lines.
    pub x: &'a [[TokenLine; TOKENS]],
    /// The tokens' scales.
    pub scales: &'a [[f32; TOKENS]],
    /// Initial accumulators, see [`Simd::seed`].
    pub seeds: &'a [[i32; TOKENS]],
    /// Weights to prefetch into L1 meanwhile, at most `w.len()` groups.
    pub prefetch: &'a [[WeightLine; GROUP_LINES]],
}

/// An instruction set with a loop for whole tiles.
pub(crate) trait TileLoop: Simd {
    /// One panel times 16 tokens, group by group: sums[m] = fma(dot, scale[m], sums[m]) with
    /// dot = Σᵢ x[m][i] · w[i/4][4r + i%4] as in [`Simd::dot`].
    fn tile(self, tile: Tile<'_>, sums: &mut [Lanes; TOKENS]);
    /// Computes at least `dots` 64-byte dot products in registers and stores one of the sums.
    fn tile_peak(self, dots: usize, out: &mut Lanes);
}
