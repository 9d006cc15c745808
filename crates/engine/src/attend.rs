//! Attention within a pass: keys and values into the cache, queries against it.
//!
//! ```text
//! prefill:   item = KV head × 8 tokens, all spans of 512 positions, merged as they come
//! decode:    item = KV head × sequence × span; whoever packs the output projection's input merges
//! ```
//!
//! Both visit blocks in order and merge spans in order, so both give the same bits.

use std::ops::Range;

use nanoinfer_format::{Config, LANES, QkNorm};
use nanoinfer_kernels::{
    AttendBlock, BLOCK, FinishHead, MAX_TILE, MergeSpans, NormKind, NormOf, NormRow, PackQuery,
    Rope, SPAN, StoreKv,
};

use crate::cache::{SeqId, Slid};
use crate::forward::{Pass, Slot};
use crate::pool::{Columns, Worker};
use crate::profile::PassStep;
use crate::scratch::{ATTENTION_RUN, Local, MAX_SPLIT};
use crate::weights::{Layer, Norm};

/// Consecutive tokens of a batch that belong to one sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// First row of the batch.
    pub from: usize,
    /// Rows.
    pub n: usize,
    /// Spans that a row sees: the first ones, then, where the context slid, the last ones.
    pub spans: usize,
    /// Spans before the gap, and those in it.
    gap: (usize, usize),
    /// Spans of the runs before.
    pub first_span: usize,
}

/// How a batch is divided for decoding: its runs, or none if it is too large for that.
pub(crate) fn divide(slots: &[Slot], runs: &mut Vec<Run>) {
    runs.clear();
    if slots.len() > MAX_SPLIT {
        return;
    }
    let (mut from, mut first_span) = (0, 0);
    for rows in slots.chunk_by(|a, b| a.seq == b.seq) {
        let (first, last) = (rows[0].slid, rows[rows.len() - 1]);
        let before = last.slid.pinned.div_ceil(SPAN);
        let gap = ((first.pinned + first.evicted) / SPAN).saturating_sub(before);
        let spans = (last.position + 1).div_ceil(SPAN) - gap;
        runs.push(Run { from, n: rows.len(), spans, gap: (before, gap), first_span });
        (from, first_span) = (from + rows.len(), first_span + spans);
    }
}

impl Run {
    /// The number of its `index`-th span.
    fn span(&self, index: usize) -> usize {
        if index < self.gap.0 { index } else { index + self.gap.1 }
    }
}

/// Positions that a token sees: the pinned ones, if the context slid, and the recent ones.
struct Sees {
    pinned: Range<usize>,
    recent: Range<usize>,
}

impl Sees {
    /// Those of a block, counted from its start.
    fn in_block(&self, start: usize) -> (usize, usize) {
        let range = if start < self.pinned.end { &self.pinned } else { &self.recent };
        let clip = |x: usize| x.clamp(start, start + BLOCK) - start;
        (clip(range.start), clip(range.end))
    }

    fn in_span(&self, span: usize) -> bool {
        let overlaps = |r: &Range<usize>| r.start < (span + 1) * SPAN && span * SPAN < r.end;
        !self.pinned.is_empty() && overlaps(&self.pinned) || overlaps(&self.recent)
    }

    fn first_span(&self) -> usize {
        if self.pinned.is_empty() { self.recent.start / SPAN } else { self.pinned.start / SPAN }
    }
}

/// A KV head of a layer, of one sequence.
#[derive(Clone, Copy)]
struct Head {
    layer: usize,
    kv: usize,
    seq: SeqId,
}

/// Copies `out.len()` values of token `row`, from value `at` on, out of panel-major activations.
pub(crate) fn gather(x: &[f32], m: usize, row: usize, at: usize, out: &mut [f32]) {
    for (panel, lanes) in out.chunks_exact_mut(LANES).enumerate() {
        lanes.copy_from_slice(&x[((at / LANES + panel) * m + row) * LANES..][..LANES]);
    }
}

impl Pass<'_> {
    /// Queries and keys of each token normalised over all heads, where the model has it so. What
    /// crosses heads costs a barrier more.
    pub(crate) fn norm_all_heads(&self, w: &mut Worker<'_>, local: &mut Local, layer: &Layer) {
        if self.config.qk_norm != QkNorm::Full {
            return;
        }
        let (m, group) = (self.m(), self.config.group());
        let qkv = self.scratch.qkv.split(w, m * LANES, LANES);
        for item in w.items(m) {
            let mut token = qkv.take(&item);
            self.norm_heads(&mut local.row, &mut token, 0..group, layer.attn_q_norm.as_ref());
            self.norm_heads(
                &mut local.row,
                &mut token,
                group..group + 1,
                layer.attn_k_norm.as_ref(),
            );
        }
        local.step(w, PassStep::Norm);
    }

    /// One norm over `heads` of the unit of every KV head.
    fn norm_heads(
        &self,
        row: &mut [f32],
        token: &mut Columns<'_, f32>,
        heads: Range<usize>,
        norm: Option<&Norm>,
    ) {
        let (c, panels) = (self.config, self.config.head_padded() / LANES);
        let (kv_heads, unit) = (c.n_kv_heads as usize, c.group() + 2);
        let place = |kv: usize, i: usize| (kv * unit + heads.start) * panels + i;
        let each = (0..kv_heads).flat_map(|kv| (0..heads.len() * panels).map(move |i| (kv, i)));
        let row = &mut row[..kv_heads * heads.len() * panels * LANES];
        for ((kv, i), lanes) in each.clone().zip(row.chunks_exact_mut(LANES)) {
            lanes.copy_from_slice(token.row(place(kv, i)));
        }
        self.norm_row(row, kv_heads * heads.len(), norm);
        for ((kv, i), lanes) in each.zip(row.chunks_exact(LANES)) {
            token.row(place(kv, i)).copy_from_slice(lanes);
        }
    }

    /// RMSNorm of so many heads together.
    fn norm_row(&self, x: &mut [f32], heads: usize, norm: Option<&Norm>) {
        let Some(norm) = norm else { return };
        let (weight, bias) = (norm.weight(self.file), norm.bias(self.file));
        let (d, eps) = (heads * self.config.head_dim as usize, self.config.norm_eps as f32);
        let norm = NormOf { kind: NormKind::Rms, weight, bias, d, eps };
        self.kernels.norm_row(NormRow { x, norm });
    }

    /// Keys, rotated by their positions, and values into the cache. An item is one KV head.
    pub(crate) fn cache_keys_and_values(&self, w: &Worker<'_>, local: &mut Local, layer: usize) {
        let (c, m, s) = (self.config, self.m(), self.scratch);
        let (kv_heads, head, group) = (c.n_kv_heads as usize, c.head_padded(), c.group());
        let (qkv, norm) = (s.qkv.read(w), self.weights.layers[layer].attn_k_norm.as_ref());
        let cache = self.cache.layers[layer].split(w, kv_heads, self.cache.n_blocks, head);
        let (key, value) = local.row.split_at_mut(head);
        let value = &mut value[..head];
        for item in w.items(kv_heads) {
            let unit = self.unit(qkv, item.index());
            let mut cache = cache.take(&item);
            for (row, slot) in self.slots.iter().enumerate() {
                gather(unit, m, row, group * head, key);
                gather(unit, m, row, (group + 1) * head, value);
                self.place(w, key, layer, (row, false), norm);
                let to = cache.block(self.cache.block(slot.seq, slot.position / BLOCK), head);
                let (at, rotation) = (slot.position % BLOCK, self.key_rotation());
                self.kernels.store_kv(StoreKv { key, value, at, rotation, to });
            }
        }
    }

    /// Queries, key and value of one KV head, panel-major.
    fn unit<'q>(&self, qkv: &'q [f32], kv: usize) -> &'q [f32] {
        let len = (self.config.group() + 2) * self.config.head_padded() * self.m();
        &qkv[kv * len..][..len]
    }

    /// A query or key as attention takes it: normalised, where each head is by itself, and rotated
    /// by the position of token `row`, where the layer has RoPE; `pinned`: by its distance from the
    /// pinned positions.
    fn place(
        &self,
        w: &Worker<'_>,
        x: &mut [f32],
        layer: usize,
        (row, pinned): (usize, bool),
        norm: Option<&Norm>,
    ) {
        let (c, s) = (self.config, self.scratch);
        if c.qk_norm == QkNorm::Head {
            self.norm_row(x, 1, norm);
        }
        let Some(kind) = (c.layer_ropes[layer] as usize).checked_sub(1) else { return };
        let half = c.rotary_dim as usize / 2;
        let at = (kind * self.m() + row) * half;
        let (cos, sin) = match pinned {
            true => (&s.pinned_cos, &s.pinned_sin),
            false => (&s.cos, &s.sin),
        };
        let (cos, sin) = (&cos.read(w)[at..][..half], &sin.read(w)[at..][..half]);
        self.kernels.rope(Rope { x, half, cos, sin });
    }

    /// Hadamard block of keys and queries in an 8-bit cache.
    fn key_rotation(&self) -> usize {
        Config::largest_value_rotation(self.config.head_dim) as usize
    }

    /// Attention of every token over its past.
    pub(crate) fn attention(&self, w: &Worker<'_>, local: &mut Local, layer: usize) {
        match self.runs.is_empty() {
            true => self.attend_all_spans(w, local, layer),
            false => self.attend_each_span(w, local, layer),
        }
    }

    /// An item is one KV head and 8 tokens; leaves outputs.
    fn attend_all_spans(&self, w: &Worker<'_>, local: &mut Local, layer: usize) {
        let (m, s) = (self.m(), self.scratch);
        let (kv_heads, width) = (self.config.n_kv_heads as usize, self.group_width());
        let runs = m.div_ceil(ATTENTION_RUN);
        // Rounding the tokens up to whole runs gives every item a column of the same width.
        let column = ATTENTION_RUN * width;
        let out = s.attn.split(w, kv_heads * runs * column, column);
        for item in w.items(kv_heads * runs) {
            let (kv, run) = (item.index() / runs, item.index() % runs);
            let mut out = out.take(&item).run();
            let mut from = run * ATTENTION_RUN;
            let rows = &self.slots[from..m.min(from + ATTENTION_RUN)];
            for slots in rows.chunk_by(|a, b| a.seq == b.seq) {
                let (now, later) = out.split_at_mut(slots.len() * width);
                let at = Head { layer, kv, seq: slots[0].seq };
                self.merge_all(w, local, at, from, slots, now);
                (from, out) = (from + slots.len(), later);
            }
        }
    }

    /// An item is one KV head, one run and one span; leaves states.
    fn attend_each_span(&self, w: &Worker<'_>, local: &mut Local, layer: usize) {
        let (spans, column) = self.span_columns();
        let items = self.config.n_kv_heads as usize * spans;
        let out = self.scratch.spans.split(w, items * column, column);
        for item in w.items(items) {
            let (kv, index) = (item.index() / spans, item.index() % spans);
            let after = self.runs.partition_point(|r| r.first_span <= index);
            let run = self.runs[after - 1];
            let slots = &self.slots[run.from..][..run.n];
            let at = Head { layer, kv, seq: slots[0].seq };
            let n = self.pack_queries(w, local, at, run.from, slots);
            let states = &mut out.take(&item).run()[..n * self.state_len()];
            self.attend_span(w, local, at, slots, run.span(index - run.first_span), states);
        }
    }

    /// Spans of all runs, and values of the states of one of them.
    fn span_columns(&self) -> (usize, usize) {
        let spans = self.runs.iter().map(|r| r.spans).sum();
        let tokens = self.runs.iter().map(|r| r.n).max().unwrap_or(0);
        (spans, tokens * self.config.group() * self.state_len())
    }

    fn state_len(&self) -> usize {
        AttendBlock::state_len(self.config.head_padded())
    }

    /// Values of the heads that share a KV head.
    fn group_width(&self) -> usize {
        self.config.group() * self.config.head_padded()
    }

    /// Positions that a token sees. Pinned ones are as near as if nothing had been evicted.
    fn sees(&self, layer: usize, slot: &Slot) -> Sees {
        let (window, end) = (self.config.windows[layer] as usize, slot.position + 1);
        let first = |end: usize| if window == 0 { 0 } else { end.saturating_sub(window) };
        let Slid { pinned, evicted } = slot.slid;
        match evicted {
            0 => Sees { pinned: 0..0, recent: first(end)..end },
            _ => Sees {
                pinned: first(end - evicted).min(pinned)..pinned,
                recent: first(end).max(pinned + evicted)..end,
            },
        }
    }

    /// Queries of a run, rotated by their positions, as the cache's type wants them.
    fn pack_queries(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        at: Head,
        from: usize,
        slots: &[Slot],
    ) -> usize {
        let (head, group) = (self.config.head_padded(), self.config.group());
        let unit = self.unit(self.scratch.qkv.read(w), at.kv);
        let norm = self.weights.layers[at.layer].attn_q_norm.as_ref();
        for row in 0..slots.len() {
            for g in 0..group {
                let x = &mut local.row[..head];
                gather(unit, self.m(), from + row, g * head, x);
                self.place(w, x, at.layer, (from + row, false), norm);
                let to = local.queries.unpacked(slots.len() * group, head);
                let (query, rotation) = (row * group + g, self.key_rotation());
                self.kernels.pack_query(PackQuery { x, row: query, rotation, to });
                if self.slid {
                    gather(unit, self.m(), from + row, g * head, x);
                    self.place(w, x, at.layer, (from + row, true), norm);
                    let to = local.pinned_queries.unpacked(slots.len() * group, head);
                    self.kernels.pack_query(PackQuery { x, row: query, rotation, to });
                }
            }
        }
        slots.len() * group
    }

    /// Outputs of the queries of a run: its spans, merged in order.
    fn merge_all(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        at: Head,
        from: usize,
        slots: &[Slot],
        out: &mut [f32],
    ) {
        let (head, group, len) = (self.config.head_padded(), self.config.group(), self.state_len());
        let n = self.pack_queries(w, local, at, from, slots);
        let seen = |span: usize| slots.iter().any(|slot| self.sees(at.layer, slot).in_span(span));
        let last = slots[slots.len() - 1].position / SPAN;
        let (mut states, mut spans) =
            (std::mem::take(&mut local.states), std::mem::take(&mut local.spans));
        for span in (0..=last).filter(|span| seen(*span)) {
            self.attend_span(w, local, at, slots, span, &mut spans[..n * len]);
            let pairs = states.chunks_exact_mut(len).zip(spans[..n * len].chunks_exact(len));
            for (query, (state, next)) in pairs.enumerate() {
                self.merge(&self.sees(at.layer, &slots[query / group]), span, state, next);
            }
        }
        for (state, out) in states.chunks_exact(len).zip(out.chunks_exact_mut(head)) {
            self.kernels.finish_head(FinishHead { state, out });
        }
        (local.states, local.spans) = (states, spans);
    }

    /// Appends a span's state to those before it, if the query sees any of it.
    fn merge(&self, sees: &Sees, span: usize, state: &mut [f32], next: &[f32]) {
        if span == sees.first_span() {
            state.copy_from_slice(next);
        } else if sees.in_span(span) {
            self.kernels.merge_spans(MergeSpans { state, next });
        }
    }

    /// States of the packed queries of a run over one span. A block of the cache is read once for
    /// all of them.
    fn attend_span(
        &self,
        w: &Worker<'_>,
        local: &Local,
        at: Head,
        slots: &[Slot],
        span: usize,
        states: &mut [f32],
    ) {
        let (head, tile) = (self.config.head_padded(), self.kernels.tile());
        let (len, group) = (self.state_len(), self.config.group());
        states.chunks_exact_mut(len).for_each(AttendBlock::reset);
        let n = states.len() / len;
        let last = &slots[slots.len() - 1];
        let end = ((span + 1) * SPAN).min(last.position + 1);
        for block in span * SPAN / BLOCK..end.div_ceil(BLOCK) {
            let start = block * BLOCK;
            let sees = |slot: &Slot| self.sees(at.layer, slot).in_block(start);
            if slots.iter().map(sees).all(|(from, to)| from == to) {
                continue;
            }
            // A token before the sliding sees pinned positions from where they are either way.
            let pinned = last.slid.evicted > 0 && start < last.slid.pinned;
            let queries = if pinned { &local.pinned_queries } else { &local.queries };
            let queries = queries.packed(n, head);
            let index = at.kv * self.cache.n_blocks + self.cache.block(at.seq, block);
            let kv = self.cache.layers[at.layer].block(w, index, head);
            for (i, states) in states.chunks_mut(tile * len).enumerate() {
                let from = i * tile;
                let mut visible = [(0, 0); MAX_TILE];
                let visible = &mut visible[..states.len() / len];
                for (query, v) in (from..).zip(visible.iter_mut()) {
                    *v = sees(&slots[query / group]);
                }
                self.kernels.attend(AttendBlock {
                    queries,
                    first: from,
                    block: kv,
                    head,
                    visible,
                    scale: self.config.attention_scale as f32,
                    softcap: self.config.attention_softcap as f32,
                    states,
                });
            }
        }
    }

    /// Attention outputs of one token, all heads.
    pub(crate) fn attention_output(
        &self,
        w: &Worker<'_>,
        state: &mut [f32],
        layer: usize,
        token: usize,
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
        let (head, group, len) = (self.config.head_padded(), self.config.group(), self.state_len());
        let (spans, column) = self.span_columns();
        let sees = self.sees(layer, &self.slots[token]);
        let states = self.scratch.spans.read(w);
        for (query, out) in out.chunks_exact_mut(head).take(kv_heads * group).enumerate() {
            let (kv, at) = (query / group, (token - run.from) * group + query % group);
            for span in 0..run.spans {
                let place = (kv * spans + run.first_span + span) * column + at * len;
                self.merge(&sees, run.span(span), &mut state[..len], &states[place..][..len]);
            }
            self.kernels.finish_head(FinishHead { state: &state[..len], out });
        }
    }
}
