//! The depthwise short convolution of recurrent layers.

use crate::isa::Simd;
use crate::layout::LANES;
use crate::math::silu;

/// Arguments of `short_conv`, which computes a causal convolution of sixteen channels, each with its own
/// weights: `out[i] = Σ_j weights[j]·x[i + j]`, added in the order of positions.
#[derive(Debug)]
pub struct ShortConv<'a> {
    /// The positions before the first output and those of the outputs, `[kernel - 1 + n][16]`.
    pub x: &'a [f32],
    /// Weights of all channels of the layer, `[kernel][stride]`, the oldest position first.
    pub weights: &'a [f32],
    /// Number of channels of the layer.
    pub stride: usize,
    /// The first of the sixteen channels.
    pub first: usize,
    /// Biases of all channels; empty if there are none.
    pub bias: &'a [f32],
    /// Whether x / (1 + e⁻ˣ) is applied to the result.
    pub silu: bool,
    /// `[n][16]`
    pub out: &'a mut [f32],
}

impl ShortConv<'_> {
    fn kernel(&self) -> usize {
        self.weights.len() / self.stride
    }

    pub(crate) fn check(&self) {
        assert!(self.stride.is_multiple_of(LANES) && self.first + LANES <= self.stride);
        assert!(self.first.is_multiple_of(LANES) && self.weights.len().is_multiple_of(self.stride));
        assert!(self.bias.is_empty() || self.bias.len() >= self.stride);
        assert!(self.kernel() > 0 && self.out.len().is_multiple_of(LANES));
        assert_eq!(self.x.len(), self.out.len() + (self.kernel() - 1) * LANES);
    }
}

#[inline(always)]
pub(crate) fn short_conv<S: Simd>(s: S, a: ShortConv<'_>) {
    let (x, kernel) = (a.x.as_chunks::<LANES>().0, a.kernel());
    let weights = a.weights[a.first..].as_chunks::<LANES>().0;
    let step = a.stride / LANES;
    let bias = a.bias.get(a.first..).and_then(|b| b.first_chunk());
    let bias = s.load(bias.unwrap_or(&[0.0; LANES]));
    for (i, out) in a.out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut sum = bias;
        for (j, x) in x[i..i + kernel].iter().enumerate() {
            sum = s.fma(s.load(x), s.load(&weights[j * step]), sum);
        }
        s.store(if a.silu { silu(s, sum) } else { sum }, out);
    }
}
