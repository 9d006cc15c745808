//! One forward pass, as every worker runs it.
//!
//! Reads like the paper: a layer is norm, QKV, RoPE and cache, attention, output, norm, gate and
//! up, down. A barrier stands between two steps, and nowhere else.

use std::sync::atomic::{self, AtomicBool};

use nanoinfer_format::{Config, GROUP, LANES, NanoFile};
use nanoinfer_kernels::{
    Gemm, GemmF32, Kernels, NormPack, Pack, Rotate, SiluMul, TOKENS, TileMut, pack, rope_table,
};

use crate::attend::Run;
use crate::cache::{Cache, SeqId};
use crate::inputs::{Input, OwnInputs, Packed};
use crate::pool::{Shared, Worker};
use crate::profile::PassStep;
use crate::scratch::{Local, Scratch, panels_per_item};
use crate::weights::{Layer, Matrix, Panels, Vector, Weights};

/// One token of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub token: u32,
    pub position: usize,
    pub seq: SeqId,
}

/// What a pass works on: all shared, all read-only but the phase-checked buffers.
pub(crate) struct Pass<'a> {
    pub file: &'a NanoFile,
    pub config: &'a Config,
    pub weights: &'a Weights,
    pub kernels: &'a Kernels,
    pub scratch: &'a Scratch,
    pub cache: &'a Cache,
    /// The batch, tokens of one sequence in ascending position.
    pub slots: &'a [Slot],
    /// Its sequences, if attention is divided by spans (see `attend.rs`).
    pub runs: &'a [Run],
    /// Batch rows whose logits are wanted, ascending.
    pub wanted: &'a [usize],
    pub workers: usize,
    pub cancel: &'a AtomicBool,
}

/// Where a matrix product goes.
enum Into<'a> {
    Store(&'a Shared<f32>),
    AddTo(&'a Shared<f32>),
}

impl Pass<'_> {
    /// The whole pass. Returns whether it was cancelled, the same on every worker.
    pub(crate) fn run(&self, w: &mut Worker<'_>, local: &mut Local) -> bool {
        local.profile.begin();
        self.embed(w, local);
        let mut before = PassStep::Embed;
        for (layer, index) in self.weights.layers.iter().zip(0..) {
            if w.barrier_agree(|| self.cancel.load(atomic::Ordering::Relaxed)) {
                return true;
            }
            local.profile.mark(before);
            self.layer(w, local, layer, index);
            before = PassStep::Down;
        }
        local.step(w, before);
        if !self.wanted.is_empty() {
            self.head(w, local);
            local.step(w, PassStep::Head);
        }
        false
    }

    fn layer(&self, w: &mut Worker<'_>, local: &mut Local, layer: &Layer, index: usize) {
        let s = self.scratch;
        self.norm(w, local, &layer.attn_norm);
        self.matmul(w, &layer.attn_qkv, self.inputs(&local.inputs, self.m()), Into::Store(&s.qkv));
        local.step(w, PassStep::Qkv);
        self.cache_keys_and_values(w, local, index);
        local.step(w, PassStep::Cache);
        self.attention(w, local, index);
        local.step(w, PassStep::Attention);
        self.pack_attention(w, local, index);
        self.matmul(w, &layer.attn_output, self.inputs(&local.inputs, self.m()), Into::AddTo(&s.x));
        local.step(w, PassStep::AttnOutput);
        self.norm(w, local, &layer.ffn_norm);
        self.gate_up(w, local, &layer.ffn_gate_up);
        local.step(w, PassStep::GateUp);
        self.matmul(w, &layer.ffn_down, Input::Shared(&s.hidden), Into::AddTo(&s.x));
    }

    pub(crate) fn m(&self) -> usize {
        self.slots.len()
    }

    /// Token ids to rows of the embedding, and positions to angles.
    fn embed(&self, w: &Worker<'_>, local: &mut Local) {
        let (m, s, half) = (self.m(), self.scratch, self.config.head_dim as usize / 2);
        let x = s.x.split(w, m * LANES, LANES);
        let (cos, sin) = (s.cos.split(w, m * half, half), s.sin.split(w, m * half, half));
        let turns = self.weights.rope_turns(self.file);
        for item in w.items(m) {
            let slot = self.slots[item.index()];
            let row = &mut local.row[..self.config.d_model_padded()];
            self.embedding(slot.token as usize, row);
            row[self.config.d_model as usize..].fill(0.0); // rounding noise of the rotated padding
            let mut columns = x.take(&item);
            for (panel, lanes) in row.chunks_exact(LANES).enumerate() {
                columns.row(panel).copy_from_slice(lanes);
            }
            rope_table(slot.position as u64, turns, cos.take(&item).run(), sin.take(&item).run());
        }
    }

    fn embedding(&self, token: usize, row: &mut [f32]) {
        let (panel, r) = (token / LANES, token % LANES);
        match self.weights.token_embd.run(self.file, panel..panel + 1) {
            Panels::Q8(bytes) => {
                pack::q8_row(bytes, r, row);
                self.kernels.rotate(Rotate { x: row, block: GROUP }); // its own inverse
            }
            Panels::F32(values) => pack::f32_row(values, r, row),
        }
    }

    /// Where `m` packed tokens lie: every worker packs one tile for itself, more are shared.
    fn inputs<'i>(&'i self, own: &'i OwnInputs, m: usize) -> Input<'i> {
        match m <= TOKENS {
            true => Input::Own(own),
            false => Input::Shared(&self.scratch.inputs),
        }
    }

    /// RMSNorm of the residual stream, packed as the next product's input.
    fn norm(&self, w: &mut Worker<'_>, local: &mut Local, weight: &Vector) {
        let (m, k) = (self.m(), self.config.d_model_padded());
        let x = &self.scratch.x.read(w)[..m * k];
        if m <= TOKENS {
            self.norm_tile(x, weight, 0, m, local.inputs.tile(m, k, 0));
            local.profile.mark(PassStep::Norm);
            return;
        }
        let split = self.scratch.inputs.by_tile(w, m, k);
        for item in w.items(m.div_ceil(TOKENS)) {
            let at = item.index() * TOKENS;
            let n = TOKENS.min(m - at);
            self.norm_tile(x, weight, at, n, split.take(&item).tile(0, 0));
        }
        local.step(w, PassStep::Norm);
    }

    /// RMSNorm of `n` tokens from token `at` on.
    fn norm_tile(&self, x: &[f32], weight: &Vector, at: usize, n: usize, to: TileMut<'_>) {
        let (d, eps) = (self.config.d_model as usize, self.config.norm_eps as f32);
        let weight = weight.values(self.file);
        self.kernels.norm_pack(NormPack { x, m: self.m(), at, n, weight, d, eps, to });
    }

    /// Attention outputs as the input of the output projection. Not rotated: the rotation is
    /// folded into V.
    fn pack_attention(&self, w: &mut Worker<'_>, local: &mut Local, layer: usize) {
        let (m, k) = (self.m(), self.config.attn_out_inputs());
        let Local { row, states, inputs, .. } = local;
        let row = &mut row[..k];
        row.fill(0.0);
        let mut pack = |w: &Worker<'_>, token: usize, to: TileMut<'_>| {
            self.attention_output(w, states, layer, token, row);
            self.kernels.pack(Pack { x: row, m: 1, at: 0, n: 1, rotation: 1, to });
        };
        if m <= TOKENS {
            (0..m).for_each(|token| pack(w, token, inputs.tile(m, k, token)));
            local.profile.mark(PassStep::PackAttention);
            return;
        }
        let split = self.scratch.inputs.by_tile(w, m, k);
        for item in w.items(m.div_ceil(TOKENS)) {
            let (at, mut columns) = (item.index() * TOKENS, split.take(&item));
            (0..TOKENS.min(m - at)).for_each(|r| pack(w, at + r, columns.tile(0, r)));
        }
        local.step(w, PassStep::PackAttention);
    }

    /// A matrix product of all tokens.
    fn matmul(&self, w: &Worker<'_>, matrix: &Matrix, from: Input<'_>, into: Into<'_>) {
        self.matmul_rows(w, matrix, from, into, self.m());
    }

    /// A matrix product of `m` tokens; an item is a run of panels.
    fn matmul_rows(
        &self,
        w: &Worker<'_>,
        matrix: &Matrix,
        from: Input<'_>,
        into: Into<'_>,
        m: usize,
    ) {
        let (out, add) = match into {
            Into::Store(out) => (out, false),
            Into::AddTo(out) => (out, true),
        };
        let chunk = panels_per_item(matrix.panels, self.workers, matrix.k);
        let split = out.split(w, matrix.panels * m * LANES, chunk * m * LANES);
        let from = from.packed(w, m, matrix.k);
        for item in w.items(matrix.panels.div_ceil(chunk)) {
            let first = item.index() * chunk;
            let range = first..(first + chunk).min(matrix.panels);
            self.product(matrix, range, &from, add, split.take(&item).run());
        }
    }

    fn product(
        &self,
        matrix: &Matrix,
        panels: std::ops::Range<usize>,
        from: &Packed<'_>,
        add: bool,
        out: &mut [f32],
    ) {
        let k = matrix.k;
        let bias = matrix.bias(self.file, panels.clone());
        match (matrix.run(self.file, panels), from) {
            (Panels::Q8(w), Packed::Q8(acts)) => {
                self.kernels.gemm_q8(Gemm { w, k, acts: *acts, bias, add, out });
            }
            (Panels::F32(w), Packed::F32(acts)) => {
                self.kernels.gemm_f32(GemmF32 { w, k, acts: *acts, bias, add, out });
            }
            _ => unreachable!("weights and inputs have the model's encoding"),
        }
    }

    /// Gate and up projections, SiLU(gate)·up, packed as down's input. An item is one group of 64
    /// hidden values.
    fn gate_up(&self, w: &Worker<'_>, local: &mut Local, matrix: &Matrix) {
        const PANELS: usize = GROUP / LANES;
        let m = self.m();
        let groups = matrix.panels / (2 * PANELS);
        let split = self.scratch.hidden.by_group(w, m, groups * GROUP);
        let Local { gate_up, act, inputs, .. } = local;
        let (gate_up, act) = (&mut gate_up[..2 * GROUP * m], &mut act[..GROUP * m]);
        let from = self.inputs(inputs, m).packed(w, m, matrix.k);
        for item in w.items(groups) {
            let first = item.index() * 2 * PANELS;
            self.product(matrix, first..first + 2 * PANELS, &from, false, gate_up);
            self.kernels.silu_mul(SiluMul { gate_up, m, out: act });
            let mut columns = split.take(&item);
            for at in (0..m).step_by(TOKENS) {
                let (n, to) = (TOKENS.min(m - at), columns.tile(at / TOKENS, 0));
                self.kernels.pack(Pack { x: act, m, at, n, rotation: GROUP, to });
            }
        }
    }

    /// Final norm and output layer, for the wanted rows only.
    fn head(&self, w: &mut Worker<'_>, local: &mut Local) {
        let (s, m, k) = (self.scratch, self.wanted.len(), self.config.d_model_padded());
        let x = &s.x.read(w)[..self.m() * k];
        let norm = &self.weights.output_norm;
        if m <= TOKENS {
            for (row, &at) in self.wanted.iter().enumerate() {
                self.norm_tile(x, norm, at, 1, local.inputs.tile(m, k, row));
            }
        } else {
            let split = s.inputs.by_tile(w, m, k);
            for item in w.items(m.div_ceil(TOKENS)) {
                let mut columns = split.take(&item);
                let rows = self.wanted.iter().skip(item.index() * TOKENS).take(TOKENS);
                for (row, &at) in rows.enumerate() {
                    self.norm_tile(x, norm, at, 1, columns.tile(0, row));
                }
            }
            w.barrier();
        }
        let inputs = self.inputs(&local.inputs, m);
        self.matmul_rows(w, &self.weights.output, inputs, Into::Store(&s.logits), m);
    }
}
