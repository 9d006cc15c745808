//! Elementwise functions: the feed-forward activation, with or without a gate (Shazeer, "GLU Variants
//! Improve Transformer", 2020), soft caps, and the exponentials of the output distribution.

use crate::isa::Simd;
use crate::layout::LANES;
use crate::math::{exp, silu, tanh};

/// Activation function of the feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// x / (1 + e⁻ˣ)
    Silu,
    /// x/2 · (1 + tanh u) with u = √(2/π) (x + 0.044715 x³), which is x / (1 + e⁻²ᵘ).
    Gelu,
    /// max(x, 0)² (So et al., "Primer", 2021).
    Relu2,
    /// That of gpt-oss (2025), only with a gate: g / (1 + e^(−1.702 g)) · (u + 1), with g = min(gate, 7) and
    /// u = up clamped to −7…7.
    Clamped,
    /// `positive`·x² + `beta`·x for x > 0, and `negative`·(e^min(x, `eps`) − 1 − x) + `beta`·x otherwise (Huang and
    /// Schlag, "Deriving Activation Functions Using Integration", 2024).
    Xielu {
        /// Factor of x².
        positive: f32,
        /// Factor of the exponential part.
        negative: f32,
        /// Slope at 0.
        beta: f32,
        /// Largest exponent.
        eps: f32,
    },
}

/// Arguments of `activate`, which computes act(gate)·up, or act(up) without a gate.
#[derive(Debug)]
pub struct Activate<'a> {
    /// The activation function.
    pub activation: Activation,
    /// Whether there is a gate.
    pub gated: bool,
    /// Alternating panels `[pairs][gate, up][m][16]`, or `[panels][m][16]` without a gate.
    pub x: &'a [f32],
    /// Number of tokens.
    pub m: usize,
    /// Output, `[pairs or panels][m][16]`.
    pub out: &'a mut [f32],
}

impl Activate<'_> {
    pub(crate) fn check(&self) {
        assert!(self.m > 0 && self.out.len().is_multiple_of(self.m * LANES));
        assert!(self.gated || self.activation != Activation::Clamped);
        let per_output = if self.gated { 2 } else { 1 };
        assert_eq!(self.x.len(), per_output * self.out.len());
    }
}

// No closures here: a closure does not inherit its caller's CPU features, and unless it is inlined, it
// costs a call per intrinsic (which halved the speed of prefill).
#[inline(always)]
pub(crate) fn activate<S: Simd>(s: S, a: Activate<'_>) {
    let panel = a.m * LANES;
    if !a.gated {
        for (x, out) in a.x.as_chunks::<LANES>().0.iter().zip(a.out.as_chunks_mut::<LANES>().0) {
            s.store(apply(s, a.activation, s.load(x)), out);
        }
        return;
    }
    for (pair, out) in a.x.chunks_exact(2 * panel).zip(a.out.chunks_exact_mut(panel)) {
        let (gate, up) = pair.split_at(panel);
        let lanes = gate.as_chunks::<LANES>().0.iter().zip(up.as_chunks::<LANES>().0);
        for ((g, u), o) in lanes.zip(out.as_chunks_mut::<LANES>().0) {
            let (g, u) = (s.load(g), s.load(u));
            let y = match a.activation {
                Activation::Clamped => clamped(s, g, u),
                activation => s.mul(apply(s, activation, g), u),
            };
            s.store(y, o);
        }
    }
}

#[inline(always)]
fn apply<S: Simd>(s: S, activation: Activation, x: S::F) -> S::F {
    match activation {
        Activation::Silu | Activation::Clamped => silu(s, x),
        Activation::Gelu => gelu(s, x),
        Activation::Relu2 => {
            let x = s.max(x, s.splat(0.0));
            s.mul(x, x)
        }
        Activation::Xielu { positive, negative, beta, eps } => {
            let power = s.sub(exp(s, s.min(x, s.splat(eps))), s.splat(1.0));
            let below = s.mul(s.sub(power, x), s.splat(negative));
            let above = s.mul(s.mul(x, x), s.splat(positive));
            let curve = s.select(s.less(s.splat(0.0), x), above, below);
            s.fma(x, s.splat(beta), curve)
        }
    }
}

#[inline(always)]
fn clamped<S: Simd>(s: S, gate: S::F, up: S::F) -> S::F {
    const ALPHA: f32 = 1.702;
    let (low, high) = (s.splat(-7.0), s.splat(7.0));
    // This operand order preserves NaN.
    let (g, u) = (s.min(high, gate), s.min(high, s.max(low, up)));
    let glu = s.div(g, s.add(exp(s, s.mul(g, s.splat(-ALPHA))), s.splat(1.0)));
    s.mul(glu, s.add(u, s.splat(1.0)))
}

#[inline(always)]
fn gelu<S: Simd>(s: S, x: S::F) -> S::F {
    const MINUS_2_ROOT: f32 = -1.595_769; // -2 √(2/π)
    let inner = s.fma(s.mul(s.mul(x, x), x), s.splat(0.044715), x);
    s.div(x, s.add(exp(s, s.mul(inner, s.splat(MINUS_2_ROOT))), s.splat(1.0)))
}

/// Arguments of `soft_cap`, which squashes values into −cap…cap (Gemma 2, 2024) in place.
#[derive(Debug)]
pub struct SoftCap<'a> {
    /// Values, a multiple of 16.
    pub x: &'a mut [f32],
    /// Factor applied before the cap.
    pub scale: f32,
    /// z becomes cap·tanh(z/cap); 0 disables the cap.
    pub cap: f32,
}

impl SoftCap<'_> {
    pub(crate) fn check(&self) {
        assert!(self.x.len().is_multiple_of(LANES) && self.cap >= 0.0);
    }
}

#[inline(always)]
pub(crate) fn soft_cap<S: Simd>(s: S, a: SoftCap<'_>) {
    for x in a.x.as_chunks_mut::<LANES>().0 {
        let scaled = s.mul(s.load(x), s.splat(a.scale));
        s.store(if a.cap > 0.0 { capped(s, scaled, a.cap) } else { scaled }, x);
    }
}

/// cap·tanh(x/cap)
#[inline(always)]
pub(crate) fn capped<S: Simd>(s: S, x: S::F, cap: f32) -> S::F {
    s.mul(tanh(s, s.div(x, s.splat(cap))), s.splat(cap))
}

/// Arguments of `exp_weights`, which computes unnormalized probabilities.
#[derive(Debug)]
pub struct ExpWeights<'a> {
    /// Logits.
    pub logits: &'a [f32],
    /// Maximum logit, subtracted from every logit.
    pub max: f32,
    /// 1 / temperature.
    pub scale: f32,
    /// e^((logit − max)·scale), one per logit.
    pub out: &'a mut [f32],
    /// Output: their sum. It adds up in sixteen lanes, one for each value of a panel, and then the lanes in order.
    pub total: &'a mut f64,
}

impl ExpWeights<'_> {
    pub(crate) fn check(&self) {
        assert_eq!(self.logits.len(), self.out.len());
    }
}

#[inline(always)]
pub(crate) fn exp_weights<S: Simd>(s: S, a: ExpWeights<'_>) {
    let (max, scale) = (s.splat(a.max), s.splat(a.scale));
    let (logits, last) = a.logits.as_chunks::<LANES>();
    let (out, last_out) = a.out.as_chunks_mut::<LANES>();
    let mut sums = [0.0f64; LANES];
    let mut add = |weights: &[f32]| {
        sums.iter_mut().zip(weights).for_each(|(sum, &w)| *sum += f64::from(w));
    };
    for (x, out) in logits.iter().zip(out) {
        s.store(exp(s, s.mul(s.sub(s.load(x), max), scale)), out);
        add(out);
    }
    if !last.is_empty() {
        let mut lanes = [0.0; LANES];
        lanes[..last.len()].copy_from_slice(last);
        let y = exp(s, s.mul(s.sub(s.load(&lanes), max), scale));
        s.store(y, &mut lanes);
        last_out.copy_from_slice(&lanes[..last.len()]);
        add(last_out);
    }
    *a.total = sums.iter().sum();
}
