//! Packed activations: what a matrix product reads, and how vectors become it.
//!
//! Tokens lie in tiles of 16 (fewer where the batch is smaller), a tile being one run of memory,
//! like a weight panel:
//!
//! ```text
//! q       [tiles][k/64][rows][64]     one group of one token is one cache line of int8
//! scales  [tiles][k/64][rows]         amax / 127 of each line
//! sums    [tiles][k/64][rows]         -128·Σ q of each line, what weights stored as q + 128 add
//! ```
//!
//! So a register tile broadcasts four bytes of several lines, and a matrix unit loads 16 lines as
//! its operand. Rows of the last tile beyond the batch are never read.

use crate::isa::Simd;
use crate::layout::{GROUP, GROUP_LANES, LANES, TOKENS};
use crate::quantize::{quantize_group, rotate_lanes};

/// Rows per tile when `m` tokens are packed.
pub const fn tile_rows(m: usize) -> usize {
    if m < TOKENS { m } else { TOKENS }
}

/// Rows of all tiles of `m` tokens, those beyond the last token included.
pub const fn packed_rows(m: usize) -> usize {
    m.div_ceil(TOKENS) * tile_rows(m)
}

/// Quantized activations of `m` tokens.
#[derive(Clone, Copy, Debug)]
pub struct QuantizedInputs<'a> {
    /// `[tiles][k/64][rows][64]`
    pub q: &'a [i8],
    /// `[tiles][k/64][rows]`
    pub scales: &'a [f32],
    /// -128·Σ q, `[tiles][k/64][rows]`
    pub sums: &'a [i32],
    /// Tokens.
    pub m: usize,
}

/// f32 activations of `m` tokens, `[tiles][k/64][rows][64]`.
#[derive(Clone, Copy, Debug)]
pub struct F32Inputs<'a> {
    /// The values.
    pub x: &'a [f32],
    /// Tokens.
    pub m: usize,
}

/// Where token `at` lies: its line in group 0 of its tile, and lines from one group to the next.
#[inline(always)]
pub fn locate_token(at: usize, groups: usize, m: usize) -> (usize, usize) {
    let rows = tile_rows(m);
    (at / TOKENS * groups * rows + at % TOKENS, rows)
}

/// A run of rows of one tile, to be written.
#[derive(Debug)]
pub struct TileMut<'a> {
    /// Rows of the tile.
    pub rows: usize,
    /// First row to write.
    pub row: usize,
    /// The tile.
    pub to: TileData<'a>,
}

/// The buffers of one tile, in the form that the matrices read.
#[derive(Debug)]
pub enum TileData<'a> {
    /// Rotated and quantized.
    Q8 {
        /// `[k/64][rows][64]`
        q: &'a mut [i8],
        /// `[k/64][rows]`
        scales: &'a mut [f32],
        /// `[k/64][rows]`
        sums: &'a mut [i32],
    },
    /// As they are, `[k/64][rows][64]`.
    F32(&'a mut [f32]),
}

impl TileMut<'_> {
    pub(crate) fn check(&self, groups: usize, n: usize) {
        assert!(n > 0 && self.row + n <= self.rows);
        let lines = groups * self.rows;
        assert!(match &self.to {
            TileData::Q8 { q, scales, sums } =>
                q.len() == GROUP * lines && scales.len() == lines && sums.len() == lines,
            TileData::F32(x) => x.len() == GROUP * lines,
        });
    }

    /// Writes one group of one token.
    #[inline(always)]
    pub(crate) fn write_group<S: Simd>(
        &mut self,
        s: S,
        group: usize,
        row: usize,
        x: [S::F; GROUP_LANES],
        rotation: usize,
    ) {
        let line = group * self.rows + self.row + row;
        match &mut self.to {
            TileData::Q8 { q, scales, sums } => {
                let to = q[GROUP * line..].first_chunk_mut().expect("checked");
                let x = rotate_lanes(s, x, rotation);
                (scales[line], sums[line]) = quantize_group(s, x, to);
            }
            TileData::F32(to) => {
                let to = to[GROUP * line..].as_chunks_mut::<LANES>().0;
                for i in 0..GROUP_LANES {
                    s.store(x[i], &mut to[i]);
                }
            }
        }
    }
}

/// Arguments of `pack`: tokens of panel-major activations into rows of a tile.
#[derive(Debug)]
pub struct Pack<'a> {
    /// `[k/16][m][16]`; a plain vector is `m` = 1.
    pub x: &'a [f32],
    /// Tokens in `x`.
    pub m: usize,
    /// First of the tokens to pack.
    pub at: usize,
    /// Tokens to pack.
    pub n: usize,
    /// Hadamard block, a power of two up to 64; unused where activations stay f32.
    pub rotation: usize,
    /// The rows.
    pub to: TileMut<'a>,
}

impl Pack<'_> {
    pub(crate) fn check(&self) {
        assert!(self.m > 0 && self.x.len().is_multiple_of(GROUP * self.m));
        assert!(self.at + self.n <= self.m);
        assert!(self.rotation.is_power_of_two() && self.rotation <= GROUP);
        self.to.check(self.x.len() / (GROUP * self.m), self.n);
    }
}

#[inline(always)]
pub(crate) fn pack<S: Simd>(s: S, mut a: Pack<'_>) {
    for group in 0..a.x.len() / (GROUP * a.m) {
        for row in 0..a.n {
            let x = group_lanes(s, a.x, a.m, group, a.at + row);
            a.to.write_group(s, group, row, x, a.rotation);
        }
    }
}

/// The values of one group of one token.
#[inline(always)]
pub(crate) fn group_lanes<S: Simd>(
    s: S,
    x: &[f32],
    m: usize,
    group: usize,
    token: usize,
) -> [S::F; GROUP_LANES] {
    let lanes = x.as_chunks::<LANES>().0;
    let mut out = [s.splat(0.0); GROUP_LANES];
    for i in 0..GROUP_LANES {
        out[i] = s.load(&lanes[(GROUP_LANES * group + i) * m + token]);
    }
    out
}
