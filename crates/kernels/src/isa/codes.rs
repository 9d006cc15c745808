//! The extension of [`Simd`] that decodes trellis-coded weights, a line of 64 bytes at a time, and the 4-bit
//! cache.

use crate::isa::Simd;
use crate::layout::{LANES, WeightLine};

/// Levels by index; a shorter table is repeated.
pub(crate) type LevelTable = [i8; 64];

/// Bitwise operations on lines of codes, and the lookup of levels. A mask is one byte, applied to every
/// byte of a line.
pub(crate) trait Codes: Simd {
    /// 64 bytes.
    type Bytes: Copy;
    /// A table of levels in registers.
    type Levels: Copy;
    /// A table of 16 levels, to be looked up as floats.
    type Floats: Copy;

    /// Number of tokens that are multiplied at once while decoding; 0 if decoding is never fused.
    const FUSED: usize = 4;
    /// Number of tokens from which on panels are decoded first, then multiplied.
    const DECODE_FIRST: usize = Self::FUSED + 1;

    /// Prefetches the line that follows in the stream, as far ahead as decoding needs: codes take more work per
    /// byte than Q8 lines, so the CPU looks less far ahead by itself (measured in docs/BENCHMARKS.md).
    #[inline(always)]
    fn prefetch_codes(self, line: &WeightLine) {
        self.prefetch_ahead::<4096>(line);
    }
    fn zeros(self) -> Self::Bytes;
    fn bytes(self, line: &WeightLine) -> Self::Bytes;
    fn xor(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// a ⊕ (b ∧ mask)
    fn xor_where(self, mask: u8, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// `a` where the mask is 1, `b` where it is 0.
    fn merge(self, mask: u8, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Shifts each byte left by N = 1, 2 or 4. The N lowest bits of a byte are arbitrary.
    fn shl<const N: u32>(self, a: Self::Bytes) -> Self::Bytes;
    /// Shifts each byte right by N = 1, 2, 4 or 6. The N highest bits of a byte are arbitrary.
    fn shr<const N: u32>(self, a: Self::Bytes) -> Self::Bytes;

    fn levels(self, table: &LevelTable) -> Self::Levels;
    /// The levels whose indices are the low nibbles.
    fn weights(self, levels: Self::Levels, index: Self::Bytes) -> Self::Line;
    /// The levels with index n + 16b, where n is the low nibble of a byte of `v`, or the high one if
    /// `HIGH`, and b the lowest bit of the same nibble of `b2`.
    fn nibble_weights<const HIGH: bool>(
        self,
        levels: Self::Levels,
        v: Self::Bytes,
        b2: Self::Bytes,
    ) -> Self::Line;
    /// The levels with index c + 16j, where c is the low nibble of a byte of `c`, and j the pair of line `L`.
    /// The level with index 63 - i is the negative of that with index i.
    fn fine_weights<const L: usize>(
        self,
        levels: Self::Levels,
        c: Self::Bytes,
        pairs: [Self::Bytes; 2],
    ) -> Self::Line;
    /// The bytes that [`Simd::line`] would load as these weights.
    fn store_line(self, line: Self::Line, to: &mut WeightLine);

    fn float_levels(self, table: &LevelTable) -> Self::Floats;
    /// The levels whose indices are the low nibbles of `codes`, or the high ones if `HIGH`.
    fn nibble_floats<const HIGH: bool>(self, levels: Self::Floats, codes: &[u8; LANES]) -> Self::F;

    /// The pairs of a block, see [`pairs`].
    #[inline(always)]
    fn pairs(self, b: Self::Bytes, before: Self::Bytes) -> [Self::Bytes; 2] {
        pairs(self, b, before)
    }
    /// The pairs of a block, in the form that [`Codes::fine_weights`] takes.
    #[inline(always)]
    fn fine_pairs(self, b: Self::Bytes, before: Self::Bytes) -> [Self::Bytes; 2] {
        self.pairs(b, before)
    }
}

/// The two low bits of the level indices of a block, the lower ones first, from the bits `b` of its eight
/// lines and those of the block before: bit `l` belongs to line `l`. They are b₂ and b ⊕ b₁ ⊕ b₄. A strand
/// has every other line, so bₙ of line `l` is bit `l - 2n`.
#[inline(always)]
pub(crate) fn pair_bits<S: Codes>(s: S, b: S::Bytes, before: S::Bytes) -> [S::Bytes; 2] {
    let b1 = s.merge(0b1111_1100, s.shl::<2>(b), s.shr::<6>(before));
    let b2 = s.merge(0b1111_0000, s.shl::<4>(b), s.shr::<4>(before));
    [b2, s.xor(s.xor(b, before), b1)]
}

/// The same bits in pairs: bits 2f and 2f+1 of word `h` belong to line 2f+h.
#[inline(always)]
pub(crate) fn pairs<S: Codes>(s: S, b: S::Bytes, before: S::Bytes) -> [S::Bytes; 2] {
    let [low, high] = pair_bits(s, b, before);
    let even = s.merge(0b0101_0101, low, s.shl::<1>(high));
    let odd = s.merge(0b1010_1010, high, s.shr::<1>(low));
    [even, odd]
}

/// The pair of line `L` in bits 4 and 5.
#[inline(always)]
pub(crate) fn pair_of<S: Codes, const L: usize>(s: S, pairs: [S::Bytes; 2]) -> S::Bytes {
    let word = pairs[L % 2];
    match L / 2 {
        0 => s.shl::<4>(word),
        1 => s.shl::<2>(word),
        2 => word,
        _ => s.shr::<2>(word),
    }
}
