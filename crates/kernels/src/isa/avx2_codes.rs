//! Trellis decoding with AVX2. Levels are looked up in tables of 16 (`vpshufb`), of which two suffice for
//! all 64 levels, as half of them are the negatives of the others.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::isa::avx2::Avx;
use crate::isa::codes::{Codes, LevelTable, pair_bits};
use crate::layout::{LANES, WeightLine};

type Bytes = [__m256i; 2];

/// Applies a lane-wise intrinsic to both halves.
macro_rules! lanes {
    ($intrinsic:ident $(::<$n:literal>)?, $($x:expr),+) => {
        // SAFETY: `self` proves the CPU feature; the intrinsic touches no memory.
        unsafe { [$intrinsic$(::<$n>)?($($x[0]),+), $intrinsic$(::<$n>)?($($x[1]),+)] }
    };
}

impl<const VNNI: bool> Avx<VNNI> {
    #[inline(always)]
    fn mask(self, mask: u8) -> Bytes {
        // SAFETY: `self` proves the CPU feature.
        [unsafe { _mm256_set1_epi8(mask as i8) }; 2]
    }

    /// Half a line of weights.
    #[inline(always)]
    fn weight(self, level: __m256i) -> (__m256i, __m256i) {
        // SAFETY: `self` proves the CPU feature.
        (level, if VNNI { level } else { unsafe { _mm256_abs_epi8(level) } })
    }
}

impl<const VNNI: bool> Codes for Avx<VNNI> {
    type Bytes = Bytes;
    /// The first 32 signed levels or, with VNNI, levels + 128.
    type Levels = [__m256i; 2];
    type Floats = __m128i;

    #[inline(always)]
    fn zeros(self) -> Bytes {
        self.mask(0)
    }
    #[inline(always)]
    fn bytes(self, line: &WeightLine) -> Bytes {
        // SAFETY: both halves lie within the array; `self` proves the CPU feature.
        unsafe {
            let half = |at| _mm256_loadu_si256(line.as_ptr().add(at).cast());
            [half(0), half(32)]
        }
    }
    #[inline(always)]
    fn xor(self, a: Bytes, b: Bytes) -> Bytes {
        lanes!(_mm256_xor_si256, a, b)
    }
    #[inline(always)]
    fn xor_where(self, mask: u8, a: Bytes, b: Bytes) -> Bytes {
        let mask = self.mask(mask);
        let b = lanes!(_mm256_and_si256, b, mask);
        self.xor(a, b)
    }
    #[inline(always)]
    fn merge(self, mask: u8, a: Bytes, b: Bytes) -> Bytes {
        let mask = self.mask(mask);
        let a = lanes!(_mm256_and_si256, a, mask);
        let b = lanes!(_mm256_andnot_si256, mask, b);
        lanes!(_mm256_or_si256, a, b)
    }
    #[inline(always)]
    fn shl<const N: u32>(self, a: Bytes) -> Bytes {
        match N {
            1 => lanes!(_mm256_slli_epi16::<1>, a),
            2 => lanes!(_mm256_slli_epi16::<2>, a),
            _ => lanes!(_mm256_slli_epi16::<4>, a),
        }
    }
    #[inline(always)]
    fn shr<const N: u32>(self, a: Bytes) -> Bytes {
        match N {
            1 => lanes!(_mm256_srli_epi16::<1>, a),
            2 => lanes!(_mm256_srli_epi16::<2>, a),
            4 => lanes!(_mm256_srli_epi16::<4>, a),
            _ => lanes!(_mm256_srli_epi16::<6>, a),
        }
    }
    #[inline(always)]
    fn levels(self, table: &LevelTable) -> [__m256i; 2] {
        // SAFETY: each load covers 16 of the first 32 bytes; `self` proves the CPU feature.
        unsafe {
            let offset = _mm256_set1_epi8(if VNNI { -128 } else { 0 });
            let load = |i: usize| _mm_loadu_si128(table.as_ptr().add(16 * i).cast());
            let table = |i| _mm256_xor_si256(_mm256_broadcastsi128_si256(load(i)), offset);
            [table(0), table(1)]
        }
    }
    #[inline(always)]
    fn weights(self, levels: [__m256i; 2], index: Bytes) -> Self::Line {
        // SAFETY: `self` proves the CPU feature.
        unsafe {
            let half = |index| {
                let n = _mm256_and_si256(index, _mm256_set1_epi8(15));
                self.weight(_mm256_shuffle_epi8(levels[0], n))
            };
            [half(index[0]), half(index[1])]
        }
    }
    #[inline(always)]
    fn nibble_weights<const HIGH: bool>(
        self,
        levels: [__m256i; 2],
        v: Bytes,
        b2: Bytes,
    ) -> Self::Line {
        // SAFETY: `self` proves the CPU feature.
        unsafe {
            let half = |v: __m256i, b2: __m256i| {
                let (v, b2) = match HIGH {
                    true => (_mm256_srli_epi16::<4>(v), _mm256_slli_epi16::<3>(b2)),
                    false => (v, _mm256_slli_epi16::<7>(b2)),
                };
                let n = _mm256_and_si256(v, _mm256_set1_epi8(15));
                let level = |table: usize| _mm256_shuffle_epi8(levels[table], n);
                // The highest bit of each byte controls the blend.
                self.weight(_mm256_blendv_epi8(level(0), level(1), b2))
            };
            [half(v[0], b2[0]), half(v[1], b2[1])]
        }
    }
    #[inline(always)]
    fn fine_weights<const L: usize>(
        self,
        levels: [__m256i; 2],
        c: Bytes,
        [second, high]: [Bytes; 2],
    ) -> Self::Line {
        // SAFETY: `self` proves the CPU feature.
        unsafe {
            // If the pair's high bit is set, looks up the opposite index and negates the level.
            let half = |c, second, high| {
                let minus = _mm256_cmpgt_epi8(_mm256_setzero_si256(), to_bit_7::<L>(high));
                let n = _mm256_and_si256(_mm256_xor_si256(c, minus), _mm256_set1_epi8(15));
                let level = |table: usize| _mm256_shuffle_epi8(levels[table], n);
                let level = _mm256_blendv_epi8(level(0), level(1), to_bit_7::<L>(second));
                // Also negates a level + 128, modulo 256.
                self.weight(_mm256_sub_epi8(_mm256_xor_si256(level, minus), minus))
            };
            [half(c[0], second[0], high[0]), half(c[1], second[1], high[1])]
        }
    }
    /// Whether a level is in the second table, and whether it is negated: bit `l` for line `l`.
    #[inline(always)]
    fn fine_pairs(self, b: Bytes, before: Bytes) -> [Bytes; 2] {
        let [low, high] = pair_bits(self, b, before);
        [self.xor(low, high), high]
    }
    #[inline(always)]
    fn store_line(self, line: Self::Line, to: &mut WeightLine) {
        // SAFETY: both halves lie within the array; `self` proves the CPU feature.
        unsafe {
            let offset = _mm256_set1_epi8(if VNNI { 0 } else { -128 });
            for (i, (level, _)) in line.into_iter().enumerate() {
                let stored = _mm256_xor_si256(level, offset);
                _mm256_storeu_si256(to.as_mut_ptr().add(32 * i).cast(), stored);
            }
        }
    }
    #[inline(always)]
    fn float_levels(self, table: &LevelTable) -> __m128i {
        // SAFETY: reads the first 16 levels; `self` proves the CPU feature.
        unsafe { _mm_loadu_si128(table.as_ptr().cast()) }
    }
    #[inline(always)]
    fn nibble_floats<const HIGH: bool>(self, levels: __m128i, codes: &[u8; LANES]) -> [__m256; 2] {
        // SAFETY: reads exactly the array; `self` proves the CPU feature.
        unsafe {
            let codes = _mm_loadu_si128(codes.as_ptr().cast());
            let index = if HIGH { _mm_srli_epi16::<4>(codes) } else { codes };
            let index = _mm_and_si128(index, _mm_set1_epi8(15));
            let level = _mm_shuffle_epi8(levels, index);
            let half = |level| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(level));
            [half(level), half(_mm_unpackhi_epi64(level, level))]
        }
    }
}

/// Shifts bit `L` of each byte to bit 7, which blends and comparisons read.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn to_bit_7<const L: usize>(a: __m256i) -> __m256i {
    // SAFETY: see above.
    unsafe {
        match L {
            0 => _mm256_slli_epi16::<7>(a),
            1 => _mm256_slli_epi16::<6>(a),
            2 => _mm256_slli_epi16::<5>(a),
            3 => _mm256_slli_epi16::<4>(a),
            4 => _mm256_slli_epi16::<3>(a),
            5 => _mm256_slli_epi16::<2>(a),
            6 => _mm256_slli_epi16::<1>(a),
            _ => a,
        }
    }
}
