//! Packed inputs of a matrix product: their layout, and the kernel that packs them.
//!
//! Tokens are stored in tiles of 16 (fewer if the batch is smaller). A tile is contiguous, like a
//! weight panel:
//!
//! ```text
//! q       [tiles][k/64][rows][64]     one group of one token is one cache line of int8
//! scales  [tiles][k/64][rows]         amax / 127 of each line
//! sums    [tiles][k/64][rows]         -128·Σ q of each line, to cancel the +128 of stored weights
//! ```
//!
//! A register tile broadcasts four bytes from each of several lines; a matrix unit loads 16 lines as
//! one operand. Rows of the last tile beyond the batch are never read.

use crate::isa::Simd;
use crate::layout::{GROUP, GROUP_LANES, LANES, TOKENS};
use crate::quantize::{quantize_group, rotate_lanes};

/// Rows per tile for `m` packed tokens.
pub const fn tile_rows(m: usize) -> usize {
    if m < TOKENS { m } else { TOKENS }
}

/// Rows in all tiles of `m` tokens, including unused rows of the last tile.
pub const fn packed_rows(m: usize) -> usize {
    m.div_ceil(TOKENS) * tile_rows(m)
}

/// Inputs of `m` tokens, rotated and quantized to int8.
#[derive(Clone, Copy, Debug)]
pub struct QuantizedInputs<'a> {
    /// `[tiles][k/64][rows][64]`
    pub q: &'a [i8],
    /// `[tiles][k/64][rows]`
    pub scales: &'a [f32],
    /// -128·Σ q, `[tiles][k/64][rows]`
    pub sums: &'a [i32],
    /// Number of tokens.
    pub m: usize,
}

/// Inputs of `m` tokens in f32.
#[derive(Clone, Copy, Debug)]
pub struct F32Inputs<'a> {
    /// `[tiles][k/64][rows][64]`
    pub x: &'a [f32],
    /// Number of tokens.
    pub m: usize,
}

/// Locates a token among `m` packed tokens of `groups` groups. Returns the line of its first group and
/// the stride between groups, in lines.
#[inline(always)]
pub fn locate_token(token: usize, groups: usize, m: usize) -> (usize, usize) {
    let rows = tile_rows(m);
    (token / TOKENS * groups * rows + token % TOKENS, rows)
}

/// Consecutive rows of a tile to write.
#[derive(Debug)]
pub struct TileMut<'a> {
    /// Rows of the tile.
    pub rows: usize,
    /// First row to write.
    pub row: usize,
    /// The whole tile.
    pub to: TileData<'a>,
}

/// The buffers of one tile, in the form the matrix product reads.
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
    /// Unrotated f32, `[k/64][rows][64]`.
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

/// Arguments of `pack`, which copies tokens from panel-major activations into rows of a tile.
#[derive(Debug)]
pub struct Pack<'a> {
    /// `[k/16][m][16]`; a plain vector has `m` = 1.
    pub x: &'a [f32],
    /// Number of tokens in `x`.
    pub m: usize,
    /// First token to pack.
    pub at: usize,
    /// Number of tokens to pack.
    pub n: usize,
    /// Hadamard block size, a power of two up to 64; unused for f32 tiles.
    pub rotation: usize,
    /// Destination rows.
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
