//! Attention within a pass: store keys and values, then attend to the cache.
//!
//! ```text
//! prefill:   item = KV head × 8 tokens, all spans of 512 positions, merged on the fly
//! decode:    item = KV head × sequence × span, merged while packing the output projection's input
//! ```
//!
//! When decoding one sequence with one span, an item is a KV head, as when storing keys and values, so
//! both happen in the same phase.
//!
//! All variants visit blocks and merge spans in order, so their results are bit-identical.

use nanoinfer_format::{Config, QkNorm};
use nanoinfer_kernels::{
    AttendBlock, BLOCK, FinishHead, KvBlock, MAX_TILE, MergeSpans, Pack, PackQuery, Rope, SPAN,
    StoreKv,
};

use super::batch::{Slot, Visible};
use super::inputs::{Needs, Rows};
use super::limits::ATTENTION_RUN;
use super::profile::Stage;
use super::scratch::Local;
use super::{Pass, gather};
use crate::memory::{HeadMut, LayerSplit};
use crate::model::weights::Norm;
use crate::pool::Worker;

/// Consecutive tokens of one sequence, for one KV head of a layer.
#[derive(Clone, Copy)]
struct Part<'s> {
    layer: usize,
    kv: usize,
    /// Batch row of the first token.
    from: usize,
    slots: &'s [Slot],
}

/// Selects the RoPE angles of a query or key.
#[derive(Clone, Copy)]
struct Angles {
    layer: usize,
    /// Batch row of the token.
    row: usize,
    /// Whether to measure distances to the pinned positions rather than to the recent ones.
    pinned: bool,
}

impl Pass<'_> {
    /// Stores the keys and values of all tokens in the cache. An item is a KV head.
    pub(crate) fn store_kv(&self, w: &Worker<'_>, local: &mut Local, layer: usize) {
        let qkv = self.scratch.qkv.read(w);
        let cache = self.split_cache(w, layer);
        for item in w.items(self.config.n_kv_heads as usize) {
            let unit = self.unit(qkv, item.index());
            self.store_head(w, &mut local.row, (layer, unit), &mut cache.take(&item));
        }
    }

    /// Splits a layer of the cache into KV heads, for writing.
    fn split_cache<'p>(&'p self, w: &'p Worker<'_>, layer: usize) -> LayerSplit<'p> {
        let (kv_heads, head) = (self.config.n_kv_heads as usize, self.config.head_padded());
        self.cache.layers[layer].split(w, kv_heads, self.cache.n_blocks, head)
    }

    /// Stores one KV head's values, and its keys after RoPE.
    fn store_head(
        &self,
        w: &Worker<'_>,
        row: &mut [f32],
        (layer, unit): (usize, &[f32]),
        cache: &mut HeadMut<'_>,
    ) {
        let m = self.m();
        let head = self.config.head_padded();
        let group = self.config.group();
        let norm = self.weights.layers[layer].attn_k_norm.as_ref();
        let (key, value) = row.split_at_mut(head);
        let value = &mut value[..head];
        for (row, slot) in self.slots.iter().enumerate() {
            gather(unit, m, row, group * head, key);
            gather(unit, m, row, (group + 1) * head, value);
            self.norm_and_rotate(w, key, Angles { layer, row, pinned: false }, norm);
            let to = cache.block(self.cache.block(slot.seq, slot.position / BLOCK), head);
            let (at, rotation) = (slot.position % BLOCK, self.key_rotation());
            self.kernels.store_kv(StoreKv { key, value, at, rotation, to });
        }
    }

    /// Whether a KV head is a single attention item, so that storing and attending can share a phase.
    /// This requires one sequence and one span.
    pub(crate) fn attends_by_heads(&self) -> bool {
        matches!(self.runs, [run] if run.spans == 1)
    }

    /// Stores keys and values, and computes the attention of the only run over its only span. An item is
    /// a KV head. Produces partial states.
    pub(crate) fn store_and_attend(&self, w: &Worker<'_>, local: &mut Local, layer: usize) {
        let Some(run) = self.runs.first() else { return };
        let (qkv, cache) = (self.scratch.qkv.read(w), self.split_cache(w, layer));
        let (kv_heads, head) = (self.config.n_kv_heads as usize, self.config.head_padded());
        let (_, column) = self.span_columns();
        let out = self.scratch.spans.split(w, kv_heads * column, column);
        for item in w.items(kv_heads) {
            let (kv, mut cache) = (item.index(), cache.take(&item));
            let unit = self.unit(qkv, kv);
            self.store_head(w, &mut local.row, (layer, unit), &mut cache);
            local.profile.mark(Stage::Cache);
            let part = Part { layer, kv, from: run.from, slots: self.slots };
            self.pack_queries(w, local, part);
            let block = |index| cache.view(index, head);
            self.attend_span(local, part, run.span(0), block, out.take(&item).run());
            local.profile.mark(Stage::Attention);
        }
    }

    /// Queries, key and value of one KV head, panel-major.
    fn unit<'q>(&self, qkv: &'q [f32], kv: usize) -> &'q [f32] {
        let len = (self.config.group() + 2) * self.config.head_padded() * self.m();
        &qkv[kv * len..][..len]
    }

    /// Prepares a query or key: applies the per-head norm if the model has one, and RoPE if the layer
    /// uses it.
    fn norm_and_rotate(&self, w: &Worker<'_>, x: &mut [f32], at: Angles, norm: Option<&Norm>) {
        let (c, s) = (self.config, self.scratch);
        if c.qk_norm == QkNorm::Head {
            self.norm_row(x, 1, norm);
        }
        let Some(kind) = (c.layer_ropes[at.layer] as usize).checked_sub(1) else { return };
        let half = c.rotary_dim as usize / 2;
        let first = (kind * self.m() + at.row) * half;
        let (cos, sin) = if at.pinned { (&s.pinned_cos, &s.pinned_sin) } else { (&s.cos, &s.sin) };
        let (cos, sin) = (&cos.read(w)[first..][..half], &sin.read(w)[first..][..half]);
        self.kernels.rope(Rope { x, half, cos, sin });
    }

    /// Hadamard block size for keys and queries in an 8-bit or 4-bit cache.
    fn key_rotation(&self) -> usize {
        Config::largest_value_rotation(self.config.head_dim) as usize
    }

    /// Computes the attention of every token over the positions visible to it.
    pub(crate) fn attention(&self, w: &Worker<'_>, local: &mut Local, layer: usize) {
        if self.runs.is_empty() {
            self.attend_all_spans(w, local, layer);
        } else {
            self.attend_each_span(w, local, layer);
        }
    }

    /// An item is a KV head and `ATTENTION_RUN` tokens. Produces outputs.
    fn attend_all_spans(&self, w: &Worker<'_>, local: &mut Local, layer: usize) {
        let (m, s) = (self.m(), self.scratch);
        let (kv_heads, width) = (self.config.n_kv_heads as usize, self.group_width());
        let runs = m.div_ceil(ATTENTION_RUN);
        // Rounding up to whole runs makes all columns equally wide.
        let column = ATTENTION_RUN * width;
        let out = s.attn.split(w, kv_heads * runs * column, column);
        for item in w.items(kv_heads * runs) {
            let (kv, run) = (item.index() / runs, item.index() % runs);
            let mut out = out.take(&item).run();
            let mut from = run * ATTENTION_RUN;
            let rows = &self.slots[from..m.min(from + ATTENTION_RUN)];
            for slots in rows.chunk_by(|a, b| a.seq == b.seq) {
                let (now, later) = out.split_at_mut(slots.len() * width);
                self.merge_all(w, local, Part { layer, kv, from, slots }, now);
                (from, out) = (from + slots.len(), later);
            }
        }
    }

    /// An item is a KV head, a run and a span. Produces partial states.
    fn attend_each_span(&self, w: &Worker<'_>, local: &mut Local, layer: usize) {
        let (spans, column) = self.span_columns();
        let items = self.config.n_kv_heads as usize * spans;
        let out = self.scratch.spans.split(w, items * column, column);
        for item in w.items(items) {
            let (kv, index) = (item.index() / spans, item.index() % spans);
            let after = self.runs.partition_point(|r| r.first_span <= index);
            let run = self.runs[after - 1];
            let slots = &self.slots[run.from..][..run.n];
            let part = Part { layer, kv, from: run.from, slots };
            let n = self.pack_queries(w, local, part);
            let states = &mut out.take(&item).run()[..n * self.state_len()];
            let span = run.span(index - run.first_span);
            self.attend_span(local, part, span, |block| self.kv_block(w, part, block), states);
        }
    }

    /// The number of spans in all runs, and the length of one span's states.
    fn span_columns(&self) -> (usize, usize) {
        let spans = self.runs.iter().map(|r| r.spans).sum();
        let tokens = self.runs.iter().map(|r| r.n).max().unwrap_or(0);
        (spans, tokens * self.config.group() * self.state_len())
    }

    fn state_len(&self) -> usize {
        AttendBlock::state_len(self.config.head_padded())
    }

    /// Total width of the heads that share a KV head.
    fn group_width(&self) -> usize {
        self.config.group() * self.config.head_padded()
    }

    /// Packs the queries of a part, after RoPE, in the form required by the cache type. Returns their
    /// number.
    fn pack_queries(&self, w: &Worker<'_>, local: &mut Local, part: Part<'_>) -> usize {
        let (head, group) = (self.config.head_padded(), self.config.group());
        let unit = self.unit(self.scratch.qkv.read(w), part.kv);
        let norm = self.weights.layers[part.layer].attn_q_norm.as_ref();
        let (n, rotation) = (part.slots.len() * group, self.key_rotation());
        let Local { row, queries, pinned_queries, .. } = local;
        let x = &mut row[..head];
        for query in 0..n {
            let (token, g) = (part.from + query / group, query % group);
            let mut pack = |pinned, to| {
                gather(unit, self.m(), token, g * head, x);
                let angles = Angles { layer: part.layer, row: token, pinned };
                self.norm_and_rotate(w, x, angles, norm);
                self.kernels.pack_query(PackQuery { x, row: query, rotation, to });
            };
            pack(false, queries.packed_mut(n, head));
            if self.slid {
                pack(true, pinned_queries.packed_mut(n, head));
            }
        }
        n
    }

    /// Computes the outputs of a part by merging its spans in order.
    fn merge_all(&self, w: &Worker<'_>, local: &mut Local, part: Part<'_>, out: &mut [f32]) {
        let head = self.config.head_padded();
        let group = self.config.group();
        let len = self.state_len();
        let (layer, slots) = (part.layer, part.slots);
        let n = self.pack_queries(w, local, part);
        let visible =
            |span: usize| slots.iter().any(|slot| self.visible(layer, slot).in_span(span));
        let last = slots[slots.len() - 1].position / SPAN;
        let (mut states, mut spans) =
            (std::mem::take(&mut local.states), std::mem::take(&mut local.spans));
        for span in (0..=last).filter(|span| visible(*span)) {
            let kv = |block| self.kv_block(w, part, block);
            self.attend_span(local, part, span, kv, &mut spans[..n * len]);
            let pairs = states.chunks_exact_mut(len).zip(spans[..n * len].chunks_exact(len));
            for (query, (state, next)) in pairs.enumerate() {
                self.merge(&self.visible(layer, &slots[query / group]), span, state, next);
            }
        }
        for (state, out) in states.chunks_exact(len).zip(out.chunks_exact_mut(head)) {
            self.kernels.finish_head(FinishHead { state, out });
        }
        (local.states, local.spans) = (states, spans);
    }

    /// Merges the state of a span, `next`, into that of the previous spans if any position of the span is
    /// visible.
    fn merge(&self, visible: &Visible, span: usize, state: &mut [f32], next: &[f32]) {
        if span == visible.first_span() {
            state.copy_from_slice(next);
        } else if visible.in_span(span) {
            self.kernels.merge_spans(MergeSpans { state, next });
        }
    }

    /// A block of the cache, written in an earlier phase.
    fn kv_block<'p>(&'p self, w: &'p Worker<'_>, part: Part<'_>, block: usize) -> KvBlock<'p> {
        let index = part.kv * self.cache.n_blocks + block;
        self.cache.layers[part.layer].block(w, index, self.config.head_padded())
    }

    /// Computes the states of a part's packed queries over one span. Each cache block is read once for
    /// all queries.
    fn attend_span<'k>(
        &self,
        local: &Local,
        part: Part<'_>,
        span: usize,
        kv: impl Fn(usize) -> KvBlock<'k>,
        states: &mut [f32],
    ) {
        let (head, tile) = (self.config.head_padded(), self.kernels.tile());
        let (len, group) = (self.state_len(), self.config.group());
        let Part { layer, slots, .. } = part;
        states.chunks_exact_mut(len).for_each(AttendBlock::reset);
        let n = states.len() / len;
        let last = &slots[slots.len() - 1];
        let end = ((span + 1) * SPAN).min(last.position + 1);
        for block in span * SPAN / BLOCK..end.div_ceil(BLOCK) {
            let start = block * BLOCK;
            let in_block = |slot: &Slot| self.visible(layer, slot).in_block(start);
            if slots.iter().map(in_block).all(|(from, to)| from == to) {
                continue;
            }
            // For a token before the slide, both sets of angles are the same.
            let pinned = last.slid.evicted > 0 && start < last.slid.pinned;
            let queries = if pinned { &local.pinned_queries } else { &local.queries };
            let queries = queries.packed(n, head);
            let block = kv(self.cache.block(last.seq, block));
            for (i, states) in states.chunks_mut(tile * len).enumerate() {
                let from = i * tile;
                let mut visible = [(0, 0); MAX_TILE];
                let visible = &mut visible[..states.len() / len];
                for (query, v) in (from..).zip(visible.iter_mut()) {
                    *v = in_block(&slots[query / group]);
                }
                self.kernels.attend(AttendBlock {
                    queries,
                    first: from,
                    block,
                    head,
                    visible,
                    scale: self.config.attention_scale as f32,
                    softcap: self.config.attention_softcap as f32,
                    states,
                });
            }
        }
    }

    /// Packs attention outputs as inputs of the output projection. They are not rotated here: the
    /// rotation is folded into V.
    pub(crate) fn pack_attention(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        layer: usize,
        needs: Needs,
    ) {
        let rows = Rows { m: self.m(), k: self.config.attn_out_inputs(), needs };
        let Local { row, states, inputs, .. } = local;
        let x = &mut row[..rows.k];
        x.fill(0.0);
        self.pack_rows(w, inputs, rows, |tokens, tile| {
            for (row, token) in tokens.enumerate() {
                self.attention_output(w, states, (layer, token), x);
                for to in tile.forms(row) {
                    self.kernels.pack(Pack { x, m: 1, at: 0, n: 1, rotation: 1, to });
                }
            }
        });
    }

    /// Attention outputs of all heads for one token.
    fn attention_output(
        &self,
        w: &Worker<'_>,
        state: &mut [f32],
        (layer, token): (usize, usize),
        out: &mut [f32],
    ) {
        let (width, kv_heads) = (self.group_width(), self.config.n_kv_heads as usize);
        let Some(run) = self.runs.iter().find(|r| (r.from..r.from + r.n).contains(&token)) else {
            let stride = self.m().next_multiple_of(ATTENTION_RUN) * width;
            let attn = self.scratch.attn.read(w);
            for (kv, heads) in out.chunks_exact_mut(width).take(kv_heads).enumerate() {
                heads.copy_from_slice(&attn[kv * stride + token * width..][..width]);
            }
            return;
        };
        let head = self.config.head_padded();
        let group = self.config.group();
        let len = self.state_len();
        let (spans, column) = self.span_columns();
        let visible = self.visible(layer, &self.slots[token]);
        let states = self.scratch.spans.read(w);
        for (query, out) in out.chunks_exact_mut(head).take(kv_heads * group).enumerate() {
            let (kv, at) = (query / group, (token - run.from) * group + query % group);
            for span in 0..run.spans {
                let from = (kv * spans + run.first_span + span) * column + at * len;
                self.merge(&visible, run.span(span), &mut state[..len], &states[from..][..len]);
            }
            self.kernels.finish_head(FinishHead { state: &state[..len], out });
        }
    }
}
