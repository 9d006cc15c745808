//! Plain Rust: the leaf every machine has, and the easiest to read.
#![allow(unsafe_code)] // one signature, shared with the other leaves

use crate::isa::Simd;

#[derive(Clone, Copy)]
pub(crate) struct Scalar;

impl Scalar {
    /// # Safety
    /// None needed; the signature is that of the other leaves.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self
    }
}

type F = [f32; 16];

#[inline(always)]
fn zip(a: F, b: F, f: impl Fn(f32, f32) -> f32) -> F {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Scalar {
    type F = F;
    type I = [i32; 16];
    type Line = [i8; 64];
    const TILE: usize = 4;
    const PANELS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        [x; 16]
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> F {
        *x
    }
    #[inline(always)]
    fn store(self, x: F, to: &mut [f32; 16]) {
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
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
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
    fn round(self, a: F) -> [i32; 16] {
        a.map(|x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    fn to_f32(self, a: [i32; 16]) -> F {
        a.map(|x| x as f32)
    }
    #[inline(always)]
    fn scale2(self, x: F, n: [i32; 16]) -> F {
        std::array::from_fn(|i| f32::from_bits(x[i].to_bits().wrapping_add((n[i] << 23) as u32)))
    }
    #[inline(always)]
    fn zero_below(self, y: F, x: F, limit: f32) -> F {
        zip(y, x, |y, x| if x >= limit { y } else { 0.0 })
    }
    #[inline(always)]
    fn swap<const H: usize>(self, a: F) -> F {
        std::array::from_fn(|i| a[i ^ H])
    }
    #[inline(always)]
    fn store_i8(self, a: [i32; 16], to: &mut [i8; 16]) {
        *to = a.map(|x| x as i8);
    }
    #[inline(always)]
    fn line(self, bytes: &[u8; 64]) -> [i8; 64] {
        bytes.map(|b| (b ^ 0x80) as i8)
    }
    #[inline(always)]
    fn seed(self, _sum_x: i32) -> [i32; 16] {
        [0; 16]
    }
    #[inline(always)]
    fn dot(self, acc: [i32; 16], line: [i8; 64], x: &[i8; 4]) -> [i32; 16] {
        std::array::from_fn(|r| {
            (0..4).fold(acc[r], |sum, t| sum + i32::from(line[4 * r + t]) * i32::from(x[t]))
        })
    }
    #[inline(always)]
    fn add_i32(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|i| a[i] + b[i])
    }
}
