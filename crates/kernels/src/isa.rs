//! The sixteen-lane trait. A value of an implementing type proves that the CPU supports the ISA.
//!
//! This trait covers the operations common to all instruction sets. Extensions for some of them are
//! separate traits in `tile_loop.rs` and `matrix_unit.rs`, the decoding of trellis-coded weights in `codes.rs`; `product.rs` selects which ISAs use them.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_codes;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_codes;
pub(crate) mod codes;
#[cfg(target_arch = "x86_64")]
pub(crate) mod matrix_unit;
pub(crate) mod scalar;
#[cfg(target_arch = "x86_64")]
pub(crate) mod tile_loop;
#[cfg(target_arch = "x86_64")]
pub(crate) mod vnni;

use crate::layout::{LANES, Lanes, QUAD, WeightLine};

/// Prefetch distance in bytes, a few hundred cycles of work: short enough for the L1 cache, long enough
/// to hide memory latency (measured in docs/BENCHMARKS.md).
pub(crate) const AHEAD: usize = 2048;

/// Sixteen lanes of f32 and i32.
///
/// Semantics that every leaf must share, bit for bit: `fma` rounds once; `max` and `min` return the
/// second operand if the first is NaN or both are equal (as x86 does); `round` rounds half to even.
/// Methods are `#[inline(always)]` so that they compile inside the `#[target_feature]` entry points of
/// `table.rs`.
pub(crate) trait Simd: Copy {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// Sixteen booleans.
    type Mask: Copy;
    /// A line of weights, prepared for [`Simd::dot`].
    type Line: Copy;

    /// Tokens per GEMM tile: as many accumulators as fit into the registers.
    const TILE: usize;
    /// Queries per attention tile.
    const QUERIES: usize;
    /// Registers of values per attention step, 1 or 2.
    const VALUES: usize;
    /// Panels per GEMM tile.
    const PANELS: usize;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &Lanes) -> Self::F;
    fn store(self, x: Self::F, to: &mut Lanes);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// a·b + c, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// Rounds to the nearest integer, half to even; |a| < 2³¹.
    fn round(self, a: Self::F) -> Self::I;
    fn to_f32(self, a: Self::I) -> Self::F;
    /// x·2ⁿ for finite x ≥ 0 whose exponent stays in the normal range; adds n to the exponent bits.
    fn scale2(self, x: Self::F, n: Self::I) -> Self::F;
    /// `y` where `x ≥ limit`, 0 elsewhere.
    fn zero_below(self, y: Self::F, x: Self::F, limit: f32) -> Self::F;
    /// Whether `a < b`; false for NaN.
    fn less(self, a: Self::F, b: Self::F) -> Self::Mask;
    /// `a` where the mask is true, `b` elsewhere.
    fn select(self, mask: Self::Mask, a: Self::F, b: Self::F) -> Self::F;
    /// Bit `i` is lane `i`.
    fn mask_bits(self, mask: Self::Mask) -> u16;
    /// Swaps lanes `i` and `i ^ H`, for H = 1, 2, 4, 8.
    fn swap<const H: usize>(self, a: Self::F) -> Self::F;
    /// Stores the low byte of each lane.
    fn store_i8(self, a: Self::I, to: &mut [i8; LANES]);

    /// Sixteen signed bytes as floats.
    fn load_i8(self, x: &[i8; LANES]) -> Self::F;
    /// Sixteen IEEE half-precision floats, from their bits.
    fn load_f16(self, x: &[u16; LANES]) -> Self::F;
    /// Rounds to half precision, ties to even; overflow becomes infinity.
    fn store_f16(self, a: Self::F, to: &mut [u16; LANES]);

    fn load_i32(self, x: &[i32; LANES]) -> Self::I;
    /// Prefetches a line into L2.
    #[inline(always)]
    fn prefetch(self, _line: &WeightLine) {}
    /// Prefetches the line `AHEAD` bytes ahead in the stream into L1.
    #[inline(always)]
    fn prefetch_ahead<const AHEAD: usize>(self, _line: &WeightLine) {}

    /// Prefetches the line that holds `x` into L1.
    #[inline(always)]
    fn prefetch_near<T>(self, _x: &T) {}

    /// Loads a line of a Q8 panel for [`Simd::dot`]: byte `4r+t` is row `r`, input `t`, stored as q+128.
    fn line(self, bytes: &WeightLine) -> Self::Line;
    /// Initial accumulator that makes [`Simd::dot`] yield exactly Σ q·x, given -128·Σ x.
    fn seed(self, offset: i32) -> Self::I;
    /// acc[r] += Σₜ q[r][t] · x[t], exact.
    fn dot(self, acc: Self::I, line: Self::Line, x: &[i8; QUAD]) -> Self::I;
    /// The same for a line that is used once.
    #[inline(always)]
    fn dot_once(self, acc: Self::I, line: Self::Line, x: &[i8; QUAD]) -> Self::I {
        self.dot(acc, line, x)
    }
    /// Exact lane-wise sum.
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I;

    /// Sum of all lanes in a fixed reduction tree: lanes 8 apart, then 4, 2, 1.
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        let a = self.add(a, self.swap::<8>(a));
        let a = self.add(a, self.swap::<4>(a));
        let a = self.add(a, self.swap::<2>(a));
        self.first(self.add(a, self.swap::<1>(a)))
    }

    /// Largest lane.
    #[inline(always)]
    fn max_lane(self, a: Self::F) -> f32 {
        let a = self.max(a, self.swap::<8>(a));
        let a = self.max(a, self.swap::<4>(a));
        let a = self.max(a, self.swap::<2>(a));
        self.first(self.max(a, self.swap::<1>(a)))
    }

    /// Lane 0.
    #[inline(always)]
    fn first(self, a: Self::F) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(a, &mut lanes);
        lanes[0]
    }
}
