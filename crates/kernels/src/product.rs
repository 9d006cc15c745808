//! Selects the GEMM loops of each instruction set. All use the loops in `gemm.rs`; some have a faster
//! loop for whole tiles of 16 tokens.

use crate::gemm::{Gemm, register_tiles};
use crate::isa::Simd;
use crate::isa::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use crate::isa::{
    avx2::Avx,
    avx512::{Amx, Avx512},
    tile_loop::TileLoop,
};
use crate::layout::TOKENS;
use crate::peak::{self, PeakDots};
#[cfg(target_arch = "x86_64")]
use crate::{
    gemm_matrix_unit::{self, Q8},
    gemm_tile_loop,
    trellis_decode::Coded,
};

/// The loops of an instruction set, chosen at compile time.
pub(crate) trait Product: Simd {
    /// Number of tokens that are multiplied at once, a divisor of [`TOKENS`]: multiples of it waste nothing.
    const AT_ONCE: usize = TOKENS;

    /// Multiplies all panels by the leading tokens of `a` that form whole tiles, in a loop faster than
    /// those in `gemm.rs`. Returns the number of tokens covered, 0 if there is no such loop.
    #[inline(always)]
    fn whole_tiles(self, _a: &mut Gemm<'_>) -> usize {
        0
    }

    /// The same for panels of trellis codes of `BITS` bits, decoded meanwhile.
    #[inline(always)]
    fn whole_coded_tiles<const BITS: usize>(self, _a: &mut Gemm<'_>) -> usize {
        0
    }

    /// Computes the dot products of the fastest loop, see [`PeakDots`].
    #[inline(always)]
    fn peak(self, a: PeakDots<'_>) {
        peak::register_tile(self, a);
    }
}

impl Product for Scalar {
    const AT_ONCE: usize = Self::TILE;
}

#[cfg(target_arch = "x86_64")]
impl<const VNNI: bool> Product for Avx<VNNI> {
    /// With VNNI, 16 tokens are tiles of 6, 6 and 4.
    const AT_ONCE: usize = if VNNI { TOKENS } else { Self::TILE };
}

#[cfg(target_arch = "x86_64")]
impl<const VBMI: bool> Product for Avx512<VBMI, false> {
    #[inline(always)]
    fn whole_tiles(self, a: &mut Gemm<'_>) -> usize {
        gemm_tile_loop::whole_tiles(self, a)
    }
    #[inline(always)]
    fn peak(self, a: PeakDots<'_>) {
        self.tile_peak(a.dots, a.out);
    }
}

#[cfg(target_arch = "x86_64")]
impl Product for Amx {
    #[inline(always)]
    fn whole_tiles(self, a: &mut Gemm<'_>) -> usize {
        gemm_matrix_unit::whole_tiles::<_, Q8>(self, a)
    }
    #[inline(always)]
    fn whole_coded_tiles<const BITS: usize>(self, a: &mut Gemm<'_>) -> usize {
        gemm_matrix_unit::whole_tiles::<_, Coded<BITS>>(self, a)
    }
    #[inline(always)]
    fn peak(self, a: PeakDots<'_>) {
        gemm_matrix_unit::peak(self, a);
    }
}

#[inline(always)]
pub(crate) fn gemm_q8<S: Product>(s: S, mut a: Gemm<'_>) {
    let whole = s.whole_tiles(&mut a);
    if whole < a.inputs.m {
        register_tiles(s, a, whole);
    }
}

#[inline(always)]
pub(crate) fn peak_dots<S: Product>(s: S, a: PeakDots<'_>) {
    s.peak(a);
}
