//! SiLU(gate)·up, the gated activation of the Llama family (Shazeer, "GLU Variants Improve
//! Transformer", 2020), and the exponentials of the output distribution.

use crate::isa::Simd;
use crate::math::exp;

/// Arguments of `silu_mul`.
pub struct SiluMul<'a> {
    /// Alternating panels `[pairs][gate, up][m][16]`.
    pub gate_up: &'a [f32],
    /// Tokens.
    pub m: usize,
    /// Result `[pairs][m][16]`.
    pub out: &'a mut [f32],
}

impl SiluMul<'_> {
    pub(crate) fn check(&self) {
        assert!(self.m > 0 && self.out.len().is_multiple_of(self.m * 16));
        assert_eq!(self.gate_up.len(), 2 * self.out.len());
    }
}

/// out = g / (1 + e⁻ᵍ) · u
#[inline(always)]
pub(crate) fn silu_mul<S: Simd>(s: S, a: SiluMul<'_>) {
    let panel = a.m * 16;
    for (pair, out) in a.gate_up.chunks_exact(2 * panel).zip(a.out.chunks_exact_mut(panel)) {
        let (gate, up) = pair.split_at(panel);
        let lanes = gate.as_chunks::<16>().0.iter().zip(up.as_chunks::<16>().0);
        for ((g, u), o) in lanes.zip(out.as_chunks_mut::<16>().0) {
            let g = s.load(g);
            let sigmoid_inverse = s.add(exp(s, s.sub(s.splat(0.0), g)), s.splat(1.0));
            s.store(s.mul(s.div(g, sigmoid_inverse), s.load(u)), o);
        }
    }
}

/// Arguments of `exp_weights`: unnormalised probabilities.
pub struct ExpWeights<'a> {
    /// Logits.
    pub logits: &'a [f32],
    /// Subtracted from every logit, their maximum.
    pub max: f32,
    /// 1 / temperature.
    pub scale: f32,
    /// e^((logit − max)·scale), as many values as logits.
    pub out: &'a mut [f32],
}

impl ExpWeights<'_> {
    pub(crate) fn check(&self) {
        assert_eq!(self.logits.len(), self.out.len());
    }
}

#[inline(always)]
pub(crate) fn exp_weights<S: Simd>(s: S, a: ExpWeights<'_>) {
    let (max, scale) = (s.splat(a.max), s.splat(a.scale));
    for (x, out) in a.logits.chunks(16).zip(a.out.chunks_mut(16)) {
        let mut lanes = [0.0; 16];
        lanes[..x.len()].copy_from_slice(x);
        let y = exp(s, s.mul(s.sub(s.load(&lanes), max), scale));
        s.store(y, &mut lanes);
        out.copy_from_slice(&lanes[..out.len()]);
    }
}
