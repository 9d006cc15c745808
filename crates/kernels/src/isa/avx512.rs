//! AVX-512 with VNNI: sixteen lanes are one 512-bit register, and one instruction performs 64
//! multiply-adds.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes. Weights are stored as q+128, so they serve as the
//! unsigned operand directly; the accumulator starts at -128·Σx to cancel the offset.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::isa::codes::Codes;
use crate::isa::matrix_unit::MatrixUnit;
use crate::isa::tile_loop::{Tile, TileLoop};
use crate::isa::{Simd, amx, vnni};
use crate::layout::{LANES, LINE, Lanes, QUAD, TOKENS, WeightLine};

/// Proof that the CPU has AVX-512 F, BW, VL, DQ and VNNI, also VBMI and GFNI if `VBMI`, and that AMX int8
/// is enabled if `MATRIX`.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const VBMI: bool, const MATRIX: bool>(());

/// AVX-512 with VNNI.
pub(crate) type Avx512Vnni = Avx512<false, false>;
/// AVX-512 with VNNI, VBMI and GFNI.
pub(crate) type Avx512Vbmi = Avx512<true, false>;
/// The same with AMX.
pub(crate) type Amx = Avx512<true, true>;

impl<const VBMI: bool, const MATRIX: bool> Avx512<VBMI, MATRIX> {
    /// # Safety
    /// The CPU must have these features; for `MATRIX`, [`amx::enable`] must have returned true.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

/// Calls an intrinsic that touches no memory.
macro_rules! op {
    ($intrinsic:ident $(::<$c:tt>)? ($($x:expr),*)) => {
        // SAFETY: `self` proves the CPU feature; the intrinsic touches no memory.
        unsafe { $intrinsic$(::<$c>)?($($x),*) }
    };
}

impl<const VBMI: bool, const MATRIX: bool> Simd for Avx512<VBMI, MATRIX> {
    type F = __m512;
    type I = __m512i;
    type Mask = __mmask16;
    type Line = __m512i;
    const TILE: usize = 8;
    const QUERIES: usize = 12;
    const VALUES: usize = 2;
    const PANELS: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &Lanes) -> __m512 {
        // SAFETY: reads exactly the array; unaligned loads are allowed.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, x: __m512, to: &mut Lanes) {
        // SAFETY: writes exactly the array; unaligned stores are allowed.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        op!(_mm512_abs_ps(a))
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512i {
        op!(_mm512_cvtps_epi32(a))
    }
    #[inline(always)]
    fn to_f32(self, a: __m512i) -> __m512 {
        op!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn scale2(self, x: __m512, n: __m512i) -> __m512 {
        let exponent = op!(_mm512_slli_epi32::<23>(n));
        let bits = op!(_mm512_castps_si512(x));
        let bits = op!(_mm512_add_epi32(bits, exponent));
        op!(_mm512_castsi512_ps(bits))
    }
    #[inline(always)]
    fn zero_below(self, y: __m512, x: __m512, limit: f32) -> __m512 {
        let limit = self.splat(limit);
        let keep = op!(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, limit));
        op!(_mm512_maskz_mov_ps(keep, y))
    }
    #[inline(always)]
    fn less(self, a: __m512, b: __m512) -> __mmask16 {
        op!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b))
    }
    #[inline(always)]
    fn select(self, mask: __mmask16, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mask_blend_ps(mask, b, a))
    }
    #[inline(always)]
    fn mask_bits(self, mask: __mmask16) -> u16 {
        mask
    }
    #[inline(always)]
    fn swap<const H: usize>(self, a: __m512) -> __m512 {
        match H {
            8 => op!(_mm512_shuffle_f32x4::<0b01_00_11_10>(a, a)),
            4 => op!(_mm512_shuffle_f32x4::<0b10_11_00_01>(a, a)),
            2 => op!(_mm512_permute_ps::<0b01_00_11_10>(a)),
            _ => op!(_mm512_permute_ps::<0b10_11_00_01>(a)),
        }
    }
    #[inline(always)]
    fn store_i8(self, a: __m512i, to: &mut [i8; LANES]) {
        // SAFETY: `self` proves the CPU feature; the store covers exactly the array.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(a)) }
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> __m512 {
        // SAFETY: reads exactly the array; `self` proves the CPU feature.
        let wide = unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast())) };
        self.to_f32(wide)
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> __m512 {
        // SAFETY: reads exactly the array; `self` proves the CPU feature.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn store_f16(self, a: __m512, to: &mut [u16; LANES]) {
        // SAFETY: writes exactly the array; `self` proves the CPU feature.
        unsafe {
            let half = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), half);
        }
    }
    #[inline(always)]
    fn line(self, bytes: &WeightLine) -> __m512i {
        // SAFETY: reads exactly the array; unaligned loads are allowed.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }
    #[inline(always)]
    fn seed(self, offset: i32) -> __m512i {
        op!(_mm512_set1_epi32(offset))
    }
    #[inline(always)]
    fn dot(self, acc: __m512i, line: __m512i, x: &[i8; QUAD]) -> __m512i {
        let x = op!(_mm512_set1_epi32(i32::from_le_bytes(x.map(|b| b as u8))));
        op!(_mm512_dpbusd_epi32(acc, line, x))
    }
    #[inline(always)]
    fn add_i32(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    fn prefetch(self, line: &WeightLine) {
        op!(_mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()));
    }
    #[inline(always)]
    fn prefetch_ahead<const AHEAD: usize>(self, line: &WeightLine) {
        op!(_mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_add(AHEAD).cast()));
    }
    #[inline(always)]
    fn prefetch_near<T>(self, x: &T) {
        op!(_mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(x).cast()));
    }
    #[inline(always)]
    fn first(self, a: __m512) -> f32 {
        op!(_mm512_cvtss_f32(a))
    }
    #[inline(always)]
    fn load_i32(self, x: &[i32; LANES]) -> __m512i {
        // SAFETY: reads exactly the array; unaligned loads are allowed.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }
}

impl<const VBMI: bool> TileLoop for Avx512<VBMI, false> {
    #[inline(always)]
    fn tile(self, tile: Tile<'_>, sums: &mut [Lanes; TOKENS]) {
        // SAFETY: `self` proves the CPU features.
        unsafe { vnni::tile(tile, sums) };
    }
    #[inline(always)]
    fn tile_peak(self, dots: usize, out: &mut Lanes) {
        // SAFETY: `self` proves the CPU features.
        unsafe { vnni::peak(dots.div_ceil(vnni::PEAK_DOTS), out) };
    }
}

impl MatrixUnit for Amx {
    type Guard = amx::TileGuard;
    #[inline(always)]
    fn configure(self) -> amx::TileGuard {
        // SAFETY: `self` proves that AMX is enabled.
        unsafe { amx::TileGuard::new() }
    }
    #[inline(always)]
    fn store_signed(self, line: __m512i, to: &mut [i8; LINE]) {
        let signed = self.xor(line, self.mask(0x80));
        // SAFETY: writes exactly the array; unaligned stores are allowed.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), signed) }
    }
}
