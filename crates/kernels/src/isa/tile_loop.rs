//! What an instruction set with a loop for whole tiles of 16 tokens has beside [`Simd`].

use crate::isa::Simd;
use crate::layout::{GROUP_LINES, Lanes, TOKENS, TokenLine, WeightLine};

/// One panel and one tile of 16 tokens, group by group.
pub(crate) struct Tile<'a> {
    /// The panel's lines.
    pub w: &'a [[WeightLine; GROUP_LINES]],
    /// The tokens' lines.
    pub x: &'a [[TokenLine; TOKENS]],
    /// The tokens' scales.
    pub scales: &'a [[f32; TOKENS]],
    /// Where the dots start, see [`Simd::seed`].
    pub seeds: &'a [[i32; TOKENS]],
    /// Weights to prefetch meanwhile, into the first cache; no more than there are groups.
    pub prefetch: &'a [[WeightLine; GROUP_LINES]],
}

/// An instruction set with such a loop.
pub(crate) trait TileLoop: Simd {
    /// One panel times 16 tokens, group after group: sums[m] = fma(dot, scale[m], sums[m]), dot
    /// being Σᵢ x[m][i] · w[i/4][4r + i%4] as in [`Simd::dot`].
    fn tile(self, tile: Tile<'_>, sums: &mut [Lanes; TOKENS]);
    /// `dots` dots of 64 bytes or a few more, all in registers; some sum of them.
    fn tile_peak(self, dots: usize, out: &mut Lanes);
}
