//! Plain Rust: runs on every machine, and is the easiest leaf to read.
#![allow(unsafe_code)] // for a signature shared with the other leaves

use crate::fma::fma;
use crate::isa::Simd;
use crate::isa::codes::{Codes, LevelTable, pair_of};
use crate::layout::{LANES, LINE, Lanes, QUAD, WeightLine};

#[derive(Clone, Copy)]
pub(crate) struct Scalar;

impl Scalar {
    /// # Safety
    /// No requirements; the signature matches the other leaves.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self
    }
}

type F = Lanes;
type I = [i32; LANES];

#[inline(always)]
fn zip(a: F, b: F, f: impl Fn(f32, f32) -> f32) -> F {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Scalar {
    type F = F;
    type I = I;
    type Mask = [bool; LANES];
    type Line = [i8; LINE];
    const TILE: usize = 4;
    const QUERIES: usize = Self::TILE;
    const VALUES: usize = 1;
    const PANELS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &Lanes) -> F {
        *x
    }
    #[inline(always)]
    fn store(self, x: F, to: &mut Lanes) {
        *to = x;
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        std::array::from_fn(|i| fma(a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn abs(self, a: F) -> F {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn round(self, a: F) -> I {
        a.map(|x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    fn to_f32(self, a: I) -> F {
        a.map(|x| x as f32)
    }
    #[inline(always)]
    fn scale2(self, x: F, n: I) -> F {
        std::array::from_fn(|i| f32::from_bits(x[i].to_bits().wrapping_add((n[i] << 23) as u32)))
    }
    #[inline(always)]
    fn zero_below(self, y: F, x: F, limit: f32) -> F {
        zip(y, x, |y, x| if x >= limit { y } else { 0.0 })
    }
    #[inline(always)]
    fn less(self, a: F, b: F) -> [bool; LANES] {
        std::array::from_fn(|i| a[i] < b[i])
    }
    #[inline(always)]
    fn select(self, mask: [bool; LANES], a: F, b: F) -> F {
        std::array::from_fn(|i| if mask[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn mask_bits(self, mask: [bool; LANES]) -> u16 {
        (0..LANES).fold(0, |bits, i| bits | u16::from(mask[i]) << i)
    }
    #[inline(always)]
    fn swap<const H: usize>(self, a: F) -> F {
        std::array::from_fn(|i| a[i ^ H])
    }
    #[inline(always)]
    fn store_i8(self, a: I, to: &mut [i8; LANES]) {
        *to = a.map(|x| x as i8);
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> F {
        x.map(f32::from)
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> F {
        x.map(from_f16)
    }
    #[inline(always)]
    fn store_f16(self, a: F, to: &mut [u16; LANES]) {
        *to = a.map(to_f16);
    }
    #[inline(always)]
    fn line(self, bytes: &WeightLine) -> [i8; LINE] {
        bytes.map(|b| (b ^ 0x80) as i8)
    }
    #[inline(always)]
    fn seed(self, _offset: i32) -> I {
        [0; LANES]
    }
    #[inline(always)]
    fn dot(self, acc: I, line: [i8; LINE], x: &[i8; QUAD]) -> I {
        std::array::from_fn(|r| {
            (0..QUAD).fold(acc[r], |sum, t| sum + i32::from(line[QUAD * r + t]) * i32::from(x[t]))
        })
    }
    #[inline(always)]
    fn add_i32(self, a: I, b: I) -> I {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn load_i32(self, x: &[i32; LANES]) -> I {
        *x
    }
}

impl Codes for Scalar {
    type Bytes = WeightLine;
    type Levels = LevelTable;
    type Floats = F;
    const FUSED: usize = 0;

    #[inline(always)]
    fn zeros(self) -> WeightLine {
        [0; LINE]
    }
    #[inline(always)]
    fn bytes(self, line: &WeightLine) -> WeightLine {
        *line
    }
    #[inline(always)]
    fn xor(self, a: WeightLine, b: WeightLine) -> WeightLine {
        std::array::from_fn(|i| a[i] ^ b[i])
    }
    #[inline(always)]
    fn xor_where(self, mask: u8, a: WeightLine, b: WeightLine) -> WeightLine {
        std::array::from_fn(|i| a[i] ^ b[i] & mask)
    }
    #[inline(always)]
    fn merge(self, mask: u8, a: WeightLine, b: WeightLine) -> WeightLine {
        std::array::from_fn(|i| a[i] & mask | b[i] & !mask)
    }
    #[inline(always)]
    fn shl<const N: u32>(self, a: WeightLine) -> WeightLine {
        a.map(|a| a << N)
    }
    #[inline(always)]
    fn shr<const N: u32>(self, a: WeightLine) -> WeightLine {
        a.map(|a| a >> N)
    }
    #[inline(always)]
    fn levels(self, table: &LevelTable) -> LevelTable {
        *table
    }
    #[inline(always)]
    fn weights(self, levels: LevelTable, index: WeightLine) -> [i8; LINE] {
        index.map(|i| levels[usize::from(i & 15)])
    }
    #[inline(always)]
    fn nibble_weights<const HIGH: bool>(
        self,
        levels: LevelTable,
        v: WeightLine,
        b2: WeightLine,
    ) -> [i8; LINE] {
        let shift = if HIGH { 4 } else { 0 };
        let index = |i: usize| v[i] >> shift & 15 | (b2[i] >> shift & 1) << 4;
        std::array::from_fn(|i| levels[usize::from(index(i))])
    }
    #[inline(always)]
    fn fine_weights<const L: usize>(
        self,
        levels: LevelTable,
        c: WeightLine,
        pairs: [WeightLine; 2],
    ) -> [i8; LINE] {
        let pair = pair_of::<_, L>(self, pairs);
        std::array::from_fn(|i| levels[usize::from(c[i] & 0x0f | pair[i] & 0x30)])
    }
    #[inline(always)]
    fn store_line(self, line: [i8; LINE], to: &mut WeightLine) {
        *to = line.map(|q| q as u8 ^ 0x80);
    }
    #[inline(always)]
    fn float_levels(self, table: &LevelTable) -> F {
        std::array::from_fn(|i| f32::from(table[i]))
    }
    #[inline(always)]
    fn nibble_floats<const HIGH: bool>(self, levels: F, codes: &[u8; LANES]) -> F {
        codes.map(|code| levels[usize::from(if HIGH { code >> 4 } else { code & 15 })])
    }
}

/// Half to single precision, exact: multiplying by 2¹¹² adjusts the exponent and also normalizes
/// subnormals.
fn from_f16(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let rest = u32::from(half & 0x7fff);
    let magnitude = if rest >= 0x7c00 {
        0x7f80_0000 | (rest & 0x3ff) << 13
    } else {
        (f32::from_bits(rest << 13) * f32::from_bits((127 + 112) << 23)).to_bits()
    };
    f32::from_bits(sign | magnitude)
}

/// Single to half precision, ties to even.
fn to_f16(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16) as u16 & 0x8000;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let half = if magnitude > 0x7f80_0000 {
        0x7e00 | (magnitude >> 13 & 0x3ff) // NaN stays NaN
    } else if magnitude >= (127 + 16) << 23 {
        0x7c00
    } else if magnitude < (127 - 14) << 23 {
        // Subnormal: adding 2⁻¹ rounds to units of 2⁻²⁴.
        (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits()
    } else {
        let odd = magnitude >> 13 & 1;
        (magnitude - ((127 - 15) << 23) + 0xfff + odd) >> 13
    };
    sign | half as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_survives_a_round_trip_through_single() {
        for half in 0..=u16::MAX {
            let x = from_f16(half);
            assert!(to_f16(x) == half || (x.is_nan() && to_f16(x) & 0x7e00 == 0x7e00));
        }
        for (x, half) in [
            (1.0, 0x3c00),
            (65504.0, 0x7bff),
            (65519.9, 0x7bff),
            (65520.0, 0x7c00),
            (5.96e-8, 1),
            (2.98e-8, 0),
            (-2.0, 0xc000),
            (0.1, 0x2e66),
        ] {
            assert_eq!(to_f16(x), half, "{x}");
        }
    }
}
