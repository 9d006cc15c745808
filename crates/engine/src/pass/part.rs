//! Which part of the model a pass runs, and who sees the inputs of its matrices.

use std::ops::Range;

use nanoinfer_format::Role;
use nanoinfer_kernels::{GROUP, LANES, QuantizedInputs, locate_token};

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
    pub(super) inputs: QuantizedInputs<'a>,
    /// `[d_model/16][m][16]`
    pub(super) residual: Option<&'a [f32]>,
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
