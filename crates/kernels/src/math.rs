//! Our own exponential: the same bits on every instruction set, which libm does not promise.

use crate::isa::Simd;

/// eˣ within 2 ulp for x in [-87, 88]; 0 below, e⁸⁸ above; e⁻∞ = 0.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, then a degree-6 polynomial of r (coefficients 1/k! adjusted
/// as in Cephes' `expf`, S. Moshier) and 2ⁿ added to the exponent.
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
