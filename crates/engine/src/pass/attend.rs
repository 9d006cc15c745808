//! Attention within a pass: store keys and values, then attend to the cache.
//!
//! An item is a KV head and a unit of the batch (see `units.rs`):
//!
//! ```text
//! all spans:  merges the spans of 512 positions on the fly, and stores outputs
//! one span:   stores states, merged while packing the output projection's input
//! ```
//!
//! With a single unit, an item is a KV head, as when storing keys and values, so both happen in the same
//! phase.
//!
//! All variants visit blocks and merge spans in order, so their results are bit-identical.

use std::iter::repeat_n;
use std::ops::Range;

use nanoinfer_format::{AttentionShape, QkNorm};
use nanoinfer_kernels::{
    ApplyGate, AttendBlock, BLOCK, FinishHead, GROUP, Gate, KvBlock, MAX_TILE, MergeSpans,
    NormKind, NormParams, NormRow, Pack, PackQuery, Rope, Rotate, SPAN, StoreKv, temperature,
};

use super::batch::{Slot, Visible, spans};
use super::inputs::{Needs, Rows};
use super::limits::ATTENTION_ROWS;
use super::profile::Stage;
use super::scratch::Local;
use super::units::Unit;
use super::{Pass, gather};
use crate::memory::{HeadMut, KvShape, LayerSplit};
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
    shape: AttentionShape,
}

/// Selects the norm and the RoPE angles of a query or key.
#[derive(Clone, Copy)]
struct Head {
    layer: usize,
    /// Number of the head, among those of queries or of keys.
    index: usize,
    /// Batch row of the token.
    row: usize,
    /// Whether to measure distances to the pinned positions rather than to the recent ones.
    pinned: bool,
}

impl Pass<'_> {
    /// Sizes of the attention of a layer.
    fn shape(&self, layer: usize) -> AttentionShape {
        self.config.attention_of(layer)
    }

    /// Stores the keys and values of all tokens in the cache. An item is a KV head.
    pub(crate) fn store_kv(&self, w: &Worker<'_>, local: &mut Local, layer: usize) {
        let (qkv, shape) = (self.scratch.qkv.read(w), self.shape(layer));
        let cache = self.split_cache(w, layer);
        for item in w.items(shape.cache_heads) {
            let unit = self.unit(qkv, &shape, item.index());
            let at = (layer, item.index());
            self.store_head(w, local, at, unit, &mut cache.take(&item));
        }
    }

    /// Splits a layer of the cache into KV heads, for writing.
    fn split_cache<'p>(&'p self, w: &'p Worker<'_>, layer: usize) -> LayerSplit<'p> {
        let shape = KvShape::of(&self.shape(layer));
        self.cache.layer(layer).split(w, self.cache.n_blocks, shape)
    }

    /// Stores one KV head's values, and its keys after RoPE.
    fn store_head(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        (layer, index): (usize, usize),
        unit: &[f32],
        cache: &mut HeadMut<'_>,
    ) {
        let (m, shape) = (self.m(), self.shape(layer));
        let (head, at, width) = (shape.head_padded(), shape.key_at(), shape.value_padded());
        let norm = self.weights.layers[layer].attention.as_ref().and_then(|a| a.k_norm.as_ref());
        let Local { row, ones, .. } = local;
        let (key, value) = row.split_at_mut(head);
        let value = &mut value[..width];
        for (row, slot) in self.slots.iter().enumerate() {
            if let Some(latent) = &self.config.latent {
                self.latent_key(w, latent, (row, norm), (key, value));
            } else {
                gather(unit, m, row, at * head, key);
                self.gather_value(unit, row, &shape, (key, value));
            }
            if self.config.value_norm {
                self.norm_plain(value, ones, shape.head_dim);
            }
            let head = Head { layer, index, row, pinned: false };
            self.norm_and_rotate(w, key, (&shape, head), (norm, ones));
            let block = self.cache.block(slot.seq, slot.position / BLOCK);
            let to = cache.block(block, KvShape::of(&shape));
            let (at, rotation) = (slot.position % BLOCK, shape.key_rotation());
            self.kernels.store_kv(StoreKv { key, value, at, rotation, to });
        }
    }

    /// A token's value: its own, or its key.
    fn gather_value(
        &self,
        unit: &[f32],
        row: usize,
        shape: &AttentionShape,
        (key, value): (&[f32], &mut [f32]),
    ) {
        if shape.keys_as_values {
            value.copy_from_slice(key);
            let block = self.config.value_rotation as usize;
            self.kernels.rotate(Rotate { x: value, block });
        } else {
            gather(unit, self.m(), row, (shape.key_at() + 1) * shape.head_padded(), value);
        }
    }

    /// Divides a head by its root mean square, which, of a value, is the same before and after its rotation.
    fn norm_plain(&self, x: &mut [f32], ones: &[f32], d: usize) {
        let (weight, eps) = (&ones[..x.len()], self.config.norm_eps as f32);
        let norm = NormParams { kind: NormKind::Rms, weight, bias: &[], d, eps };
        self.kernels.norm_row(NormRow { x, norm });
    }

    /// Whether a KV head is a single attention item, so that storing and attending can share a phase.
    pub(crate) fn attends_by_heads(&self) -> bool {
        let one = matches!(self.units.all(), [Unit { span: None, .. }]);
        one && self.config.latent.is_none()
    }

    /// Stores keys and values, and computes the attention of the only unit. An item is a KV head.
    pub(crate) fn store_and_attend(&self, w: &Worker<'_>, local: &mut Local, layer: usize) {
        let (qkv, cache) = (self.scratch.qkv.read(w), self.split_cache(w, layer));
        let shape = self.shape(layer);
        let (kv_heads, column) = (shape.n_kv_heads, self.column(&shape));
        let out = self.scratch.attention.split(w, kv_heads * column, column);
        for item in w.items(kv_heads) {
            let (kv, mut cache, out) = (item.index(), cache.take(&item), out.take(&item).run());
            self.store_head(w, local, (layer, kv), self.unit(qkv, &shape, kv), &mut cache);
            local.profile.mark(Stage::Cache);
            let block = |index| cache.view(index, KvShape::of(&shape));
            self.attend_all_spans(w, local, (layer, kv), 0..self.m(), &block, out);
            local.profile.mark(Stage::Attention);
        }
    }

    /// Queries, gates, key and value of one KV head, panel-major.
    fn unit<'q>(&self, qkv: &'q [f32], shape: &AttentionShape, kv: usize) -> &'q [f32] {
        if self.config.latent.is_some() {
            return qkv;
        }
        let len = shape.unit_heads() * shape.head_padded() * self.m();
        &qkv[kv * len..][..len]
    }

    /// Prepares a query or key: applies the per-head norm if the model has one, and RoPE if the layer
    /// uses it. `ones` are the weights of norms without any.
    fn norm_and_rotate(
        &self,
        w: &Worker<'_>,
        x: &mut [f32],
        (shape, at): (&AttentionShape, Head),
        (norm, ones): (Option<&Norm>, &[f32]),
    ) {
        let late = self.config.qk_norm_late;
        if late {
            self.rotate(w, x, (shape, at));
        }
        match self.config.qk_norm {
            QkNorm::Head => self.norm_row(x, shape.head_dim, norm),
            QkNorm::Layer => self.norm_head(x, (at.index, shape.head_dim), norm),
            QkNorm::Unit if self.config.layer_ropes[at.layer] > 0 => {
                self.norm_plain(x, ones, shape.head_dim);
            }
            QkNorm::None | QkNorm::Full | QkNorm::Unit => {}
        }
        if !late {
            self.rotate(w, x, (shape, at));
        }
    }

    /// Applies RoPE to a query or key if the layer uses it.
    fn rotate(&self, w: &Worker<'_>, x: &mut [f32], (shape, at): (&AttentionShape, Head)) {
        let (c, s) = (self.config, self.scratch);
        let Some(kind) = (c.layer_ropes[at.layer] as usize).checked_sub(1) else { return };
        let half = shape.rotary_dim / 2;
        let first = (kind * self.m() + at.row) * (c.rotary_dim as usize / 2);
        let (cos, sin) = if at.pinned { (&s.pinned_cos, &s.pinned_sin) } else { (&s.cos, &s.sin) };
        let (cos, sin) = (&cos.read(w)[first..][..half], &sin.read(w)[first..][..half]);
        self.kernels.rope(Rope { x, half, cos, sin });
    }

    /// Multiplies a query by the temperature of its position, if the layer has one.
    fn sharpen(&self, x: &mut [f32], layer: usize, position: usize) {
        let Some(t) = self.config.temperature.as_ref().filter(|t| t.layers[layer]) else { return };
        let factor = temperature(position as u64, t.offset.into(), t.step.into(), t.scale);
        x.iter_mut().for_each(|x| *x *= factor);
    }

    /// Computes the attention of every token over the positions visible to it. An item is a KV head and a
    /// unit.
    pub(crate) fn attention(&self, w: &Worker<'_>, local: &mut Local, layer: usize) {
        let (units, shape) = (self.units.all(), self.shape(layer));
        let (items, column) = (shape.n_kv_heads * units.len(), self.column(&shape));
        let out = self.scratch.attention.split(w, items * column, column);
        let mut packed = None;
        for item in w.items(items) {
            let (kv, unit) = (item.index() / units.len(), units[item.index() % units.len()]);
            let (rows, out) = (unit.from..unit.from + unit.n, out.take(&item).run());
            let part = Part { layer, kv, from: unit.from, slots: &self.slots[rows.clone()], shape };
            let block = |index| self.kv_block(w, part, index);
            let Some(span) = unit.span else {
                self.attend_all_spans(w, local, (layer, kv), rows, &block, out);
                packed = None;
                continue;
            };
            if !part.slots.iter().any(|slot| self.visible(layer, slot).in_span(span)) {
                continue;
            }
            // A worker usually claims several spans of the same rows in succession.
            if packed.replace((kv, unit.from)) != Some((kv, unit.from)) {
                self.pack_queries(w, local, part);
            }
            let states = unit.n * shape.group() * state_len(&shape);
            self.attend_span(local, part, span, &block, &mut out[..states]);
        }
    }

    /// Computes the outputs of some rows for a KV head.
    fn attend_all_spans<'k>(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        (layer, kv): (usize, usize),
        rows: Range<usize>,
        block_at: &impl Fn(usize) -> KvBlock<'k>,
        mut out: &mut [f32],
    ) {
        let (mut from, shape) = (rows.start, self.shape(layer));
        for slots in self.slots[rows].chunk_by(|a, b| a.seq == b.seq) {
            let (now, later) = out.split_at_mut(slots.len() * group_width(&shape));
            self.merge_all(w, local, Part { layer, kv, from, slots, shape }, block_at, now);
            (from, out) = (from + slots.len(), later);
        }
    }

    /// Space for the results of a unit.
    fn column(&self, shape: &AttentionShape) -> usize {
        self.units.longest() * shape.group() * state_len(shape)
    }

    /// Packs the queries of a part, after RoPE, in the form required by the cache type. Returns their
    /// number.
    fn pack_queries(&self, w: &Worker<'_>, local: &mut Local, part: Part<'_>) -> usize {
        let shape = &part.shape;
        let (head, group) = (shape.head_padded(), shape.group());
        let unit = self.unit(self.scratch.qkv.read(w), shape, part.kv);
        let attention = self.weights.layers[part.layer].attention.as_ref();
        let norm = attention.and_then(|a| a.q_norm.as_ref());
        let (n, rotation) = (part.slots.len() * group, shape.key_rotation());
        let Local { row, ones, queries, pinned_queries, .. } = local;
        let x = &mut row[..head];
        for query in 0..n {
            let (token, g) = (part.from + query / group, query % group);
            let mut pack = |pinned, to| {
                let index = part.kv * group + g;
                match &self.config.latent {
                    Some(latent) => self.latent_query(w, latent, (token, index), x),
                    None => gather(unit, self.m(), token, g * head, x),
                }
                let at = Head { layer: part.layer, index, row: token, pinned };
                self.norm_and_rotate(w, x, (shape, at), (norm, ones));
                self.sharpen(x, part.layer, self.slots[token].position);
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
    fn merge_all<'k>(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        part: Part<'_>,
        block_at: &impl Fn(usize) -> KvBlock<'k>,
        out: &mut [f32],
    ) {
        let Part { layer, slots, shape, .. } = part;
        let (width, group, len) = (shape.value_padded(), shape.group(), state_len(&shape));
        let n = self.pack_queries(w, local, part);
        let visible =
            |span: &usize| slots.iter().any(|slot| self.visible(layer, slot).in_span(*span));
        let (mut states, mut next) =
            (std::mem::take(&mut local.states), std::mem::take(&mut local.spans));
        for span in spans(slots, self.window(layer)).filter(visible) {
            self.attend_span(local, part, span, block_at, &mut next[..n * len]);
            let pairs = states.chunks_exact_mut(len).zip(next[..n * len].chunks_exact(len));
            for (query, (state, next)) in pairs.enumerate() {
                self.merge(&self.visible(layer, &slots[query / group]), span, state, next);
            }
        }
        self.finish_heads((&shape, layer, part.kv * group), &states, &mut out[..n * width]);
        (local.states, local.spans) = (states, next);
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

    /// Turns states of queries into outputs. The queries are those of a KV head, token by token, from the query
    /// head `first` on.
    fn finish_heads(
        &self,
        (shape, layer, first): (&AttentionShape, usize, usize),
        states: &[f32],
        out: &mut [f32],
    ) {
        let group = shape.group();
        let sinks = self.weights.layers[layer].attention.as_ref().and_then(|a| a.sinks);
        let sinks = sinks.map(|sinks| &sinks.values(self.file)[first / group * group..][..group]);
        let heads = states.chunks_exact(state_len(shape));
        let heads = heads.zip(out.chunks_exact_mut(shape.value_padded()));
        for (query, (state, out)) in heads.enumerate() {
            let sink = sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[(first + query) % group]);
            self.kernels.finish_head(FinishHead { state, sink, out });
        }
    }

    /// A block of the cache, written in an earlier phase.
    fn kv_block<'p>(&'p self, w: &'p Worker<'_>, part: Part<'_>, block: usize) -> KvBlock<'p> {
        let head = if part.shape.cache_heads == 1 { 0 } else { part.kv };
        let index = head * self.cache.n_blocks + block;
        self.cache.layer(part.layer).block(w, index, KvShape::of(&part.shape))
    }

    /// Computes the states of a part's packed queries over one span. Each cache block is read once for
    /// all queries.
    fn attend_span<'k>(
        &self,
        local: &Local,
        part: Part<'_>,
        span: usize,
        block_at: &impl Fn(usize) -> KvBlock<'k>,
        states: &mut [f32],
    ) {
        let Part { layer, slots, shape, .. } = part;
        let (head, tile) = (shape.head_padded(), self.kernels.tile());
        let (len, group) = (state_len(&shape), shape.group());
        states.chunks_exact_mut(len).for_each(AttendBlock::reset);
        let n = states.len() / len;
        let last = &slots[slots.len() - 1];
        let end = ((span + 1) * SPAN).min(last.position + 1);
        for block in span * SPAN / BLOCK..end.div_ceil(BLOCK) {
            let start = block * BLOCK;
            let mut seen = [(0, 0); ATTENTION_ROWS];
            for (seen, slot) in seen.iter_mut().zip(slots) {
                *seen = self.visible(layer, slot).in_block(start);
            }
            if seen.iter().all(|(from, to)| from == to) {
                continue;
            }
            let mut seen = seen.into_iter().flat_map(|range| repeat_n(range, group));
            // For a token before the slide, both sets of angles are the same.
            let pinned = last.slid.evicted > 0 && start < last.slid.pinned;
            let queries = if pinned { &local.pinned_queries } else { &local.queries };
            let queries = queries.packed(n, head);
            let stored = |block| block_at(self.cache.block(last.seq, block));
            let next = (block < last.position / BLOCK).then(|| stored(block + 1));
            let (block, tiles) = (stored(block), n.div_ceil(tile));
            for (i, states) in states.chunks_mut(tile * len).enumerate() {
                let from = i * tile;
                let mut visible = [(0, 0); MAX_TILE];
                let visible = &mut visible[..states.len() / len];
                for (visible, seen) in visible.iter_mut().zip(&mut seen) {
                    *visible = seen;
                }
                self.kernels.attend(AttendBlock {
                    queries,
                    first: from,
                    block,
                    next: next.filter(|_| i + 1 == tiles),
                    head,
                    value: shape.value_padded(),
                    visible,
                    scale: self.config.attention_scale as f32,
                    softcap: self.config.attention_softcap as f32,
                    states,
                });
            }
        }
    }

    /// Packs attention outputs as inputs of the output projection. They are not rotated here, because the
    /// rotation is folded into V, unless gates are applied to them.
    pub(crate) fn pack_attention(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        layer: usize,
        needs: Needs,
    ) {
        let shape = self.shape(layer);
        let rows = Rows { m: self.m(), k: shape.output_inputs(), needs };
        let Local { row, gates, states, inputs, .. } = local;
        let x = &mut row[..rows.k];
        x.fill(0.0);
        let rotation = if self.config.attention_gate { GROUP } else { 1 };
        self.pack_rows(w, inputs, rows, |tokens, tile| {
            for (row, token) in tokens.enumerate() {
                self.attention_output(w, states, (layer, token), x);
                if self.config.attention_gate {
                    self.gate_attention(w, (&shape, token), x, gates);
                }
                for to in tile.forms(row) {
                    self.kernels.pack(Pack { x, m: 1, at: 0, n: 1, rotation, to });
                }
            }
        });
    }

    /// Multiplies the outputs of all heads by their gates, in the original basis.
    fn gate_attention(
        &self,
        w: &Worker<'_>,
        (shape, token): (&AttentionShape, usize),
        x: &mut [f32],
        gates: &mut [f32],
    ) {
        let (qkv, width) = (self.scratch.qkv.read(w), group_width(shape));
        let x = &mut x[..shape.n_kv_heads * width];
        let gates = &mut gates[..x.len()];
        for (kv, gates) in gates.chunks_exact_mut(width).enumerate() {
            gather(self.unit(qkv, shape, kv), self.m(), token, width, gates);
        }
        for head in x.chunks_exact_mut(shape.head_padded()) {
            self.kernels.rotate(Rotate { x: head, block: self.config.value_rotation as usize });
        }
        self.kernels.apply_gate(ApplyGate { kind: Gate::Sigmoid, x, gates });
    }

    /// Attention outputs of all heads for one token.
    fn attention_output(
        &self,
        w: &Worker<'_>,
        states: &mut [f32],
        (layer, token): (usize, usize),
        out: &mut [f32],
    ) {
        let shape = self.shape(layer);
        let heads = out.chunks_exact_mut(group_width(&shape)).take(shape.n_kv_heads);
        for (kv, heads) in heads.enumerate() {
            let at = (layer, token, kv);
            self.head_outputs(w, states, (&shape, at), 0..shape.group(), heads);
        }
    }

    /// Attention outputs of some of the heads that share a KV head, `group`, for one token.
    pub(crate) fn head_outputs(
        &self,
        w: &Worker<'_>,
        states: &mut [f32],
        (shape, (layer, token, kv)): (&AttentionShape, (usize, usize, usize)),
        group: Range<usize>,
        out: &mut [f32],
    ) {
        let (width, len) = (shape.value_padded(), state_len(shape));
        let column = self.column(shape);
        let states = &mut states[..group.len() * len];
        let all = self.scratch.attention.read(w);
        let visible = self.visible(layer, &self.slots[token]);
        let (first, units) = self.units.of(token);
        let results = &all[(kv * self.units.all().len() + first) * column..];
        for (unit, results) in units.iter().zip(results.chunks_exact(column)) {
            let query = (token - unit.from) * shape.group() + group.start;
            let Some(span) = unit.span else {
                out.copy_from_slice(&results[query * width..][..group.len() * width]);
                continue;
            };
            let next = results[query * len..].chunks_exact(len);
            for (state, next) in states.chunks_exact_mut(len).zip(next) {
                self.merge(&visible, span, state, next);
            }
        }
        if units.iter().any(|unit| unit.span.is_some()) {
            let head = kv * shape.group() + group.start;
            self.finish_heads((shape, layer, head), states, out);
        }
    }
}

/// Length of the state of a query, see [`AttendBlock`].
fn state_len(shape: &AttentionShape) -> usize {
    AttendBlock::state_len(shape.value_padded())
}

/// Total width of the heads that share a KV head.
fn group_width(shape: &AttentionShape) -> usize {
    shape.group() * shape.value_padded()
}
