//! One forward pass, as every worker runs it.
//!
//! Reads like the paper: a layer is norm, QKV, RoPE and cache, attention, output, norm, gate and
//! up, down, or experts (`experts.rs`). A barrier stands between two steps, and nowhere else. What
//! differs from one architecture to the next is data of the config; a step reads it and knows no
//! names.

use std::sync::atomic::{self, AtomicBool};

use nanoinfer_format::{self as format, Config, GROUP, LANES, NanoFile, pad};
use nanoinfer_kernels::{
    Activate, Activation, Gemm, GemmF32, Kernels, NormKind, NormOf, NormPack, NormRow, Pack,
    Rotate, SoftCap, TOKENS, TileMut, pack, rope_table,
};

use crate::attend::{Run, gather};
use crate::cache::{Cache, SeqId, Slid};
use crate::inputs::{Input, OwnInputs, Packed};
use crate::pool::{Columns, Shared, Worker};
use crate::profile::PassStep;
use crate::scratch::{Local, Scratch, panels_per_item};
use crate::weights::{Ffn, Layer, Matrix, Norm, Panels, Weights};

/// One token of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub token: u32,
    pub position: usize,
    pub seq: SeqId,
    pub slid: Slid,
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
    /// Whether some token sees pinned positions from nearer than they are.
    pub slid: bool,
    /// Batch rows whose logits are wanted, ascending.
    pub wanted: &'a [usize],
    /// Rows of RoPE frequencies, one of each kind of RoPE.
    pub ropes: &'a [usize],
    pub workers: usize,
    pub cancel: &'a AtomicBool,
}

/// Where a matrix product goes.
pub(crate) enum Into<'a> {
    Store(&'a Shared<f32>),
    AddTo(&'a Shared<f32>),
    /// Scaled and capped.
    Logits(&'a Shared<f32>),
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
        self.norm(w, local, layer.attn_norm.as_ref());
        self.matmul(w, &layer.attn_qkv, self.inputs(&local.inputs, self.m()), Into::Store(&s.qkv));
        local.step(w, PassStep::Qkv);
        self.norm_all_heads(w, local, layer);
        self.cache_keys_and_values(w, local, index);
        local.step(w, PassStep::Cache);
        self.attention(w, local, index);
        local.step(w, PassStep::Attention);
        self.pack_attention(w, local, index);
        let (row, heads) = (&mut local.row, self.inputs(&local.inputs, self.m()));
        self.add(w, row, &layer.attn_output, heads, layer.attn_post_norm.as_ref());
        local.step(w, PassStep::AttnOutput);
        self.norm(w, local, layer.ffn_norm.as_ref());
        match &layer.ffn {
            Ffn::Dense { gate_up, down } => {
                self.gate_up(w, local, gate_up);
                local.step(w, PassStep::GateUp);
                let (row, hidden) = (&mut local.row, Input::Shared(&s.hidden));
                self.add(w, row, down, hidden, layer.ffn_post_norm.as_ref());
            }
            Ffn::Experts(experts) => self.experts(w, local, layer.ffn_norm.as_ref(), experts),
        }
    }

    pub(crate) fn m(&self) -> usize {
        self.slots.len()
    }

    /// Token ids to rows of the embedding, and positions to angles.
    fn embed(&self, w: &Worker<'_>, local: &mut Local) {
        let (m, s, c) = (self.m(), self.scratch, self.config);
        let half = c.rotary_dim as usize / 2;
        let x = s.x.split(w, m * LANES, LANES);
        let (cos, sin) = (s.cos.split(w, m * half, half), s.sin.split(w, m * half, half));
        let pinned = self.slid.then(|| {
            (s.pinned_cos.split(w, m * half, half), s.pinned_sin.split(w, m * half, half))
        });
        for item in w.items(m) {
            let slot = self.slots[item.index()];
            let row = &mut local.row[..c.d_model_padded()];
            self.embedding(slot.token as usize, row);
            row[c.d_model as usize..].fill(0.0); // rounding noise of the rotated padding
            let mut columns = x.take(&item);
            for (panel, lanes) in row.chunks_exact(LANES).enumerate() {
                let scaled = columns.row(panel).iter_mut().zip(lanes);
                scaled.for_each(|(x, lane)| *x = lane * c.embedding_scale as f32);
            }
            self.angles(slot.position, cos.take(&item), sin.take(&item));
            if let Some((cos, sin)) = &pinned {
                let position = slot.position - slot.slid.evicted;
                self.angles(position, cos.take(&item), sin.take(&item));
            }
        }
    }

    /// Angles of a position, of every kind of RoPE the layers have.
    fn angles(&self, position: usize, mut cos: Columns<'_, f32>, mut sin: Columns<'_, f32>) {
        for (kind, (rope, &row)) in self.config.ropes.iter().zip(self.ropes).enumerate() {
            let turns = self.weights.rope_turns(self.file, row);
            let (cos, sin) = (cos.row(kind), sin.row(kind));
            rope_table(position as u64, turns, rope.magnitude, cos, sin);
        }
    }

    fn embedding(&self, token: usize, row: &mut [f32]) {
        let (panel, r) = (token / LANES, token % LANES);
        for (_, weights) in self.weights.token_embd.runs(self.file, panel..panel + 1) {
            match weights {
                Panels::Q8(bytes) => {
                    pack::q8_row(bytes, r, row);
                    self.kernels.rotate(Rotate { x: row, block: GROUP }); // its own inverse
                }
                Panels::F32(values) => pack::f32_row(values, r, row),
            }
        }
    }

    /// Where `m` packed tokens lie: every worker packs one tile for itself, more are shared.
    pub(crate) fn inputs<'i>(&'i self, own: &'i OwnInputs, m: usize) -> Input<'i> {
        match m <= TOKENS {
            true => Input::Own(own),
            false => Input::Shared(&self.scratch.inputs),
        }
    }

    /// The residual stream, normalised if there is a norm, packed as the next product's input.
    fn norm(&self, w: &mut Worker<'_>, local: &mut Local, norm: Option<&Norm>) {
        let (m, k) = (self.m(), self.config.d_model_padded());
        let x = &self.scratch.x.read(w)[..m * k];
        if m <= TOKENS {
            self.norm_tile(x, norm, 0, m, local.inputs.tile(m, k, 0));
            local.profile.mark(PassStep::Norm);
            return;
        }
        let split = self.scratch.inputs.by_tile(w, m, k);
        for item in w.items(m.div_ceil(TOKENS)) {
            let at = item.index() * TOKENS;
            let n = TOKENS.min(m - at);
            self.norm_tile(x, norm, at, n, split.take(&item).tile(0, 0));
        }
        local.step(w, PassStep::Norm);
    }

    /// `n` tokens from token `at` on.
    pub(crate) fn norm_tile(
        &self,
        x: &[f32],
        norm: Option<&Norm>,
        at: usize,
        n: usize,
        to: TileMut<'_>,
    ) {
        let m = self.m();
        match norm {
            Some(norm) => {
                let norm = self.norm_of(norm);
                self.kernels.norm_pack(NormPack { x, m, at, n, norm, to });
            }
            None => self.kernels.pack(Pack { x, m, at, n, rotation: GROUP, to }),
        }
    }

    fn norm_of(&self, norm: &Norm) -> NormOf<'_> {
        let kind = match self.config.norm {
            format::Norm::Rms => NormKind::Rms,
            format::Norm::Layer => NormKind::Layer,
        };
        let (weight, bias) = (norm.weight(self.file), norm.bias(self.file));
        let (d, eps) = (self.config.d_model as usize, self.config.norm_eps as f32);
        NormOf { kind, weight, bias, d, eps }
    }

    /// A matrix product, added to the residual stream; normalised before if there is a norm.
    fn add(
        &self,
        w: &mut Worker<'_>,
        row: &mut [f32],
        matrix: &Matrix,
        from: Input<'_>,
        norm: Option<&Norm>,
    ) {
        let (m, s) = (self.m(), self.scratch);
        let Some(norm) = norm else { return self.matmul(w, matrix, from, Into::AddTo(&s.x)) };
        self.matmul(w, matrix, from, Into::Store(&s.delta));
        w.barrier();
        let (delta, x) = (s.delta.read(w), s.x.split(w, m * LANES, LANES));
        let row = &mut row[..self.config.d_model_padded()];
        let written = pad(self.config.d_model as usize, LANES);
        for item in w.items(m) {
            gather(delta, m, item.index(), 0, &mut row[..written]);
            row[written..].fill(0.0);
            self.kernels.norm_row(NormRow { x: row, norm: self.norm_of(norm) });
            let mut columns = x.take(&item);
            for (panel, lanes) in row.chunks_exact(LANES).enumerate() {
                columns.row(panel).iter_mut().zip(lanes).for_each(|(x, y)| *x += y);
            }
        }
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
    pub(crate) fn matmul(&self, w: &Worker<'_>, matrix: &Matrix, from: Input<'_>, into: Into<'_>) {
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
        let (out, add, logits) = match into {
            Into::Store(out) => (out, false, false),
            Into::AddTo(out) => (out, true, false),
            Into::Logits(out) => (out, false, true),
        };
        let chunk = panels_per_item(matrix.panels, self.workers, matrix.k);
        let split = out.split(w, matrix.panels * m * LANES, chunk * m * LANES);
        let from = from.packed(w, m, matrix.k);
        for item in w.items(matrix.panels.div_ceil(chunk)) {
            let first = item.index() * chunk;
            let range = first..(first + chunk).min(matrix.panels);
            let out = split.take(&item).run();
            self.product(matrix, range, &from, add, out);
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

    pub(crate) fn product(
        &self,
        matrix: &Matrix,
        panels: std::ops::Range<usize>,
        from: &Packed<'_>,
        add: bool,
        out: &mut [f32],
    ) {
        let (k, first, width) = (matrix.k, panels.start, out.len() / panels.len());
        for (run, weights) in matrix.runs(self.file, panels) {
            let out = &mut out[(run.start - first) * width..(run.end - first) * width];
            let bias = matrix.bias(self.file, run);
            match (weights, from) {
                (Panels::Q8(w), Packed::Q8(acts)) => {
                    self.kernels.gemm_q8(Gemm { w, k, acts: *acts, bias, add, out });
                }
                (Panels::F32(w), Packed::F32(acts)) => {
                    self.kernels.gemm_f32(GemmF32 { w, k, acts: *acts, bias, add, out });
                }
                _ => unreachable!("weights and inputs have the model's encoding"),
            }
        }
    }

    /// Gate and up projections and the activation, act(gate)·up or act(up), packed as down's
    /// input. An item is one group of 64 hidden values.
    fn gate_up(&self, w: &Worker<'_>, local: &mut Local, matrix: &Matrix) {
        let m = self.m();
        let panels = self.config.ffn_inputs() * GROUP / LANES; // of an item
        let groups = matrix.panels / panels;
        let split = self.scratch.hidden.by_group(w, m, groups * GROUP);
        let Local { gate_up, act, inputs, .. } = local;
        let (gate_up, act) = (&mut gate_up[..panels * LANES * m], &mut act[..GROUP * m]);
        let from = self.inputs(inputs, m).packed(w, m, matrix.k);
        for item in w.items(groups) {
            let first = item.index() * panels;
            self.product(matrix, first..first + panels, &from, false, gate_up);
            self.kernels.activate(Activate {
                activation: self.activation(),
                gated: self.config.gated,
                x: gate_up,
                m,
                out: act,
            });
            let mut columns = split.take(&item);
            for at in (0..m).step_by(TOKENS) {
                let (n, to) = (TOKENS.min(m - at), columns.tile(at / TOKENS, 0));
                self.kernels.pack(Pack { x: act, m, at, n, rotation: GROUP, to });
            }
        }
    }

    pub(crate) fn activation(&self) -> Activation {
        match self.config.activation {
            format::Activation::Silu => Activation::Silu,
            format::Activation::Gelu => Activation::Gelu,
        }
    }

    /// Final norm and output layer, for the wanted rows only.
    fn head(&self, w: &mut Worker<'_>, local: &mut Local) {
        let (s, m, k) = (self.scratch, self.wanted.len(), self.config.d_model_padded());
        let x = &s.x.read(w)[..self.m() * k];
        let norm = Some(&self.weights.output_norm);
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
        self.matmul_rows(w, &self.weights.output, inputs, Into::Logits(&s.logits), m);
    }
}
