//! One forward pass, as every worker runs it.
//!
//! Reads like the paper: a layer is norm, QKV, RoPE and cache, attention, output, norm, gate and
//! up, down. A barrier stands between two steps, and nowhere else.

use std::cmp::Ordering;
use std::sync::atomic::{self, AtomicBool};

use nanoinfer_format::{Config, GROUP, LANES, NanoFile, Quant};
use nanoinfer_kernels::{
    Acts, ActsF32, AttendBlock, BLOCK, FinishHead, Gemm, GemmF32, Kernels, MAX_TILE, MergeSpans,
    PackF32, PackQuery, Quantize, RmsNorm, Rope, Rotate, SPAN, SiluMul, StoreKv, pack, rope_table,
};

use crate::cache::{Cache, SeqId};
use crate::pool::{Columns, Item, Shared, Split, Worker};
use crate::profile::PassStep;
use crate::scratch::{ATTENTION_RUN, ActBuffers, Local, Scratch, panels_per_item};
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
        self.norm(w, local, &layer.attn_norm, &s.acts);
        local.step(w, PassStep::Norm);
        self.matmul(w, &layer.attn_qkv, &s.acts, Into::Store(&s.qkv));
        local.step(w, PassStep::Qkv);
        self.rope_and_cache(w, local, index);
        local.step(w, PassStep::Rope);
        self.attention(w, local, index);
        w.barrier();
        self.pack_attention(w, local);
        local.step(w, PassStep::Attention);
        self.matmul(w, &layer.attn_output, &s.acts, Into::AddTo(&s.x));
        local.step(w, PassStep::AttnOutput);
        self.norm(w, local, &layer.ffn_norm, &s.acts);
        local.step(w, PassStep::Norm);
        self.gate_up(w, local, &layer.ffn_gate_up);
        local.step(w, PassStep::GateUp);
        self.matmul(w, &layer.ffn_down, &s.hidden, Into::AddTo(&s.x));
    }

    fn m(&self) -> usize {
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

    /// RMSNorm of the residual stream, packed as the next product's input.
    fn norm(&self, w: &Worker<'_>, local: &mut Local, weight: &Vector, to: &ActBuffers) {
        let x = self.scratch.x.read(w);
        let d = self.config.d_model_padded();
        self.pack(w, to, self.m(), GROUP, &mut local.row[..d], |token, row| {
            self.rmsnorm(x, token, weight, row);
        });
    }

    fn rmsnorm(&self, x: &[f32], row: usize, weight: &Vector, out: &mut [f32]) {
        let (m, d) = (self.m(), self.config.d_model as usize);
        let x = &x[..m * out.len()];
        let eps = self.config.norm_eps as f32;
        let weight = weight.values(self.file);
        self.kernels.rmsnorm(RmsNorm { x, m, row, weight, d, eps, out });
    }

    /// Packs `m` tokens as a product's input: `fill` gives one token's row, which is then rotated
    /// and quantized (q8 models) or copied (f32). An item is one tile of tokens.
    fn pack<'p>(
        &'p self,
        w: &'p Worker<'_>,
        to: &'p ActBuffers,
        m: usize,
        rotation: usize,
        row: &mut [f32],
        mut fill: impl FnMut(usize, &mut [f32]),
    ) {
        let tile = self.kernels.tile();
        let packer = Packer::split(self, w, to, m, tile);
        for item in w.items(m.div_ceil(tile)) {
            let mut columns = packer.take(&item);
            let from = item.index() * tile;
            let tokens = tile.min(m - from);
            for r in 0..tokens {
                fill(from + r, row);
                for g in 0..row.len() / GROUP {
                    let group = row[g * GROUP..].first_chunk_mut().expect("whole groups");
                    let place = Place { group: g, from: 0, tile: tokens, row: r };
                    columns.put(place, group, rotation);
                }
            }
        }
    }

    /// A matrix product; an item is a run of panels for all tokens.
    fn matmul(&self, w: &Worker<'_>, matrix: &Matrix, from: &ActBuffers, into: Into<'_>) {
        self.matmul_rows(w, matrix, from, into, self.m());
    }

    fn matmul_rows(
        &self,
        w: &Worker<'_>,
        matrix: &Matrix,
        from: &ActBuffers,
        into: Into<'_>,
        m: usize,
    ) {
        let (out, add) = match into {
            Into::Store(out) => (out, false),
            Into::AddTo(out) => (out, true),
        };
        let chunk = panels_per_item(matrix.panels, self.workers, matrix.k);
        let split = out.split(w, matrix.panels * m * LANES, chunk * m * LANES);
        for item in w.items(matrix.panels.div_ceil(chunk)) {
            let first = item.index() * chunk;
            let range = first..(first + chunk).min(matrix.panels);
            self.product(w, matrix, range, from, m, add, split.take(&item).run());
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn product(
        &self,
        w: &Worker<'_>,
        matrix: &Matrix,
        panels: std::ops::Range<usize>,
        from: &ActBuffers,
        m: usize,
        add: bool,
        out: &mut [f32],
    ) {
        let k = matrix.k;
        let bias = matrix.bias(self.file, panels.clone());
        match matrix.run(self.file, panels) {
            Panels::Q8(weights) => {
                let acts = Acts {
                    q: &from.q.read(w)[..m * k],
                    scales: &from.scales.read(w)[..m * k / GROUP],
                    sums: &from.sums.read(w)[..m * k / GROUP],
                    m,
                };
                self.kernels.gemm_q8(Gemm { w: weights, k, acts, bias, add, out });
            }
            Panels::F32(weights) => {
                let acts = ActsF32 { x: &from.x.read(w)[..m * k], m };
                self.kernels.gemm_f32(GemmF32 { w: weights, k, acts, bias, add, out });
            }
        }
    }

    /// Rotates queries and keys by their positions; keys and values go into the cache. An item is
    /// one KV head with its query group.
    fn rope_and_cache(&self, w: &Worker<'_>, local: &mut Local, layer: usize) {
        let (c, m, s) = (self.config, self.m(), self.scratch);
        let (kv_heads, head, group) = (c.n_kv_heads as usize, c.head_padded(), c.group());
        let half = c.head_dim as usize / 2;
        let (qkv, cos, sin) = (s.qkv.read(w), s.cos.read(w), s.sin.read(w));
        let cache = self.cache.layers[layer].split(w, kv_heads, self.cache.n_blocks, head);
        let q_out = s.q.split(w, kv_heads * m * group * head, m * group * head);
        let (key, value) = local.row.split_at_mut(head);
        let value = &mut value[..head];
        for item in w.items(kv_heads) {
            let unit = &qkv[item.index() * (group + 2) * head * m..][..(group + 2) * head * m];
            let (q_out, mut cache) = (q_out.take(&item).run(), cache.take(&item));
            for (row, slot) in self.slots.iter().enumerate() {
                let angles = row * half..(row + 1) * half;
                let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
                for g in 0..group {
                    let x = &mut q_out[(row * group + g) * head..][..head];
                    gather(unit, m, row, g * head, x);
                    self.kernels.rope(Rope { x, half, cos, sin });
                }
                gather(unit, m, row, group * head, key);
                gather(unit, m, row, (group + 1) * head, value);
                self.kernels.rope(Rope { x: key, half, cos, sin });
                let to = cache.block(self.cache.block(slot.seq, slot.position / BLOCK), head);
                let (at, rotation) = (slot.position % BLOCK, self.key_rotation());
                self.kernels.store_kv(StoreKv { key, value, at, rotation, to });
            }
        }
    }

    /// Hadamard block of keys and queries in an 8-bit cache.
    fn key_rotation(&self) -> usize {
        Config::largest_value_rotation(self.config.head_dim) as usize
    }

    /// Attention of every token over its past. An item is one KV head and a run of tokens.
    fn attention(&self, w: &Worker<'_>, local: &mut Local, layer: usize) {
        let (c, m, s) = (self.config, self.m(), self.scratch);
        let (kv_heads, width) = (c.n_kv_heads as usize, c.group() * c.head_padded());
        let tokens = attention_run(m);
        let runs = m.div_ceil(tokens);
        let q = s.q.read(w);
        // Rounding the tokens up to whole runs gives every item a column of the same width.
        let out = s.attn.split(w, kv_heads * runs * tokens * width, tokens * width);
        for item in w.items(kv_heads * runs) {
            let (kv, run) = (item.index() / runs, item.index() % runs);
            let mut out = out.take(&item).run();
            let mut from = run * tokens;
            let rows = &self.slots[from..m.min(from + tokens)];
            for slots in rows.chunk_by(|a, b| a.seq == b.seq) {
                let q = &q[(kv * m + from) * width..][..slots.len() * width];
                let (now, later) = out.split_at_mut(q.len());
                let head = Head { layer, kv, seq: slots[0].seq };
                self.attend(w, local, head, slots, q, now);
                (from, out) = (from + slots.len(), later);
            }
        }
    }

    /// The query groups of a run of tokens of one sequence: spans of 512 positions, merged in
    /// order. A block of the cache is read once for all queries.
    fn attend(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        at: Head,
        slots: &[Slot],
        q: &[f32],
        out: &mut [f32],
    ) {
        let (head, tile) = (self.config.head_padded(), self.kernels.tile());
        let len = AttendBlock::state_len(head);
        let n = q.len() / head;
        self.pack_queries(local, q);
        let window = self.config.windows[at.layer] as usize;
        let range = |query: usize| {
            let end = slots[query / self.config.group()].position + 1;
            (if window == 0 { 0 } else { end.saturating_sub(window) }, end)
        };
        let (first, last) = (range(0).0, range(n - 1).1);
        for span in first / SPAN..last.div_ceil(SPAN) {
            let (states, spans) = (&mut local.states[..n * len], &mut local.spans[..n * len]);
            spans.chunks_exact_mut(len).for_each(AttendBlock::reset);
            for block in
                (span * SPAN).max(first) / BLOCK..((span + 1) * SPAN).min(last).div_ceil(BLOCK)
            {
                let start = block * BLOCK;
                let index = at.kv * self.cache.n_blocks + self.cache.block(at.seq, block);
                let kv = self.cache.layers[at.layer].block(w, index, head);
                for (i, states) in spans.chunks_mut(tile * len).enumerate() {
                    let from = i * tile;
                    let mut visible = [(0, 0); MAX_TILE];
                    let visible = &mut visible[..states.len() / len];
                    for (query, v) in (from..).zip(visible.iter_mut()) {
                        let clip = |x: usize| x.clamp(start, start + BLOCK) - start;
                        let (from, to) = range(query);
                        *v = (clip(from), clip(to));
                    }
                    let queries = local.queries.tile(from, visible.len(), head);
                    let scale = self.config.attention_scale as f32;
                    let args = AttendBlock { queries, block: kv, head, visible, scale, states };
                    self.kernels.attend(args);
                }
            }
            for (query, (state, next)) in
                states.chunks_exact_mut(len).zip(spans.chunks_exact(len)).enumerate()
            {
                match span.cmp(&(range(query).0 / SPAN)) {
                    Ordering::Less => {}
                    Ordering::Equal => state.copy_from_slice(next),
                    Ordering::Greater if span * SPAN < range(query).1 => {
                        self.kernels.merge_spans(MergeSpans { state, next });
                    }
                    Ordering::Greater => {}
                }
            }
        }
        for (state, out) in local.states.chunks_exact(len).zip(out.chunks_exact_mut(head)) {
            self.kernels.finish_head(FinishHead { state, out });
        }
    }

    /// Queries into tiles, rotated and quantized if the cache is.
    fn pack_queries(&self, local: &mut Local, q: &[f32]) {
        let (head, tile) = (self.config.head_padded(), self.kernels.tile());
        let n = q.len() / head;
        for (query, q) in q.chunks_exact(head).enumerate() {
            let from = query / tile * tile;
            let tokens = tile.min(n - from);
            let x = &mut local.row[..head];
            x.copy_from_slice(q);
            let to = local.queries.tile_mut(self.cache.kv, from, tokens, head);
            let (row, rotation) = (query - from, self.key_rotation());
            self.kernels.pack_query(PackQuery { x, row, n: tokens, rotation, to });
        }
    }

    /// Attention outputs as the input of the output projection. Not rotated: the rotation is
    /// folded into V.
    fn pack_attention(&self, w: &Worker<'_>, local: &mut Local) {
        let (c, m) = (self.config, self.m());
        let (width, k) = (c.group() * c.head_padded(), c.attn_out_inputs());
        let tokens = attention_run(m);
        let stride = m.div_ceil(tokens) * tokens * width;
        let attn = self.scratch.attn.read(w);
        local.row[..k].fill(0.0);
        self.pack(w, &self.scratch.acts, m, 1, &mut local.row[..k], |token, row| {
            for (kv, heads) in row.chunks_exact_mut(width).take(c.n_kv_heads as usize).enumerate() {
                heads.copy_from_slice(&attn[kv * stride + token * width..][..width]);
            }
        });
    }

    /// Gate and up projections, SiLU(gate)·up, packed as down's input. An item is one group of 64
    /// hidden values.
    fn gate_up(&self, w: &Worker<'_>, local: &mut Local, matrix: &Matrix) {
        const PANELS: usize = GROUP / LANES;
        let (m, tile) = (self.m(), self.kernels.tile());
        let groups = matrix.panels / (2 * PANELS);
        let s = self.scratch;
        let packer = Packer::split(self, w, &s.hidden, groups * m, m);
        for item in w.items(groups) {
            let first = item.index() * 2 * PANELS;
            let gate_up = &mut local.gate_up[..2 * GROUP * m];
            self.product(w, matrix, first..first + 2 * PANELS, &s.acts, m, false, gate_up);
            let act = &mut local.act[..GROUP * m];
            self.kernels.silu_mul(SiluMul { gate_up, m, out: act });
            let mut columns = packer.take(&item);
            for token in 0..m {
                let mut group = [0.0; GROUP];
                gather(act, m, token, 0, &mut group);
                let from = token / tile * tile;
                let place = Place { group: 0, from, tile: tile.min(m - from), row: token - from };
                columns.put(place, &mut group, GROUP);
            }
        }
    }

    /// Final norm and output layer, for the wanted rows only.
    fn head(&self, w: &mut Worker<'_>, local: &mut Local) {
        let (s, m) = (self.scratch, self.wanted.len());
        let d = self.config.d_model_padded();
        let x = s.x.read(w);
        self.pack(w, &s.final_acts, m, GROUP, &mut local.row[..d], |i, row| {
            self.rmsnorm(x, self.wanted[i], &self.weights.output_norm, row);
        });
        w.barrier();
        self.matmul_rows(w, &self.weights.output, &s.final_acts, Into::Store(&s.logits), m);
    }
}

/// A KV head of a layer, of one sequence.
#[derive(Clone, Copy)]
struct Head {
    layer: usize,
    kv: usize,
    seq: SeqId,
}

/// Tokens of one attention item.
fn attention_run(m: usize) -> usize {
    m.min(ATTENTION_RUN)
}

/// Copies `out.len()` values of token `row`, from value `at` on, out of panel-major activations.
fn gather(x: &[f32], m: usize, row: usize, at: usize, out: &mut [f32]) {
    for (panel, lanes) in out.chunks_exact_mut(LANES).enumerate() {
        lanes.copy_from_slice(&x[((at / LANES + panel) * m + row) * LANES..][..LANES]);
    }
}

/// Writes groups of 64 values into packed activations, in the encoding of the model.
///
/// Serves both divisions of the work: by tiles of tokens (an item has every group of some tokens)
/// and by groups (an item has one group of all tokens).
struct Packer<'p> {
    kernels: &'p Kernels,
    quantized: bool,
    q: Split<'p, i8>,
    scales: Split<'p, f32>,
    sums: Split<'p, i32>,
    x: Split<'p, f32>,
}

/// The part of packed activations that one item writes.
struct PackedColumns<'p> {
    kernels: &'p Kernels,
    quantized: bool,
    q: Columns<'p, i8>,
    scales: Columns<'p, f32>,
    sums: Columns<'p, i32>,
    x: Columns<'p, f32>,
}

/// Where a group goes within an item: group row, first token of its tile (counted within the
/// item), tokens of the tile, and the token's place in it.
struct Place {
    group: usize,
    from: usize,
    tile: usize,
    row: usize,
}

impl<'p> Packer<'p> {
    /// Rows of `stride` tokens, `width` of them per item.
    fn split(
        pass: &'p Pass<'_>,
        w: &'p Worker<'_>,
        to: &'p ActBuffers,
        stride: usize,
        width: usize,
    ) -> Self {
        Self {
            kernels: pass.kernels,
            quantized: pass.config.quant == Quant::Q8,
            q: to.q.split(w, stride * GROUP, width * GROUP),
            scales: to.scales.split(w, stride, width),
            sums: to.sums.split(w, stride, width),
            x: to.x.split(w, stride * GROUP, width * GROUP),
        }
    }

    fn take(&self, item: &Item<'p>) -> PackedColumns<'p> {
        PackedColumns {
            kernels: self.kernels,
            quantized: self.quantized,
            q: self.q.take(item),
            scales: self.scales.take(item),
            sums: self.sums.take(item),
            x: self.x.take(item),
        }
    }
}

impl PackedColumns<'_> {
    /// Rotates and quantizes one group of one token (or copies it, in an f32 model).
    fn put(&mut self, at: Place, x: &mut [f32; GROUP], rotation: usize) {
        let Place { group, from, tile, row } = at;
        let tokens = from..from + tile;
        let values = from * GROUP..(from + tile) * GROUP;
        if self.quantized {
            self.kernels.rotate(Rotate { x, block: rotation });
            self.kernels.quantize(Quantize {
                x,
                row,
                tile,
                q: &mut self.q.row(group)[values],
                scales: &mut self.scales.row(group)[tokens.clone()],
                sums: &mut self.sums.row(group)[tokens],
            });
        } else {
            PackF32 { x, row, tile, to: &mut self.x.row(group)[values] }.run();
        }
    }
}
