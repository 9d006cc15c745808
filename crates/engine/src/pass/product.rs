//! The steps that multiply matrices by packed inputs.

use std::ops::Range;

use nanoinfer_kernels::{
    Activate, GROUP, Gemm, GemmF32, GemmTrellis, LANES, Pack, SoftCap, TOKENS,
};

use super::Pass;
use super::inputs::{Input, Needs, Packed, Rows};
use super::limits::panels_per_item;
use super::scratch::Local;
use crate::model::weights::{Matrix, Norm, Panels};
use crate::pool::{Shared, Worker};

/// Destination of a matrix product.
pub(crate) enum Dest<'a> {
    Store(&'a Shared<f32>),
    AddTo(&'a Shared<f32>),
    /// Scaled and capped.
    Logits(&'a Shared<f32>),
}

impl Pass<'_> {
    /// The residual stream, or `delta` if the product is normalized first.
    pub(crate) fn residual(&self, norm: Option<&Norm>) -> Dest<'_> {
        let s = self.scratch;
        norm.map_or(Dest::AddTo(&s.x), |_| Dest::Store(&s.delta))
    }

    /// Computes a matrix product. An item is a run of panels. `decoded` is [`Local::decoded`].
    pub(crate) fn matmul(
        &self,
        w: &Worker<'_>,
        matrix: &Matrix,
        from: Input<'_>,
        to: Dest<'_>,
        decoded: &mut [u8],
    ) {
        let (out, add, logits) = match to {
            Dest::Store(out) => (out, false, false),
            Dest::AddTo(out) => (out, true, false),
            Dest::Logits(out) => (out, false, true),
        };
        let m = from.m;
        let chunk = panels_per_item(matrix.panels, self.workers, matrix.k);
        let split = out.split(w, matrix.panels * m * LANES, chunk * m * LANES);
        let from = from.packed(w, matrix.k, Needs::of(matrix));
        for item in w.items(matrix.panels.div_ceil(chunk)) {
            let first = item.index() * chunk;
            let range = first..(first + chunk).min(matrix.panels);
            let out = split.take(&item).run();
            self.product(matrix, range, &from, add, out, decoded);
            if logits {
                self.cap_logits(out);
            }
        }
    }

    fn cap_logits(&self, x: &mut [f32]) {
        let (scale, cap) = (self.config.logit_scale as f32, self.config.logit_softcap as f32);
        if scale != 1.0 || cap != 0.0 {
            self.kernels.soft_cap(SoftCap { x, scale, cap });
        }
    }

    /// Multiplies panels of a matrix by packed inputs, in the form that each run requires, and stores the
    /// result in `out` or adds it: `[panels][m][16]`. `decoded` is [`Local::decoded`].
    pub(crate) fn product(
        &self,
        matrix: &Matrix,
        panels: Range<usize>,
        from: &Packed<'_>,
        add: bool,
        out: &mut [f32],
        decoded: &mut [u8],
    ) {
        let k = matrix.k;
        let first = panels.start;
        let m = from.f32.m;
        for (range, panels) in matrix.runs(self.file, panels) {
            let bias = matrix.bias(self.file, range.clone());
            let out = &mut out[(range.start - first) * m * LANES..][..range.len() * m * LANES];
            match panels {
                Panels::Q8(w) => {
                    self.kernels.gemm_q8(Gemm { w, k, inputs: from.int8, bias, add, out });
                }
                Panels::Trellis(bits, w) => {
                    let inputs = from.int8;
                    let decoded = &mut *decoded;
                    self.kernels.gemm_trellis(GemmTrellis {
                        bits,
                        w,
                        k,
                        inputs,
                        bias,
                        add,
                        out,
                        decoded,
                    });
                }
                Panels::F32(w) => {
                    self.kernels.gemm_f32(GemmF32 { w, k, inputs: from.f32, bias, add, out });
                }
            }
        }
    }

    /// Computes the gate and up projections and the activation, act(gate)·up or act(up), and packs the
    /// result as input of `down`. An item is a group of 64 hidden values.
    pub(crate) fn gate_up(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        (matrix, layer): (&Matrix, usize),
        needs: Needs,
    ) {
        let m = self.m();
        let panels = self.config.ffn_inputs() * GROUP / LANES; // per item
        let groups = matrix.panels / panels;
        let split = self.scratch.hidden.by_group(w, Rows { m, k: groups * GROUP, needs });
        let Local { gate_up, act, inputs, decoded, .. } = local;
        let (gate_up, act) = (&mut gate_up[..panels * LANES * m], &mut act[..GROUP * m]);
        let from = self.input(inputs, m).packed(w, matrix.k, Needs::of(matrix));
        for item in w.items(groups) {
            let first = item.index() * panels;
            self.product(matrix, first..first + panels, &from, false, gate_up, decoded);
            self.kernels.activate(Activate {
                activation: self.activation(layer),
                gated: self.config.gated,
                x: gate_up,
                m,
                out: act,
            });
            let mut columns = split.take(&item);
            for at in (0..m).step_by(TOKENS) {
                let n = TOKENS.min(m - at);
                for to in columns.tile(at / TOKENS).forms(0) {
                    self.kernels.pack(Pack { x: act, m, at, n, rotation: GROUP, to });
                }
            }
        }
    }
}
