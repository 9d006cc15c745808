//! RMSNorm (Zhang and Sennrich, 2019): x / √(mean x² + ε) · w.

use crate::isa::Simd;

/// Arguments of `rmsnorm`: one token of a panel-major activation.
pub struct RmsNorm<'a> {
    /// Activations `[d/16][m][16]`, zero beyond the model's width.
    pub x: &'a [f32],
    /// Tokens in `x`.
    pub m: usize,
    /// Which token.
    pub row: usize,
    /// Weights, `d` padded with zeros to `out.len()`.
    pub weight: &'a [f32],
    /// Width of the model, the divisor of the mean.
    pub d: usize,
    /// ε
    pub eps: f32,
    /// The normalised token, contiguous, `x.len() / m` values.
    pub out: &'a mut [f32],
}

impl RmsNorm<'_> {
    pub(crate) fn check(&self) {
        assert!(self.row < self.m && self.x.len().is_multiple_of(16 * self.m));
        assert!(self.out.len() * self.m == self.x.len() && self.weight.len() == self.out.len());
    }
}

#[inline(always)]
pub(crate) fn rmsnorm<S: Simd>(s: S, a: RmsNorm<'_>) {
    let lanes = || a.x.as_chunks::<16>().0.iter().skip(a.row).step_by(a.m);
    let mut squares = s.splat(0.0);
    for x in lanes() {
        let x = s.load(x);
        squares = s.fma(x, x, squares);
    }
    let inverse = 1.0 / (s.sum(squares) / a.d as f32 + a.eps).sqrt();
    let inverse = s.splat(inverse);
    let (weight, out) = (a.weight.as_chunks::<16>().0, a.out.as_chunks_mut::<16>().0);
    for ((x, w), o) in lanes().zip(weight).zip(out) {
        s.store(s.mul(s.mul(s.load(x), inverse), s.load(w)), o);
    }
}
