//! SiLU(gate)·up, the gated activation of the Llama family (Shazeer, "GLU Variants Improve
//! Transformer", 2020).

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
