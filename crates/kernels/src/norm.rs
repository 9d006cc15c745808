//! Norms: RMSNorm (Zhang and Sennrich, 2019), x / √(mean x² + ε) · w, and LayerNorm (Ba et al.,
//! 2016), (x − mean x) / √(variance x + ε) · w + b.

use crate::inputs::{TileMut, group_lanes};
use crate::isa::Simd;
use crate::layout::{GROUP, GROUP_LANES, LANES, Lanes, TOKENS};

/// Kind of norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Divides by the root mean square; no bias.
    Rms,
    /// Subtracts the mean and divides by the standard deviation.
    Layer,
}

/// Parameters of a norm.
#[derive(Clone, Copy, Debug)]
pub struct NormParams<'a> {
    /// Kind of norm.
    pub kind: NormKind,
    /// Weights, zero for padding.
    pub weight: &'a [f32],
    /// One bias per weight, or empty; LayerNorm only.
    pub bias: &'a [f32],
    /// Number of values without padding: the divisor of the means.
    pub d: usize,
    /// ε
    pub eps: f32,
}

impl NormParams<'_> {
    fn check(&self) {
        let n = self.weight.len();
        assert!(self.d > 0 && self.d <= n);
        assert!(self.bias.is_empty() || self.bias.len() == n && self.kind == NormKind::Layer);
    }
}

/// Arguments of `norm_pack`, which normalizes tokens of panel-major activations and packs them into rows of
/// a tile.
#[derive(Debug)]
pub struct NormPack<'a> {
    /// `[d/16][m][16]`, `d` padded to 64, zero beyond the model's width.
    pub x: &'a [f32],
    /// Number of tokens in `x`.
    pub m: usize,
    /// First token to pack.
    pub at: usize,
    /// Number of tokens to pack.
    pub n: usize,
    /// The norm.
    pub norm: NormParams<'a>,
    /// Destination rows.
    pub to: TileMut<'a>,
}

impl NormPack<'_> {
    pub(crate) fn check(&self) {
        let width = self.norm.weight.len();
        self.norm.check();
        assert!(self.m > 0 && self.x.len() == width * self.m);
        assert!(width.is_multiple_of(GROUP));
        assert!(self.at + self.n <= self.m && self.n <= TOKENS);
        self.to.check(width / GROUP, self.n);
    }
}

/// Processes all tokens of the tile at once, so that memory is read sequentially.
#[inline(always)]
pub(crate) fn norm_pack<S: Simd>(s: S, mut a: NormPack<'_>) {
    let NormParams { kind, weight, bias, .. } = a.norm;
    let (means, inverses) = statistics(s, a.x, a.m, a.at, a.n, &a.norm);
    for (group, weight) in weight.as_chunks::<GROUP>().0.iter().enumerate() {
        let weight = weight.as_chunks::<LANES>().0;
        for row in 0..a.n {
            let mut x = group_lanes(s, a.x, a.m, group, a.at + row);
            let inverse = s.splat(inverses[row]);
            for i in 0..GROUP_LANES {
                if kind == NormKind::Layer {
                    x[i] = s.sub(x[i], s.splat(means[row]));
                }
                x[i] = s.mul(s.mul(x[i], inverse), s.load(&weight[i]));
                if !bias.is_empty() {
                    x[i] =
                        s.add(x[i], s.load(&bias.as_chunks::<LANES>().0[GROUP_LANES * group + i]));
                }
            }
            a.to.write_group(s, group, row, x, GROUP);
        }
    }
}

/// Means (LayerNorm only) and 1 / √(mean square + ε) of `n` of the `m` tokens, starting at `at`.
#[inline(always)]
fn statistics<S: Simd>(
    s: S,
    x: &[f32],
    m: usize,
    at: usize,
    n: usize,
    norm: &NormParams<'_>,
) -> ([f32; TOKENS], [f32; TOKENS]) {
    let (mut means, mut inverses) = ([0.0; TOKENS], [0.0; TOKENS]);
    let mut sums = [s.splat(0.0); TOKENS];
    let panels = || x.as_chunks::<LANES>().0.chunks_exact(m).map(|panel| &panel[at..][..n]);
    if norm.kind == NormKind::Layer {
        for panel in panels() {
            for (x, sum) in panel.iter().zip(&mut sums) {
                *sum = s.add(*sum, s.load(x));
            }
        }
        for (mean, sum) in means.iter_mut().zip(&mut sums).take(n) {
            *mean = s.sum(*sum) / norm.d as f32;
            *sum = s.splat(0.0);
        }
        for (i, panel) in panels().enumerate() {
            let real = s.load(&real_lanes(norm.d, i));
            for ((x, sum), mean) in panel.iter().zip(&mut sums).zip(means) {
                let x = s.mul(s.sub(s.load(x), s.splat(mean)), real);
                *sum = s.fma(x, x, *sum);
            }
        }
    } else {
        for panel in panels() {
            for (x, sum) in panel.iter().zip(&mut sums) {
                let x = s.load(x);
                *sum = s.fma(x, x, *sum);
            }
        }
    }
    for (inverse, squares) in inverses.iter_mut().zip(sums).take(n) {
        *inverse = 1.0 / (s.sum(squares) / norm.d as f32 + norm.eps).sqrt();
    }
    (means, inverses)
}

/// 1 in the lanes of panel `i` that hold values, 0 in padding lanes.
#[inline(always)]
fn real_lanes(d: usize, i: usize) -> Lanes {
    std::array::from_fn(|lane| if LANES * i + lane < d { 1.0 } else { 0.0 })
}

/// Arguments of `norm_row`, which normalizes one vector in place.
#[derive(Debug)]
pub struct NormRow<'a> {
    /// One value per weight; padding is zero.
    pub x: &'a mut [f32],
    /// The norm.
    pub norm: NormParams<'a>,
}

impl NormRow<'_> {
    pub(crate) fn check(&self) {
        self.norm.check();
        assert!(self.x.len() == self.norm.weight.len() && self.x.len().is_multiple_of(LANES));
    }
}

#[inline(always)]
pub(crate) fn norm_row<S: Simd>(s: S, a: NormRow<'_>) {
    let NormParams { weight, bias, .. } = a.norm;
    let (means, inverses) = statistics(s, a.x, 1, 0, 1, &a.norm);
    let (mean, inverse) = (s.splat(means[0]), s.splat(inverses[0]));
    let lanes = a.x.as_chunks_mut::<LANES>().0.iter_mut().zip(weight.as_chunks::<LANES>().0);
    for (i, (x, weight)) in lanes.enumerate() {
        let mut y = s.mul(s.mul(s.sub(s.load(x), mean), inverse), s.load(weight));
        if !bias.is_empty() {
            y = s.add(y, s.load(&bias.as_chunks::<LANES>().0[i]));
        }
        s.store(y, x);
    }
}
