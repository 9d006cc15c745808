//! Rotation into the Hadamard domain, and quantization to int8.

use crate::isa::Simd;
use crate::isa::codes::LevelTable;
use crate::layout::{GROUP, GROUP_LANES, LANES, Lanes, TokenLine};

/// Arguments of `rotate`, the orthonormal Walsh-Hadamard transform of consecutive blocks.
#[derive(Debug)]
pub struct Rotate<'a> {
    /// Values, a multiple of 16 and of `block`.
    pub x: &'a mut [f32],
    /// Power of two up to 64; 1 leaves `x` unchanged.
    pub block: usize,
}

impl Rotate<'_> {
    pub(crate) fn check(&self) {
        assert!(self.block.is_power_of_two() && self.block <= GROUP);
        assert!(self.x.len().is_multiple_of(self.block.max(LANES)));
    }
}

/// The butterfly (a, b) → (a + b, a − b) on lanes `i` and `i ^ H`: negates the lanes whose index has bit
/// `H`, then adds the swapped vector.
#[inline(always)]
fn butterfly<S: Simd, const H: usize>(s: S, x: S::F) -> S::F {
    const STAGES: usize = LANES.ilog2() as usize;
    const SIGN: [Lanes; STAGES] = {
        let mut sign = [[1.0; LANES]; STAGES];
        let mut i = 0;
        while i < LANES * STAGES {
            if (i % LANES) & (1 << (i / LANES)) != 0 {
                sign[i / LANES][i % LANES] = -1.0;
            }
            i += 1;
        }
        sign
    };
    // Multiplying by ±1 is exact, so the fma rounds once, like a plain sum.
    s.fma(x, s.load(&SIGN[H.trailing_zeros() as usize]), s.swap::<H>(x))
}

#[inline(always)]
pub(crate) fn rotate<S: Simd>(s: S, a: Rotate<'_>) {
    rotate_block(s, a.x, a.block);
}

#[inline(always)]
pub(crate) fn rotate_block<S: Simd>(s: S, x: &mut [f32], size: usize) {
    let registers = (size / LANES).max(1);
    for block in x.as_chunks_mut::<LANES>().0.chunks_exact_mut(registers) {
        let mut lanes = [s.splat(0.0); GROUP_LANES];
        for i in 0..registers {
            lanes[i] = s.load(&block[i]);
        }
        let lanes = rotate_lanes(s, lanes, size);
        for i in 0..registers {
            s.store(lanes[i], &mut block[i]);
        }
    }
}

/// Transforms 64 values in blocks of `size`: stages 1, 2, 4, 8 within a register, 16 and 32 across
/// registers, then scaling by 1/√size.
#[inline(always)]
pub(crate) fn rotate_lanes<S: Simd>(
    s: S,
    mut x: [S::F; GROUP_LANES],
    size: usize,
) -> [S::F; GROUP_LANES] {
    if size == 1 {
        return x;
    }
    for x in &mut x {
        *x = butterfly::<S, 1>(s, *x);
        if size >= 4 {
            *x = butterfly::<S, 2>(s, *x);
        }
        if size >= 8 {
            *x = butterfly::<S, 4>(s, *x);
        }
        if size >= 16 {
            *x = butterfly::<S, 8>(s, *x);
        }
    }
    if size >= 32 {
        x = [s.add(x[0], x[1]), s.sub(x[0], x[1]), s.add(x[2], x[3]), s.sub(x[2], x[3])];
    }
    if size == 64 {
        x = [s.add(x[0], x[2]), s.add(x[1], x[3]), s.sub(x[0], x[2]), s.sub(x[1], x[3])];
    }
    let scale = s.splat(1.0 / (size as f32).sqrt());
    for x in &mut x {
        *x = s.mul(*x, scale);
    }
    x
}

/// Groups below this magnitude become zeros, as 127 / amax would overflow.
const TINY: f32 = f32::from_bits((127 - 100) << 23); // 2^-100

/// amax / 127 and 127 / amax.
#[inline(always)]
fn scale_and_inverse(amax: f32) -> (f32, f32) {
    if amax < TINY { (0.0, 0.0) } else { (amax / 127.0, 127.0 / amax) }
}

/// round(x · inverse), half to even. Only non-finite values could exceed ±127; clamping keeps them from
/// wrapping.
#[inline(always)]
fn to_int<S: Simd>(s: S, x: S::F, inverse: S::F) -> S::I {
    s.round(s.min(s.max(s.mul(x, inverse), s.splat(-127.0)), s.splat(127.0)))
}

/// Quantizes a group of 64 to q = round(x · 127 / amax). Returns the scale amax / 127 and -128·Σ q, the
/// seed of dots with weights stored as q + 128.
#[inline(always)]
pub(crate) fn quantize_group<S: Simd>(
    s: S,
    x: [S::F; GROUP_LANES],
    to: &mut TokenLine,
) -> (f32, i32) {
    let largest = s
        .max(s.max(s.max(s.max(s.splat(0.0), s.abs(x[0])), s.abs(x[1])), s.abs(x[2])), s.abs(x[3]));
    let (scale, inverse) = scale_and_inverse(s.max_lane(largest));
    let inverse = s.splat(inverse);
    let to = to.as_chunks_mut::<LANES>().0;
    let mut sum = s.splat(0.0); // of integers far below 2²⁴: exact
    for i in 0..GROUP_LANES {
        let q = to_int(s, x[i], inverse);
        sum = s.add(sum, s.to_f32(q));
        s.store_i8(q, &mut to[i]);
    }
    (scale, -128 * s.sum(sum) as i32)
}

/// Like [`quantize_group`], but for a vector whose length is any multiple of 16, with a single scale.
/// Passes the result to `put`, 16 values at a time.
#[inline(always)]
pub(crate) fn quantize_values<S: Simd>(
    s: S,
    x: &[f32],
    mut put: impl FnMut(usize, [i8; LANES]),
) -> (f32, i32) {
    let lanes = x.as_chunks::<LANES>().0;
    let mut largest = s.splat(0.0);
    for x in lanes {
        largest = s.max(largest, s.abs(s.load(x)));
    }
    let (scale, inverse) = scale_and_inverse(s.max_lane(largest));
    let inverse = s.splat(inverse);
    let mut sum = s.splat(0.0);
    for (i, x) in lanes.iter().enumerate() {
        let q = to_int(s, s.load(x), inverse);
        sum = s.add(sum, s.to_f32(q));
        let mut bytes = [0i8; LANES];
        s.store_i8(q, &mut bytes);
        put(i, bytes);
    }
    (scale, -128 * s.sum(sum) as i32)
}

/// The levels of the 4-bit cache: those with the smallest mean squared error for 64 Gaussian values with a
/// common scale, in units of 1/127 of the largest level. [`code_values`] relies on their symmetry.
pub(crate) const KV_LEVELS: LevelTable = {
    const POSITIVE: [i8; 8] = [6, 18, 31, 44, 59, 76, 97, 127];
    let mut levels = [0; 64];
    let mut i = 0;
    while i < 64 {
        levels[i] = match i % 16 {
            n if n < 8 => -POSITIVE[7 - n],
            n => POSITIVE[n - 8],
        };
        i += 1;
    }
    levels
};

/// Scales tried for the values of the 4-bit cache, relative to the one that maps the largest to the largest
/// level. More of them gain 0.1 dB.
const SCALES: [f32; 4] = [0.78, 0.87, 0.97, 1.06];

/// Encodes a vector whose length is any multiple of 16 as levels of the 4-bit cache. Returns the scale, and
/// passes the codes to `put`, 16 at a time. Of several scales, that with the smallest squared error is
/// chosen; the codes then determine the best scale for them.
#[inline(always)]
pub(crate) fn code_values<S: Simd>(
    s: S,
    x: &[f32],
    mut put: impl FnMut(usize, [u8; LANES]),
) -> f32 {
    let lanes = x.as_chunks::<LANES>().0;
    let mut largest = s.splat(0.0);
    for x in lanes {
        largest = s.max(largest, s.abs(s.load(x)));
    }
    let (_, inverse) = scale_and_inverse(s.max_lane(largest));
    // NaN remains if no scale is better than another, because a value is not a number.
    let (mut inverse_scale, mut scale, mut gain) = (0.0, f32::NAN, f32::NEG_INFINITY);
    for factor in SCALES {
        let inverse = inverse / factor;
        let (mut dot, mut square) = (s.splat(0.0), s.splat(0.0));
        for x in lanes {
            let x = s.abs(s.load(x));
            let (_, level) = nearest_level(s, s.mul(x, s.splat(inverse)));
            dot = s.fma(x, level, dot);
            square = s.fma(level, level, square);
        }
        let (dot, square) = (s.sum(dot), s.sum(square));
        // x² − dot²/square is the error with the best scale for these levels.
        if dot * dot / square > gain {
            (inverse_scale, scale, gain) = (inverse, dot / square, dot * dot / square);
        }
    }
    for (i, x) in lanes.iter().enumerate() {
        let x = s.load(x);
        let (n, _) = nearest_level(s, s.mul(s.abs(x), s.splat(inverse_scale)));
        let negative = s.sub(s.splat(7.0), n);
        let code = s.select(s.less(x, s.splat(0.0)), negative, s.add(n, s.splat(8.0)));
        let mut codes = [0i8; LANES];
        s.store_i8(s.round(code), &mut codes);
        put(i, codes.map(|code| code as u8));
    }
    scale
}

/// The index and value of the positive level nearest to x ≥ 0, as floats.
#[inline(always)]
fn nearest_level<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    let level = |i: usize| f32::from(KV_LEVELS[8 + i]);
    let (mut n, mut nearest) = (s.splat(0.0), s.splat(level(0)));
    for i in 0..7 {
        let limit = (level(i) + level(i + 1)) / 2.0;
        n = s.add(n, s.zero_below(s.splat(1.0), x, limit));
        nearest = s.add(nearest, s.zero_below(s.splat(level(i + 1) - level(i)), x, limit));
    }
    (n, nearest)
}
