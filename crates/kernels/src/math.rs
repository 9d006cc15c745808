//! Exponential and hyperbolic tangent with the same bits on every instruction set, which libm does not
//! guarantee.

use crate::isa::Simd;

/// eˣ within 2 ulp for x in [-87, 88]; 0 below, e⁸⁸ above; e⁻∞ = 0.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, then a degree-6 polynomial in r (coefficients 1/k!, adjusted as
/// in Cephes' `expf`, S. Moshier), scaled by 2ⁿ through the exponent bits.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const POLY: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let clamped = s.min(s.max(x, s.splat(-87.0)), s.splat(88.0));
    let n = s.round(s.mul(clamped, s.splat(LOG2_E)));
    let nf = s.to_f32(n);
    let r = s.fma(nf, s.splat(-LN2_HIGH), clamped);
    let r = s.fma(nf, s.splat(-LN2_LOW), r);
    let mut p = s.splat(POLY[0]);
    for c in &POLY[1..] {
        p = s.fma(p, r, s.splat(*c));
    }
    let p = s.add(s.fma(s.mul(r, r), p, r), s.splat(1.0));
    s.zero_below(s.scale2(p, n), x, -87.0)
}

/// x / (1 + e⁻ˣ)
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::F) -> S::F {
    let sigmoid_inverse = s.add(exp(s, s.sub(s.splat(0.0), x)), s.splat(1.0));
    s.div(x, sigmoid_inverse)
}

/// 1 / (1 + e⁻ˣ)
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    s.div(s.splat(1.0), s.add(exp(s, s.sub(s.splat(0.0), x)), s.splat(1.0)))
}

/// ln (1 + eˣ) within a few ulp.
///
/// It is the larger of x and 0, plus ln (1 + t) with t = e^−|x| ≤ 1. The latter is 2 artanh z with
/// z = t / (2 + t) ≤ 1/3, whose series has its first omitted term below 2·10⁻⁹.
#[inline(always)]
pub(crate) fn softplus<S: Simd>(s: S, x: S::F) -> S::F {
    const SERIES: [f32; 8] =
        [1.0 / 15.0, 1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0];
    let t = exp(s, s.sub(s.splat(0.0), s.abs(x)));
    let z = s.div(t, s.add(t, s.splat(2.0)));
    let squared = s.mul(z, z);
    let mut p = s.splat(SERIES[0]);
    for c in &SERIES[1..] {
        p = s.fma(p, squared, s.splat(*c));
    }
    s.fma(s.add(z, z), p, s.max(x, s.splat(0.0)))
}

/// tanh x within 3 ulp; saturates at ±1; NaN for NaN.
///
/// Uses 1 − 2 / (e²ˣ + 1), except near 0, where that suffers from cancellation: there, an odd polynomial
/// of degree 11 (Cephes' `tanhf`, S. Moshier).
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    const NEAR: f32 = 0.625;
    const POLY: [f32; 5] =
        [-5.704_988_7e-3, 2.063_908_8e-2, -5.373_971_5e-2, 0.133_314_42, -0.333_332_8];
    // Clamped to keep the unused branch finite; this operand order preserves NaN.
    let small = s.min(s.splat(1.0), s.max(s.splat(-1.0), x));
    let squared = s.mul(small, small);
    let mut p = s.splat(POLY[0]);
    for c in &POLY[1..] {
        p = s.fma(p, squared, s.splat(*c));
    }
    let near = s.fma(s.mul(p, squared), small, small);
    let e = s.add(exp(s, s.add(x, x)), s.splat(1.0));
    let far = s.sub(s.splat(1.0), s.div(s.splat(2.0), e));
    // Selects per lane: the unused branch is zeroed or subtracted from itself.
    let far = s.zero_below(far, s.abs(x), NEAR);
    s.add(s.sub(near, s.zero_below(near, s.abs(x), NEAR)), far)
}
