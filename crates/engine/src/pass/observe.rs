//! Hands the inputs of matrices to an observer, as calibration needs them.
//!
//! Worker 0 calls the observer while the inputs of a product are still packed: for a product that is added
//! to the residual stream, after the addition, which requires a barrier of its own.

use std::ops::Range;

use nanoinfer_format::Role;
use nanoinfer_kernels::{GROUP, LANES, QuantizedInputs, locate_token};

use super::Pass;
use super::inputs::{Input, Needs};
use super::scratch::Local;
use crate::model::weights::{Ffn, Layer, Matrix};
use crate::pool::Worker;

/// The inputs of one 8-bit matrix, for all tokens of a pass.
#[derive(Debug)]
pub struct Observed<'a> {
    /// The matrix; `AttnQkv` and `FfnGateUp` are matrices of several parts.
    pub role: Role,
    /// Its layer; `None` for the output matrix.
    pub layer: Option<u32>,
    /// Values per input.
    pub k: usize,
    /// Number of tokens.
    pub m: usize,
    inputs: QuantizedInputs<'a>,
    /// `[d_model/16][m][16]`
    residual: Option<&'a [f32]>,
}

impl Observed<'_> {
    /// Writes the input of a token: `k` values, rotated and rounded as the matrix receives them.
    ///
    /// # Panics
    /// If there is no such token, or `to` does not have `k` values.
    pub fn read(&self, token: usize, to: &mut [f32]) {
        assert!(token < self.m && to.len() == self.k);
        let (first, step) = locate_token(token, self.k / GROUP, self.m);
        for (g, to) in to.chunks_exact_mut(GROUP).enumerate() {
            let line = first + g * step;
            let scale = self.inputs.scales[line];
            for (to, q) in to.iter_mut().zip(&self.inputs.q[GROUP * line..]) {
                *to = scale * f32::from(*q);
            }
        }
    }

    /// The mean square of the values of a token in the residual stream after the product was added to it;
    /// `None` for products that are not.
    pub fn residual_mean_square(&self, token: usize) -> Option<f32> {
        let lanes = self.residual?.as_chunks::<LANES>().0;
        let values = lanes.iter().skip(token).step_by(self.m).flatten();
        let squares: f64 = values.map(|&x| f64::from(x) * f64::from(x)).sum();
        Some((squares / (lanes.len() / self.m * LANES) as f64) as f32)
    }
}

/// Sees the inputs of matrices.
pub(crate) type Observer<'a> = Option<&'a (dyn Fn(&Observed<'_>) + Sync)>;

/// The part of the model that a pass runs: all of it, except for calibration.
#[derive(Clone)]
pub(crate) struct Part<'a> {
    pub layers: Range<usize>,
    /// The residual stream before the first of them, `[d_model/16][m][16]`, if it is not the embeddings.
    pub resumed: Option<&'a [f32]>,
    pub observer: Observer<'a>,
}

impl Part<'_> {
    pub(crate) const ALL: Self = Self { layers: 0..usize::MAX, resumed: None, observer: None };
}

impl Pass<'_> {
    /// Observes the inputs of QKV, gate and up, or the output matrix, in the phase of their product.
    pub(crate) fn observe_inputs(
        &self,
        w: &Worker<'_>,
        local: &Local,
        (matrix, role, layer): (&Matrix, Role, Option<usize>),
    ) {
        if self.part.observer.is_some() {
            let m = if layer.is_some() { self.m() } else { self.requested.len() };
            self.observe(w, (matrix, role, layer), self.input(&local.inputs, m), false);
        }
    }

    /// Observes the inputs of the attention output, in a phase of its own after they were added.
    pub(crate) fn observe_output(
        &self,
        w: &mut Worker<'_>,
        local: &Local,
        layer: &Layer,
        index: usize,
    ) {
        if self.part.observer.is_some() {
            let at = (&layer.attn_output, Role::AttnOutput, Some(index));
            self.observe(w, at, self.input(&local.inputs, self.m()), true);
            w.barrier();
        }
    }

    /// Observes the inputs of the down projection, in the phase after they were added.
    pub(crate) fn observe_down(&self, w: &Worker<'_>, layer: &Layer, index: usize) {
        if let (Some(_), Ffn::Dense { down, .. }) = (self.part.observer, &layer.ffn) {
            let input = Input::shared(self.m(), &self.scratch.hidden);
            self.observe(w, (down, Role::FfnDown, Some(index)), input, true);
        }
    }

    fn observe(
        &self,
        w: &Worker<'_>,
        (matrix, role, layer): (&Matrix, Role, Option<usize>),
        input: Input<'_>,
        added: bool,
    ) {
        let Some(observer) = self.part.observer.filter(|_| w.index() == 0 && matrix.needs_int8())
        else {
            return;
        };
        let (k, m) = (matrix.k, input.m);
        let needs = Needs { int8: true, f32: false };
        let inputs = input.packed(w, k, needs).int8;
        let residual = added.then(|| &self.scratch.x.read(w)[..m * self.width()]);
        let layer = layer.map(|layer| layer as u32);
        let observed = Observed { role, layer, k, m, inputs, residual };
        observer(&observed);
    }
}
