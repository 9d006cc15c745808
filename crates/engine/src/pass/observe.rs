//! Steps that show the inputs of matrices to an observer, as calibration needs them.
//!
//! Worker 0 calls the observer while the inputs of a product are still packed: for a product that is added
//! to the residual stream, after the addition, which requires a barrier of its own.

use nanoinfer_format::Role;

use super::Pass;
use super::inputs::{Input, Needs};
use super::part::Observed;
use super::scratch::Local;
use crate::model::weights::{Dense, Ffn, Layer, Matrix};
use crate::pool::Worker;

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

    /// Observes the inputs of an output projection, in a phase of its own after they were added.
    pub(crate) fn observe_output(
        &self,
        w: &mut Worker<'_>,
        local: &Local,
        at: (&Matrix, Role, Option<usize>),
    ) {
        if self.part.observer.is_some() {
            self.observe(w, at, self.input(&local.inputs, self.m()), true);
            w.barrier();
        }
    }

    /// Observes the inputs of the down projection, in a phase of its own after they were added: the next layer
    /// may begin with a feed-forward network, too.
    pub(crate) fn observe_down(&self, w: &mut Worker<'_>, layer: &Layer, index: usize) {
        let dense = match &layer.ffn {
            None => None,
            Some(Ffn::Dense(dense)) => Some(dense),
            Some(Ffn::Experts(e)) => e.shared.as_deref(),
        };
        if let (Some(_), Some(Dense { down, .. })) = (self.part.observer, dense) {
            let input = Input::shared(self.m(), &self.scratch.hidden);
            self.observe(w, (down, Role::FfnDown, Some(index)), input, true);
            w.barrier();
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
