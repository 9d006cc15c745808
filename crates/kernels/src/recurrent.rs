//! The states of recurrent layers, one token after the other: the gated delta rule (Yang et al., "Gated
//! Delta Networks", 2024) and Mamba-2 (Dao and Gu, "Transformers are SSMs", 2024).
//!
//! A head's state maps keys to values. For each token it decays, a value is written under the token's key,
//! and the state is read with its query:
//!
//! ```text
//! S ← decay · S
//! S ← S + key ⊗ (beta · (value − Sᵀ key))       the delta rule: what the key had before is replaced
//! S ← S + key ⊗ (beta · value)                  Mamba-2: added
//! out = Sᵀ query                                and Mamba-2: + skip · value
//! ```
//!
//! Sixteen columns of a state are independent of all others and fit into the L1 cache. Sums over the key's
//! dimensions have four accumulators, for dimensions that are congruent modulo 4.

use crate::isa::Simd;
use crate::layout::LANES;
use crate::math::{exp, sigmoid, silu, softplus};

/// Dimensions of a key that are processed together.
const STRIDE: usize = 4;

/// Arguments of `recur`, which passes tokens through sixteen columns of a head's state.
#[derive(Debug)]
pub struct Recur<'a> {
    /// Width of a key, a multiple of 4.
    pub dim: usize,
    /// Whether the value under the key is replaced rather than added to.
    pub replaces: bool,
    /// `[n][dim]`
    pub keys: &'a [f32],
    /// `[n][dim]`, or empty if no output is needed.
    pub queries: &'a [f32],
    /// `[n][16]`
    pub values: &'a [f32],
    /// How much of each value is written, `[n]`.
    pub beta: &'a [f32],
    /// How much of the state remains, `[n]`.
    pub decay: &'a [f32],
    /// Factor of the values that are added to the output.
    pub skip: f32,
    /// `[dim][16]`
    pub state: &'a mut [f32],
    /// `[n][16]`, or empty.
    pub out: &'a mut [f32],
}

impl Recur<'_> {
    pub(crate) fn check(&self) {
        let n = self.beta.len();
        assert!(self.dim > 0 && self.dim.is_multiple_of(STRIDE));
        assert!(self.decay.len() == n && self.values.len() == n * LANES);
        assert!(self.keys.len() == n * self.dim && self.state.len() == self.dim * LANES);
        let silent = self.out.is_empty() && self.queries.is_empty();
        assert!(
            silent || self.out.len() == n * LANES && self.queries.len() == n * self.dim,
            "outputs need queries"
        );
    }
}

#[inline(always)]
pub(crate) fn recur<S: Simd>(s: S, a: Recur<'_>) {
    let state = a.state.as_chunks_mut::<LANES>().0.as_chunks_mut::<STRIDE>().0;
    let values = a.values.as_chunks::<LANES>().0;
    let out = a.out.as_chunks_mut::<LANES>().0;
    for (i, key) in a.keys.chunks_exact(a.dim).enumerate() {
        let key = key.as_chunks::<STRIDE>().0;
        let (value, beta) = (s.load(&values[i]), s.splat(a.beta[i]));
        let decay = s.splat(a.decay[i]);
        let mut known = [s.splat(0.0); STRIDE];
        for (rows, key) in state.iter_mut().zip(key) {
            for j in 0..STRIDE {
                let row = s.mul(s.load(&rows[j]), decay);
                s.store(row, &mut rows[j]);
                known[j] = s.fma(row, s.splat(key[j]), known[j]);
            }
        }
        let new = if a.replaces { s.sub(value, total(s, known)) } else { value };
        let new = s.mul(new, beta);
        if out.is_empty() {
            for (rows, key) in state.iter_mut().zip(key) {
                for j in 0..STRIDE {
                    let row = s.fma(s.splat(key[j]), new, s.load(&rows[j]));
                    s.store(row, &mut rows[j]);
                }
            }
            continue;
        }
        let query = a.queries[i * a.dim..].as_chunks::<STRIDE>().0;
        let mut sum = [s.splat(0.0); STRIDE];
        for ((rows, key), query) in state.iter_mut().zip(key).zip(query) {
            for j in 0..STRIDE {
                let row = s.fma(s.splat(key[j]), new, s.load(&rows[j]));
                s.store(row, &mut rows[j]);
                sum[j] = s.fma(row, s.splat(query[j]), sum[j]);
            }
        }
        s.store(s.fma(s.splat(a.skip), value, total(s, sum)), &mut out[i]);
    }
}

#[inline(always)]
fn total<S: Simd>(s: S, x: [S::F; STRIDE]) -> S::F {
    s.add(s.add(x[0], x[1]), s.add(x[2], x[3]))
}

/// What is computed from a projected value of each head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    /// 1 / (1 + e⁻ˣ)
    Sigmoid,
    /// ln (1 + e^(x + bias)): the step.
    Softplus,
    /// e^(a · step): what remains after the step.
    Decay,
}

/// Arguments of `state_steps`, which computes how much sixteen heads write, or how much remains.
#[derive(Debug)]
pub struct StateSteps<'a> {
    /// What to compute.
    pub steps: Steps,
    /// `[n][16]`
    pub x: &'a [f32],
    /// Sixteen biases, except for [`Steps::Sigmoid`].
    pub bias: &'a [f32],
    /// Sixteen factors, for [`Steps::Decay`].
    pub a: &'a [f32],
    /// `[n][16]`
    pub out: &'a mut [f32],
}

impl StateSteps<'_> {
    pub(crate) fn check(&self) {
        assert!(self.x.len() == self.out.len() && self.x.len().is_multiple_of(LANES));
        assert!(self.steps == Steps::Sigmoid || self.bias.len() >= LANES);
        assert!(self.steps != Steps::Decay || self.a.len() >= LANES);
    }
}

#[inline(always)]
pub(crate) fn state_steps<S: Simd>(s: S, args: StateSteps<'_>) {
    let bias = s.load(args.bias.first_chunk().unwrap_or(&[0.0; LANES]));
    let a = s.load(args.a.first_chunk().unwrap_or(&[0.0; LANES]));
    let outputs = args.out.as_chunks_mut::<LANES>().0;
    for (x, out) in args.x.as_chunks::<LANES>().0.iter().zip(outputs) {
        let y = match args.steps {
            Steps::Sigmoid => sigmoid(s, s.load(x)),
            Steps::Softplus => softplus(s, s.add(s.load(x), bias)),
            Steps::Decay => exp(s, s.mul(a, softplus(s, s.add(s.load(x), bias)))),
        };
        s.store(y, out);
    }
}

/// What values are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// The gate itself.
    Plain,
    /// x / (1 + e⁻ˣ)
    Silu,
    /// 1 / (1 + e⁻ˣ)
    Sigmoid,
}

/// Arguments of `apply_gate`, which multiplies values by gates.
#[derive(Debug)]
pub struct ApplyGate<'a> {
    /// The function of the gates.
    pub kind: Gate,
    /// The values, a multiple of 16.
    pub x: &'a mut [f32],
    /// As many gates.
    pub gates: &'a [f32],
}

impl ApplyGate<'_> {
    pub(crate) fn check(&self) {
        assert!(self.x.len() == self.gates.len() && self.x.len().is_multiple_of(LANES));
    }
}

#[inline(always)]
pub(crate) fn apply_gate<S: Simd>(s: S, a: ApplyGate<'_>) {
    let gates = a.gates.as_chunks::<LANES>().0;
    for (x, gate) in a.x.as_chunks_mut::<LANES>().0.iter_mut().zip(gates) {
        let gate = s.load(gate);
        let gate = match a.kind {
            Gate::Plain => gate,
            Gate::Silu => silu(s, gate),
            Gate::Sigmoid => sigmoid(s, gate),
        };
        s.store(s.mul(s.load(x), gate), x);
    }
}
