//! Which loops multiply on which instruction set: all have those of `gemm.rs`, some have better ones
//! for whole tiles of 16 tokens.

use crate::gemm::{Gemm, register_tiles};
use crate::isa::Simd;
use crate::isa::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use crate::isa::{
    avx2::Avx,
    avx512::{Amx, Avx512Vnni},
    tile_loop::TileLoop,
};
use crate::peak::{self, PeakDots};
#[cfg(target_arch = "x86_64")]
use crate::{gemm_matrix_unit, gemm_tile_loop};

/// An instruction set's choice, made when it is compiled.
pub(crate) trait Product: Simd {
    /// Multiplies all panels with the first tokens of `a`, as many as make whole tiles, in a better
    /// loop than that of `gemm.rs`; gives their number, 0 where there is none.
    #[inline(always)]
    fn whole_tiles(self, _a: &mut Gemm<'_>) -> usize {
        0
    }

    /// The dots of its fastest loop, see [`PeakDots`].
    #[inline(always)]
    fn peak(self, a: PeakDots<'_>) {
        peak::register_tile(self, a);
    }
}

impl Product for Scalar {}

#[cfg(target_arch = "x86_64")]
impl<const VNNI: bool> Product for Avx<VNNI> {}

#[cfg(target_arch = "x86_64")]
impl Product for Avx512Vnni {
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
        gemm_matrix_unit::whole_tiles(self, a)
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
