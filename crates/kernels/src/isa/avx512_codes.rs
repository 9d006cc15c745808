//! Trellis decoding with AVX-512. VBMI looks up a level in a table of 64 with one instruction; without
//! it, tables of 16 are combined. GFNI multiplies each byte by a matrix of bits, which computes the pairs
//! of a word with two products.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::isa::Simd;
use crate::isa::avx512::Avx512;
use crate::isa::codes::{Codes, LevelTable, pair_bits, pair_of, pairs};
use crate::layout::{LANES, TOKENS, WeightLine};

/// Calls an intrinsic that touches no memory.
macro_rules! op {
    ($intrinsic:ident $(::<$n:tt>)? ($($x:expr),*)) => {
        // SAFETY: `self` proves the CPU feature; the intrinsic touches no memory.
        unsafe { $intrinsic$(::<$n>)?($($x),*) }
    };
}

/// Bit matrices for one word of [`Codes::pairs`]: its products with the block's bits and with those of
/// the block before add up to the word. Byte 7 - i of a matrix holds the input bits of output bit i.
const fn pair_matrices(h: usize) -> [i64; 2] {
    let (mut of_b, mut of_before) = (0u64, 0u64);
    let mut f = 0;
    while f < 4 {
        let l = 2 * f + h;
        let b1 = if l >= 2 { (1 << (l - 2), 0) } else { (0, 1 << (l + 6)) };
        let b2 = if l >= 4 { (1 << (l - 4), 0) } else { (0, 1 << (l + 4)) };
        let (low, high) = (8 * (7 - 2 * f), 8 * (6 - 2 * f));
        of_b |= b2.0 << low | (1 << l | b1.0) << high;
        of_before |= b2.1 << low | (1 << l | b1.1) << high;
        f += 1;
    }
    [of_b as i64, of_before as i64]
}
const PAIR_MATRICES: [[i64; 2]; 2] = [pair_matrices(0), pair_matrices(1)];

impl<const VBMI: bool, const MATRIX: bool> Avx512<VBMI, MATRIX> {
    #[inline(always)]
    pub(super) fn mask(self, mask: u8) -> __m512i {
        op!(_mm512_set1_epi8(mask as i8))
    }
}

impl<const VBMI: bool, const MATRIX: bool> Codes for Avx512<VBMI, MATRIX> {
    type Bytes = __m512i;
    /// Levels + 128: with VBMI, the whole table first; without it, four tables of 16, each four times.
    type Levels = [__m512i; 4];
    type Floats = __m512;
    const FUSED: usize = Self::TILE;
    const DECODE_FIRST: usize = if MATRIX { usize::MAX } else { TOKENS };

    /// Memory answers CPUs with AMX so late that L1 cannot have enough requests in flight. L2 can.
    #[inline(always)]
    fn prefetch_codes(self, line: &WeightLine) {
        if MATRIX {
            op!(_mm_prefetch::<_MM_HINT_T1>(line.as_ptr().wrapping_add(8192).cast()));
        } else {
            self.prefetch_ahead::<4096>(line);
        }
    }
    #[inline(always)]
    fn zeros(self) -> __m512i {
        self.mask(0)
    }
    #[inline(always)]
    fn bytes(self, line: &WeightLine) -> __m512i {
        self.line(line)
    }
    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        op!(_mm512_xor_si512(a, b))
    }
    #[inline(always)]
    fn xor_where(self, mask: u8, a: __m512i, b: __m512i) -> __m512i {
        // a ⊕ (b ∧ c)
        op!(_mm512_ternarylogic_epi64::<0x78>(a, b, self.mask(mask)))
    }
    #[inline(always)]
    fn merge(self, mask: u8, a: __m512i, b: __m512i) -> __m512i {
        // a ? b : c
        op!(_mm512_ternarylogic_epi64::<0xca>(self.mask(mask), a, b))
    }
    #[inline(always)]
    fn shl<const N: u32>(self, a: __m512i) -> __m512i {
        op!(_mm512_slli_epi16::<N>(a))
    }
    #[inline(always)]
    fn shr<const N: u32>(self, a: __m512i) -> __m512i {
        op!(_mm512_srli_epi16::<N>(a))
    }
    #[inline(always)]
    fn levels(self, table: &LevelTable) -> [__m512i; 4] {
        // SAFETY: reads exactly the array; `self` proves the CPU feature.
        let all = unsafe { _mm512_loadu_si512(table.as_ptr().cast()) };
        let all = self.xor(all, self.mask(128));
        if VBMI {
            return [all; 4];
        }
        [
            op!(_mm512_shuffle_i32x4::<0b00_00_00_00>(all, all)),
            op!(_mm512_shuffle_i32x4::<0b01_01_01_01>(all, all)),
            op!(_mm512_shuffle_i32x4::<0b10_10_10_10>(all, all)),
            op!(_mm512_shuffle_i32x4::<0b11_11_11_11>(all, all)),
        ]
    }
    #[inline(always)]
    fn weights(self, levels: [__m512i; 4], index: __m512i) -> __m512i {
        if VBMI {
            return op!(_mm512_permutexvar_epi8(index, levels[0]));
        }
        let n = op!(_mm512_and_si512(index, self.mask(15)));
        op!(_mm512_shuffle_epi8(levels[0], n))
    }
    #[inline(always)]
    fn nibble_weights<const HIGH: bool>(
        self,
        levels: [__m512i; 4],
        v: __m512i,
        b2: __m512i,
    ) -> __m512i {
        let v = if HIGH { self.shr::<4>(v) } else { v };
        if VBMI {
            let b2 = if HIGH { b2 } else { self.shl::<4>(b2) };
            let index = self.merge(0x0f, v, b2);
            return op!(_mm512_permutexvar_epi8(index, levels[0]));
        }
        let n = op!(_mm512_and_si512(v, self.mask(15)));
        let bit = self.mask(if HIGH { 0x10 } else { 0x01 });
        let second = op!(_mm512_test_epi8_mask(b2, bit));
        let level = op!(_mm512_shuffle_epi8(levels[0], n));
        op!(_mm512_mask_shuffle_epi8(level, second, levels[1], n))
    }
    #[inline(always)]
    fn fine_weights<const L: usize>(
        self,
        levels: [__m512i; 4],
        c: __m512i,
        pairs: [__m512i; 2],
    ) -> __m512i {
        if VBMI {
            let index = self.merge(0x0f, c, pair_of::<_, L>(self, pairs));
            return op!(_mm512_permutexvar_epi8(index, levels[0]));
        }
        let n = op!(_mm512_and_si512(c, self.mask(15)));
        let bit = self.mask(1 << L);
        let low = op!(_mm512_test_epi8_mask(pairs[0], bit));
        let high = op!(_mm512_test_epi8_mask(pairs[1], bit));
        let level = |i: usize| op!(_mm512_shuffle_epi8(levels[i], n));
        let pair = |i: usize| op!(_mm512_mask_shuffle_epi8(level(i), low, levels[i + 1], n));
        op!(_mm512_mask_mov_epi8(pair(0), high, pair(2)))
    }
    #[inline(always)]
    fn store_line(self, line: __m512i, to: &mut WeightLine) {
        // SAFETY: writes exactly the array; unaligned stores are allowed.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), line) }
    }
    #[inline(always)]
    fn float_levels(self, table: &LevelTable) -> __m512 {
        self.load_i8(table.first_chunk().expect("64 levels"))
    }
    #[inline(always)]
    fn nibble_floats<const HIGH: bool>(self, levels: __m512, codes: &[u8; LANES]) -> __m512 {
        // SAFETY: reads exactly the array; `self` proves the CPU feature.
        let wide = unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.as_ptr().cast())) };
        let index = if HIGH { op!(_mm512_srli_epi32::<4>(wide)) } else { wide };
        op!(_mm512_permutexvar_ps(index, levels)) // uses the low four bits of an index
    }
    #[inline(always)]
    fn pairs(self, b: __m512i, before: __m512i) -> [__m512i; 2] {
        if !VBMI {
            return pairs(self, b, before);
        }
        let word = |[of_b, of_before]: [i64; 2]| {
            let (of_b, of_before) =
                (op!(_mm512_set1_epi64(of_b)), op!(_mm512_set1_epi64(of_before)));
            let b = op!(_mm512_gf2p8affine_epi64_epi8::<0>(b, of_b));
            self.xor(b, op!(_mm512_gf2p8affine_epi64_epi8::<0>(before, of_before)))
        };
        [word(PAIR_MATRICES[0]), word(PAIR_MATRICES[1])]
    }
    #[inline(always)]
    fn fine_pairs(self, b: __m512i, before: __m512i) -> [__m512i; 2] {
        if VBMI { self.pairs(b, before) } else { pair_bits(self, b, before) }
    }
}
