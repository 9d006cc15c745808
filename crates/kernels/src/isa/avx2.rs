//! AVX2 + FMA + F16C: sixteen lanes are two 256-bit registers.
//!
//! The int8 dot product without VNNI: `vpmaddubsw` multiplies unsigned by signed bytes and adds pairs of
//! products with 16-bit saturation. The unsigned operand is |q| ≤ 127 and the signed operand is x with
//! the sign of q, so a pair is at most 2·127² = 32,258 and never saturates; `vpmaddwd` with a vector of
//! ones widens it to 32 bits. The result is exact.
//!
//! With AVX-VNNI (Intel laptops and desktops since 2021, AMD since Zen 5) a single `vpdpbusd` does this
//! twice as fast; `avx512.rs` explains how the stored q+128 serves as the unsigned operand.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::isa::Simd;
use crate::layout::{LANES, Lanes, QUAD, WeightLine};

/// Proof that the CPU has AVX2, FMA and F16C, and AVX-VNNI if `VNNI`.
#[derive(Clone, Copy)]
pub(crate) struct Avx<const VNNI: bool>(());

/// AVX2.
pub(crate) type Avx2 = Avx<false>;
/// AVX2 with AVX-VNNI.
pub(crate) type AvxVnni = Avx<true>;

impl<const VNNI: bool> Avx<VNNI> {
    /// # Safety
    /// The CPU must have these features.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

type F = [__m256; 2];
type I = [__m256i; 2];

/// Applies a lane-wise intrinsic to both halves.
macro_rules! lanes {
    ($intrinsic:ident, $($x:expr),+) => {
        // SAFETY: `self` proves the CPU feature; the intrinsic touches no memory.
        unsafe { [$intrinsic($($x[0]),+), $intrinsic($($x[1]),+)] }
    };
}

impl<const VNNI: bool> Simd for Avx<VNNI> {
    type F = F;
    type I = I;
    type Mask = F;
    /// Signed weights and their magnitudes; with VNNI, the stored bytes twice.
    type Line = [(__m256i, __m256i); 2];
    const TILE: usize = if VNNI { 6 } else { 4 };
    const QUERIES: usize = Self::TILE;
    const VALUES: usize = 1;
    const PANELS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        // SAFETY: `self` proves the CPU feature.
        [unsafe { _mm256_set1_ps(x) }; 2]
    }
    #[inline(always)]
    fn load(self, x: &Lanes) -> F {
        // SAFETY: both halves lie within the array; unaligned loads are allowed.
        unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
    }
    #[inline(always)]
    fn store(self, x: F, to: &mut Lanes) {
        // SAFETY: both halves lie within the array; unaligned stores are allowed.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), x[1]);
        }
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        lanes!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        lanes!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        lanes!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        lanes!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        lanes!(_mm256_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        lanes!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        lanes!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    fn abs(self, a: F) -> F {
        let sign = self.splat(-0.0);
        lanes!(_mm256_andnot_ps, sign, a)
    }
    #[inline(always)]
    fn round(self, a: F) -> I {
        lanes!(_mm256_cvtps_epi32, a)
    }
    #[inline(always)]
    fn to_f32(self, a: I) -> F {
        lanes!(_mm256_cvtepi32_ps, a)
    }
    #[inline(always)]
    fn scale2(self, x: F, n: I) -> F {
        // SAFETY: `self` proves the CPU feature.
        unsafe {
            let add = |x, n| {
                _mm256_castsi256_ps(_mm256_add_epi32(
                    _mm256_castps_si256(x),
                    _mm256_slli_epi32::<23>(n),
                ))
            };
            [add(x[0], n[0]), add(x[1], n[1])]
        }
    }
    #[inline(always)]
    fn zero_below(self, y: F, x: F, limit: f32) -> F {
        let limit = self.splat(limit);
        // SAFETY: `self` proves the CPU feature.
        unsafe {
            let half = |y, x, limit| _mm256_and_ps(y, _mm256_cmp_ps::<_CMP_GE_OQ>(x, limit));
            [half(y[0], x[0], limit[0]), half(y[1], x[1], limit[1])]
        }
    }
    #[inline(always)]
    fn less(self, a: F, b: F) -> F {
        // SAFETY: `self` proves the CPU feature.
        unsafe {
            let less = |a, b| _mm256_cmp_ps::<_CMP_LT_OQ>(a, b);
            [less(a[0], b[0]), less(a[1], b[1])]
        }
    }
    #[inline(always)]
    fn select(self, mask: F, a: F, b: F) -> F {
        lanes!(_mm256_blendv_ps, b, a, mask)
    }
    #[inline(always)]
    fn mask_bits(self, mask: F) -> u16 {
        // SAFETY: `self` proves the CPU feature.
        let half = |mask| unsafe { _mm256_movemask_ps(mask) };
        (half(mask[0]) | half(mask[1]) << 8) as u16
    }
    #[inline(always)]
    fn swap<const H: usize>(self, a: F) -> F {
        // SAFETY: `self` proves the CPU feature.
        unsafe {
            match H {
                8 => [a[1], a[0]],
                4 => [
                    _mm256_permute2f128_ps::<1>(a[0], a[0]),
                    _mm256_permute2f128_ps::<1>(a[1], a[1]),
                ],
                2 => [
                    _mm256_permute_ps::<0b01_00_11_10>(a[0]),
                    _mm256_permute_ps::<0b01_00_11_10>(a[1]),
                ],
                _ => [
                    _mm256_permute_ps::<0b10_11_00_01>(a[0]),
                    _mm256_permute_ps::<0b10_11_00_01>(a[1]),
                ],
            }
        }
    }
    #[inline(always)]
    fn store_i8(self, a: I, to: &mut [i8; LANES]) {
        // SAFETY: `self` proves the CPU feature; the store covers exactly the array.
        unsafe {
            // Picks the low byte of each i32 within 128-bit halves, then gathers the four words.
            let pick = _mm256_set1_epi64x(i64::from_le_bytes([0, 4, 8, 12, !0, !0, !0, !0]));
            let low = |x| {
                let p = _mm256_shuffle_epi8(x, pick);
                let p = _mm256_permutevar8x32_epi32(p, _mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4));
                _mm256_castsi256_si128(p)
            };
            let both = _mm_unpacklo_epi64(low(a[0]), low(a[1]));
            _mm_storeu_si128(to.as_mut_ptr().cast(), both);
        }
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> F {
        // SAFETY: both halves lie within the array; `self` proves the CPU feature.
        unsafe {
            let half = |at| _mm256_cvtepi8_epi32(_mm_loadl_epi64(x.as_ptr().add(at).cast()));
            self.to_f32([half(0), half(8)])
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> F {
        // SAFETY: both halves lie within the array; `self` proves the CPU feature.
        unsafe {
            let half = |at| _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(at).cast()));
            [half(0), half(8)]
        }
    }
    #[inline(always)]
    fn store_f16(self, a: F, to: &mut [u16; LANES]) {
        // SAFETY: both halves lie within the array; `self` proves the CPU feature.
        unsafe {
            let half = |x| _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
            _mm_storeu_si128(to.as_mut_ptr().cast(), half(a[0]));
            _mm_storeu_si128(to.as_mut_ptr().add(8).cast(), half(a[1]));
        }
    }
    #[inline(always)]
    fn line(self, bytes: &WeightLine) -> Self::Line {
        // SAFETY: both halves lie within the array; `self` proves the CPU feature.
        unsafe {
            let half = |at: usize| {
                let stored = _mm256_loadu_si256(bytes.as_ptr().add(at).cast());
                if VNNI {
                    return (stored, stored);
                }
                let signed = _mm256_xor_si256(stored, _mm256_set1_epi8(-128));
                (signed, _mm256_abs_epi8(signed))
            };
            [half(0), half(32)]
        }
    }
    #[inline(always)]
    fn seed(self, offset: i32) -> I {
        // SAFETY: `self` proves the CPU feature.
        [unsafe { _mm256_set1_epi32(if VNNI { offset } else { 0 }) }; 2]
    }
    #[inline(always)]
    fn dot(self, acc: I, line: Self::Line, x: &[i8; QUAD]) -> I {
        // SAFETY: `self` proves the CPU feature.
        unsafe {
            let x = _mm256_set1_epi32(i32::from_le_bytes(x.map(|b| b as u8)));
            let half = |acc, (signed, magnitude)| {
                if VNNI {
                    return _mm256_dpbusd_avx_epi32(acc, magnitude, x);
                }
                let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, signed));
                _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            };
            [half(acc[0], line[0]), half(acc[1], line[1])]
        }
    }
    /// Without VNNI, the magnitudes of the activations replace those of the weights, which has one step
    /// less.
    #[inline(always)]
    fn dot_once(self, acc: I, line: Self::Line, x: &[i8; QUAD]) -> I {
        if VNNI {
            return self.dot(acc, line, x);
        }
        // SAFETY: `self` proves the CPU feature.
        unsafe {
            let x = _mm256_set1_epi32(i32::from_le_bytes(x.map(|b| b as u8)));
            let magnitude = _mm256_abs_epi8(x);
            let half = |acc, (signed, _)| {
                let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(signed, x));
                _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            };
            [half(acc[0], line[0]), half(acc[1], line[1])]
        }
    }
    #[inline(always)]
    fn prefetch_ahead<const AHEAD: usize>(self, line: &WeightLine) {
        // SAFETY: a prefetch is a hint and valid for any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_add(AHEAD).cast()) };
    }
    #[inline(always)]
    fn prefetch_near<T>(self, x: &T) {
        // SAFETY: a prefetch is a hint and valid for any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(x).cast()) };
    }
    #[inline(always)]
    fn add_i32(self, a: I, b: I) -> I {
        lanes!(_mm256_add_epi32, a, b)
    }
    #[inline(always)]
    fn first(self, a: F) -> f32 {
        // SAFETY: `self` proves the CPU feature.
        unsafe { _mm256_cvtss_f32(a[0]) }
    }
    #[inline(always)]
    fn load_i32(self, x: &[i32; LANES]) -> I {
        // SAFETY: both halves lie within the array; unaligned loads are allowed.
        unsafe {
            let half = |at| _mm256_loadu_si256(x.as_ptr().add(at).cast());
            [half(0), half(8)]
        }
    }
}
