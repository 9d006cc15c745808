//! Recurrent layers within a pass: a short convolution, a state per head, a gate.
//!
//! ```text
//! project    queries, keys, values, gates and steps: a product                   item = a run of panels
//! convolve   each channel over its last positions                                item = 16 channels
//! states     decayed, written and read; not after a convolution alone            item = 16 columns of a head
//! pack       gate, and pack as input of the output projection                    item = a tile of tokens
//! ```
//!
//! Tokens pass one after the other, in f32 and in one order, whether they are a prompt, an answer or a
//! draft. The tokens of a sequence begin with the state that it holds. If that is older than the last token,
//! the tokens in between are replayed from the log (see `memory/recurrent.rs`).

use std::ops::Range;

use nanoinfer_format::{Recurrent, RecurrentKind, Role, pad};
use nanoinfer_kernels::{
    ApplyGate, GROUP, Gate, LANES, NormKind, NormParams, NormRow, Pack, Recur, ShortConv,
    StateSteps, Steps,
};

use super::inputs::{Needs, Rows};
use super::recurrent_scratch::RecurrentScratch;
use super::scratch::Local;
use super::{Pass, gather};
use crate::memory::{LOG, StateRun};
use crate::model::weights::{RecurrentMixer, Vector};
use crate::pool::{Columns, Worker};

impl Pass<'_> {
    /// Convolves the projected channels, and computes the steps of heads. An item is sixteen channels or
    /// heads.
    pub(crate) fn convolve(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        index: usize,
        mixer: &RecurrentMixer,
    ) {
        let r = &mixer.config;
        let (m, channels) = (self.m(), r.channels());
        let (panels, history) = (channels / LANES, (r.kernel as usize - 1) * LANES);
        let projected = self.scratch.projected.read(w);
        let states = self.cache.states.of(index);
        let items = r.mixed() / LANES;
        let mixed = self.scratch.mixed.split(w, items * m * LANES, m * LANES);
        let mixed_log = states.mixed.split(w, items * LANES, LANES);
        let tails = states.tail.split(w, panels * history, history);
        let log = states.inputs.split(w, channels, LANES);
        let RecurrentScratch { window, out, .. } = &mut local.recurrent;
        for item in w.items(items) {
            let panel = item.index();
            let (mixed, mut mixed_log) = (mixed.take(&item).run(), mixed_log.take(&item));
            if let Some(steps) = panel.checked_sub(panels) {
                self.steps(projected, mixer, steps, mixed);
                self.log_mixed(r, mixed, &mut mixed_log);
                continue;
            }
            let (mut tail, mut log) = (tails.take(&item), log.take(&item));
            for run in &self.states.all {
                let rows = self.states.rows(run);
                let (before, x) = window[..history + rows.len() * LANES].split_at_mut(history);
                recall(run, &tail, &log, before);
                for (x, &row) in x.as_chunks_mut::<LANES>().0.iter_mut().zip(rows) {
                    *x = self.conv_input(r, projected, panel, row as usize);
                }
                let x = &window[..history + rows.len() * LANES];
                let out = &mut out[..rows.len() * LANES];
                self.kernels.short_conv(ShortConv {
                    x,
                    weights: mixer.conv.weight.values(self.file),
                    stride: channels,
                    first: panel * LANES,
                    bias: mixer.conv.bias(self.file),
                    silu: r.kind != RecurrentKind::Convolution,
                    out,
                });
                for (&row, out) in rows.iter().zip(out.chunks_exact(LANES)) {
                    mixed[row as usize * LANES..][..LANES].copy_from_slice(out);
                }
                for store in self.states.stores(run) {
                    let last = &x[store.after * LANES..][..history];
                    tail.row(store.slot as usize).copy_from_slice(last);
                }
                if run.logs {
                    let new = x[history..].chunks_exact(LANES);
                    for (x, position) in new.zip(run.base + run.replay..) {
                        log.row(logged(run, position)).copy_from_slice(x);
                    }
                }
            }
            self.log_mixed(r, mixed, &mut mixed_log);
        }
    }

    /// Logs sixteen channels or steps of the tokens that may be rejected.
    fn log_mixed(&self, r: &Recurrent, mixed: &[f32], log: &mut Columns<'_, f32>) {
        for run in self.states.all.iter().filter(|run| run.logs && r.has_matrix()) {
            for (&row, position) in self.states.rows(run).iter().zip(run.base + run.replay..) {
                let lanes = &mixed[row as usize * LANES..][..LANES];
                log.row(logged(run, position)).copy_from_slice(lanes);
            }
        }
    }

    /// Computes how much sixteen heads write, or how much of their states remains. `panel` counts the panels
    /// of the former, then those of the latter.
    fn steps(&self, projected: &[f32], mixer: &RecurrentMixer, panel: usize, out: &mut [f32]) {
        let r = &mixer.config;
        let panels = pad(r.value_heads as usize, LANES) / LANES;
        let (decays, heads) = (panel >= panels, panel % panels);
        let (part, steps) = match (decays, r.kind) {
            (true, _) => (Role::SsmAlpha, Steps::Decay),
            (false, RecurrentKind::Mamba2) => (Role::SsmAlpha, Steps::Softplus),
            (false, _) => (Role::SsmBeta, Steps::Sigmoid),
        };
        let Some(at) = r.offset(part) else { return };
        let lanes = |vector: Option<Vector>| {
            vector.map_or(&[][..], |v| &v.values(self.file)[heads * LANES..][..LANES])
        };
        let x = &projected[(at / LANES + heads) * out.len()..][..out.len()];
        let (bias, a) = (lanes(mixer.dt_bias), lanes(mixer.a));
        self.kernels.state_steps(StateSteps { steps, x, bias, a, out: &mut *out });
        if part == Role::SsmBeta && r.write_scale != 1.0 {
            out.iter_mut().for_each(|x| *x *= r.write_scale as f32);
        }
    }

    /// Passes the tokens through the states of all heads. An item is sixteen columns of a head's state.
    pub(crate) fn step_states(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        index: usize,
        mixer: &RecurrentMixer,
    ) {
        let (m, r) = (self.m(), &mixer.config);
        let (dim, slices) = (r.key_dim as usize, r.value_dim as usize / LANES);
        let items = r.value_heads as usize * slices;
        let states = self.cache.states.of(index);
        let (mixed, log) = (self.scratch.mixed.read(w), states.mixed.read(w));
        let matrices = states.matrix.split(w, items * dim * LANES, dim * LANES);
        let heads = self.scratch.heads.split(w, items * m * LANES, m * LANES);
        let s = &mut local.recurrent;
        s.units[..dim].fill(1.0 / (dim as f32).sqrt());
        s.units[dim..].fill(1.0);
        let mut gathered = None;
        for item in w.items(items) {
            let slice = Slice::new(r, item.index());
            // A worker usually claims several slices of the same head in succession.
            if gathered.replace(slice.key_head) != Some(slice.key_head) {
                self.gather_keys(mixed, r, slice.key_head, s);
            }
            let skip = mixer.d.map_or(0.0, |d| d.values(self.file)[slice.head]);
            let (mut matrix, out) = (matrices.take(&item), heads.take(&item).run());
            for run in &self.states.all {
                match run.from {
                    Some(slot) => s.state.copy_from_slice(matrix.get(slot as usize)),
                    None => s.state.fill(0.0),
                }
                self.replay(r, slice, run, log, s);
                let mut done = 0;
                for store in self.states.stores(run) {
                    self.step_rows(r, slice, (run, done..store.after), (mixed, skip), s, out);
                    matrix.row(store.slot as usize).copy_from_slice(&s.state);
                    done = store.after;
                }
                self.step_rows(r, slice, (run, done..run.rows.len()), (mixed, skip), s, out);
            }
        }
    }

    /// Gathers the queries and keys of one head, normalized if the model does so, in the order of runs.
    fn gather_keys(&self, mixed: &[f32], r: &Recurrent, head: usize, s: &mut RecurrentScratch) {
        let (m, dim) = (self.m(), r.key_dim as usize);
        let [queries, keys, _] = r.qkv_offsets().map(|first| first + head * dim);
        let units = s.units.split_at(dim);
        for (first, weight, to) in
            [(queries, units.0, &mut s.queries), (keys, units.1, &mut s.keys)]
        {
            for (&row, to) in self.states.rows.iter().zip(to.chunks_exact_mut(dim)) {
                gather(mixed, m, row as usize, first, to);
                self.normalize_key(r, to, weight);
            }
        }
    }

    /// Divides a query or key by its length, if the model does so, and multiplies it by `weight`.
    fn normalize_key(&self, r: &Recurrent, x: &mut [f32], weight: &[f32]) {
        if r.kind == RecurrentKind::Delta {
            const EPS: f32 = 1e-6; // the same in all models
            let norm = NormParams { kind: NormKind::Rms, weight, bias: &[], d: 1, eps: EPS };
            self.kernels.norm_row(NormRow { x, norm });
        }
    }

    /// Applies logged tokens to the state of a slice.
    fn replay(
        &self,
        r: &Recurrent,
        slice: Slice,
        run: &StateRun,
        log: &[f32],
        s: &mut RecurrentScratch,
    ) {
        let dim = r.key_dim as usize;
        for position in run.base..run.base + run.replay {
            let row = &log[logged(run, position) * r.mixed()..][..r.mixed()];
            let key = &mut s.out[..dim];
            key.copy_from_slice(&row[slice.keys..][..dim]);
            self.normalize_key(r, key, &s.units[dim..]);
            self.kernels.recur(Recur {
                dim,
                replaces: r.kind == RecurrentKind::Delta,
                keys: key,
                queries: &[],
                values: &row[slice.values..][..LANES],
                beta: &row[slice.beta..][..1],
                decay: &row[slice.decay..][..1],
                skip: 0.0,
                state: &mut s.state,
                out: &mut [],
            });
        }
    }

    /// Passes tokens `range` of a run through the state of a slice.
    fn step_rows(
        &self,
        r: &Recurrent,
        slice: Slice,
        (run, range): (&StateRun, Range<usize>),
        (mixed, skip): (&[f32], f32),
        s: &mut RecurrentScratch,
        out: &mut [f32],
    ) {
        let (m, n, dim) = (self.m(), range.len(), r.key_dim as usize);
        if n == 0 {
            return;
        }
        let rows = &self.states.rows(run)[range.clone()];
        let value = |channel: usize, row: u16| {
            mixed[(channel / LANES * m + row as usize) * LANES + channel % LANES]
        };
        for (i, &row) in rows.iter().enumerate() {
            gather(mixed, m, row as usize, slice.values, &mut s.values[i * LANES..][..LANES]);
            (s.beta[i], s.decay[i]) = (value(slice.beta, row), value(slice.decay, row));
        }
        let first = (run.rows.start + range.start) * dim;
        let read = &mut s.out[..n * LANES];
        self.kernels.recur(Recur {
            dim,
            replaces: r.kind == RecurrentKind::Delta,
            keys: &s.keys[first..][..n * dim],
            queries: &s.queries[first..][..n * dim],
            values: &s.values[..n * LANES],
            beta: &s.beta[..n],
            decay: &s.decay[..n],
            skip,
            state: &mut s.state,
            out: read,
        });
        for (&row, read) in rows.iter().zip(read.chunks_exact(LANES)) {
            out[row as usize * LANES..][..LANES].copy_from_slice(read);
        }
    }

    /// What enters the convolution for one token: sixteen channels.
    fn conv_input(
        &self,
        r: &Recurrent,
        projected: &[f32],
        panel: usize,
        row: usize,
    ) -> [f32; LANES] {
        let m = self.m();
        let lanes = |at: usize| {
            let from = &projected[((at / LANES + panel) * m + row) * LANES..];
            *from.first_chunk::<LANES>().expect("a whole panel")
        };
        let mut x = lanes(0);
        if let Some(at) = r.offset(Role::SsmInGate) {
            x.iter_mut().zip(lanes(at)).for_each(|(x, gate)| *x *= gate);
        }
        x
    }

    /// Normalizes and gates the outputs of all heads of a token, in the order of the model.
    fn gate_heads(&self, mixer: &RecurrentMixer, x: &mut [f32], gates: &[f32]) {
        let r = &mixer.config;
        let gate = |kind, x: &mut [f32]| self.kernels.apply_gate(ApplyGate { kind, x, gates });
        match r.kind {
            RecurrentKind::Convolution => gate(Gate::Plain, x),
            RecurrentKind::Delta => {
                self.norm_heads_of(mixer, x);
                gate(Gate::Silu, x);
            }
            RecurrentKind::Mamba2 => {
                gate(Gate::Silu, x);
                self.norm_heads_of(mixer, x);
            }
        }
    }

    /// Normalizes each head, or in Mamba-2 the heads that share a key.
    fn norm_heads_of(&self, mixer: &RecurrentMixer, x: &mut [f32]) {
        let (r, Some(norm)) = (&mixer.config, mixer.norm) else { return };
        let weights = &norm.values(self.file)[..r.norm_weights()];
        let width = match r.kind {
            RecurrentKind::Mamba2 => r.inner() / r.key_heads as usize,
            _ => r.value_dim as usize,
        };
        for (x, weight) in x.chunks_exact_mut(width).zip(weights.chunks_exact(width).cycle()) {
            let (d, eps) = (width, r.norm_eps.unwrap_or(self.config.norm_eps) as f32);
            let norm = NormParams { kind: NormKind::Rms, weight, bias: &[], d, eps };
            self.kernels.norm_row(NormRow { x, norm });
        }
    }

    /// Gates the outputs and packs them as inputs of the output projection.
    pub(crate) fn pack_recurrent(&self, w: &Worker<'_>, local: &mut Local, mixer: &RecurrentMixer) {
        let (m, r) = (self.m(), &mixer.config);
        let rows = Rows { m, k: mixer.output.k, needs: Needs::of(&mixer.output) };
        let projected = self.scratch.projected.read(w);
        let values = if r.has_matrix() { &self.scratch.heads } else { &self.scratch.mixed };
        let values = values.read(w);
        let Some(first) = r.offset(Role::SsmGate) else { return };
        let Local { row: x, gates, inputs, .. } = local;
        let (x, gates) = (&mut x[..rows.k], &mut gates[..r.inner()]);
        x.fill(0.0);
        self.pack_rows(w, inputs, rows, |tokens, tile| {
            for (row, token) in tokens.enumerate() {
                gather(values, m, token, 0, &mut x[..r.inner()]);
                gather(projected, m, token, first, gates);
                self.gate_heads(mixer, &mut x[..r.inner()], gates);
                for to in tile.forms(row) {
                    self.kernels.pack(Pack { x, m: 1, at: 0, n: 1, rotation: GROUP, to });
                }
            }
        });
    }
}

/// Sixteen columns of a head's state, and where their inputs are among the mixed channels.
#[derive(Clone, Copy)]
struct Slice {
    head: usize,
    key_head: usize,
    keys: usize,
    values: usize,
    beta: usize,
    decay: usize,
}

impl Slice {
    fn new(r: &Recurrent, item: usize) -> Self {
        let slices = r.value_dim as usize / LANES;
        let (head, slice) = (item / slices, item % slices);
        let key_head = head / (r.value_heads / r.key_heads) as usize;
        let [_, keys, values] = r.qkv_offsets();
        let steps = pad(r.value_heads as usize, LANES);
        Self {
            head,
            key_head,
            keys: keys + key_head * r.key_dim as usize,
            values: values + head * r.value_dim as usize + slice * LANES,
            beta: r.channels() + head,
            decay: r.channels() + steps + head,
        }
    }
}

/// The log's row of a position.
fn logged(run: &StateRun, position: usize) -> usize {
    run.log * LOG + position % LOG
}

/// The inputs of a convolution before the tokens of a run, oldest first: those behind which its state was
/// stored, then those in the log.
fn recall(run: &StateRun, tail: &Columns<'_, f32>, log: &Columns<'_, f32>, to: &mut [f32]) {
    let n = to.len() / LANES;
    for (i, to) in to.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let at = run.replay + i;
        *to = match (at.checked_sub(n), run.from) {
            (Some(replayed), _) => {
                *log.get(logged(run, run.base + replayed)).first_chunk().expect("sixteen channels")
            }
            (None, Some(slot)) => {
                let tail = tail.get(slot as usize).as_chunks::<LANES>().0;
                tail[at]
            }
            (None, None) => [0.0; LANES],
        };
    }
}
