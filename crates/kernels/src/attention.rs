//! Softmax attention, one block of 64 positions at a time (Milakov and Gimelshein, "Online
//! normalizer calculation for softmax", 2018).
//!
//! The same algorithm serves prefill, decode and any split across threads. Blocks are aligned to
//! absolute positions and visited in order; every span of 512 positions starts with a fresh state, and
//! spans are merged in order. A token's output thus depends only on the positions it attends to, never
//! on scheduling.
//!
//! Several queries share a pass over a block (the heads of a query group, the tokens of a prompt): keys
//! and values are read once and reused by every query, so the memory traffic of grouped-query attention
//! is that of a single head.

use crate::activation::capped;
use crate::gemm::{MAX_TILE, scales_line, with_tile};
use crate::isa::Simd;
use crate::isa::codes::Codes;
use crate::kv::{BLOCK, BLOCK_PANELS, KvBlock, Queries, Stored, floats_fit, q4_fits, q8_fits};
use crate::layout::{LANES, LINE, Lanes, QUAD};
use crate::math::exp;
use crate::quantize::KV_LEVELS;
use crate::values::{WeightedBlock, add_values, state_len};

/// Positions per independent state; also the unit in which a head is split across threads.
pub const SPAN: usize = 512;

/// One query's scores for the positions of a block, later turned into weights in place.
type Scores = [Lanes; BLOCK_PANELS];

/// Arguments of `attend`, which computes the attention of a tile of queries to one block.
///
/// The state of a query is `[max, sum, 0…; accumulator]`: 16 + `value` floats, see
/// [`AttendBlock::reset`].
#[derive(Debug)]
pub struct AttendBlock<'a> {
    /// The queries.
    pub queries: Queries<'a>,
    /// First query of the tile.
    pub first: usize,
    /// The block.
    pub block: KvBlock<'a>,
    /// The block that will be read next, if known. It is prefetched.
    pub next: Option<KvBlock<'a>>,
    /// Width of queries and keys, padded to 16.
    pub head: usize,
    /// Width of values, padded to 16.
    pub value: usize,
    /// The block's visible positions for each query, as `(from, to)`. A query that sees none is skipped.
    pub visible: &'a [(usize, usize)],
    /// Factor applied to q·k.
    pub scale: f32,
    /// Soft cap c: a score s becomes c·tanh(s/c); 0 disables it.
    pub softcap: f32,
    /// Running states, `[n][16 + value]`.
    pub states: &'a mut [f32],
}

impl AttendBlock<'_> {
    pub(crate) fn check(&self) {
        let (h, v, n) = (self.head, self.value, self.visible.len());
        assert!(self.softcap >= 0.0);
        assert!(n > 0 && n <= MAX_TILE && self.states.len() == n * Self::state_len(v));
        assert!(self.visible.iter().all(|(_, to)| *to <= BLOCK));
        let queries_fit = match self.queries {
            Queries::F32(q) => q.len().is_multiple_of(h) && self.first + n <= q.len() / h,
            Queries::Q8 { q, scales, sums } => {
                let all = scales.len();
                self.first + n <= all && sums.len() == all && q.len() == all * h
            }
        };
        let block_fits = match self.block {
            KvBlock::F32 { k, v: values } => floats_fit((h, k.len()), (v, values.len())),
            KvBlock::F16 { k, v: values } => floats_fit((h, k.len()), (v, values.len())),
            KvBlock::Q8 { k, v: values, v_scales } => {
                v_scales.len() == BLOCK && q8_fits((h, k.len()), (v, values.len()))
            }
            KvBlock::Q4 { k, v: values, v_scales } => {
                v_scales.len() == BLOCK && q4_fits((h, k.len()), (v, values.len()))
            }
        };
        assert!(queries_fit && block_fits);
    }

    /// Resets a state to "no positions seen".
    pub fn reset(state: &mut [f32]) {
        state.fill(0.0);
        state[0] = f32::NEG_INFINITY;
    }

    /// Length of a state in floats, given the width of values.
    pub const fn state_len(value: usize) -> usize {
        state_len(value)
    }
}

#[inline(always)]
pub(crate) fn attend<S: Codes>(s: S, a: AttendBlock<'_>) {
    with_tile!(a.visible.len(), attend_tile::<S, 1>(s, a));
}

#[inline(always)]
pub(crate) fn attend_tile<S: Codes, const M: usize, const P: usize>(s: S, a: AttendBlock<'_>) {
    if M > S::QUERIES {
        unreachable!("a tile has at most {} queries", S::QUERIES);
    }
    let mut p = [[[0.0; LANES]; BLOCK_PANELS]; M];
    match (a.queries, a.block) {
        (Queries::Q8 { q, scales, sums }, KvBlock::Q8 { k, .. }) => {
            scores_int::<S, M, 8>(s, q, scales, sums, k, &a, &mut p);
        }
        (Queries::Q8 { q, scales, sums }, KvBlock::Q4 { k, .. }) => {
            scores_int::<S, M, 4>(s, q, scales, sums, k, &a, &mut p);
        }
        (Queries::F32(q), KvBlock::F32 { k, .. }) => {
            scores::<S, M, f32>(s, q, k, &a, &mut p);
        }
        (Queries::F32(q), KvBlock::F16 { k, .. }) => {
            scores::<S, M, u16>(s, q, k, &a, &mut p);
        }
        _ => panic!("queries are packed for a different cache type"),
    }
    if a.softcap > 0.0 {
        cap_scores(s, &mut p, a.softcap, a.visible);
    }
    let v_scales = match a.block {
        KvBlock::Q8 { v_scales, .. } | KvBlock::Q4 { v_scales, .. } => {
            v_scales.as_chunks().0.first_chunk()
        }
        _ => None,
    };
    let Some((decay, first, last)) =
        softmax_step(s, &mut p, a.visible, a.states, a.value, v_scales)
    else {
        return;
    };
    let weights = std::array::from_fn(|m| p[m].as_flattened().first_chunk().expect("a block"));
    let seen = first..last.min(BLOCK);
    let block = WeightedBlock { weights, decay, seen, width: a.value, next: a.next };
    match a.block {
        KvBlock::F32 { v, .. } => add_values::<S, M, f32>(s, v, &block, a.states),
        KvBlock::F16 { v, .. } => add_values::<S, M, u16>(s, v, &block, a.states),
        KvBlock::Q8 { v, .. } => add_values::<S, M, i8>(s, v, &block, a.states),
        KvBlock::Q4 { v, .. } => add_values::<S, M, u8>(s, v, &block, a.states),
    }
}

/// scale · q·k for visible positions, -∞ for hidden ones.
#[inline(always)]
fn scores<S: Simd, const M: usize, T: Stored>(
    s: S,
    q: &[f32],
    k: &[T],
    a: &AttendBlock<'_>,
    out: &mut [Scores; M],
) {
    let n = q.len() / a.head;
    for (i, panel) in k.chunks_exact(LANES * a.head).enumerate() {
        let mut dot = [s.splat(0.0); M];
        let chunks = q.as_chunks::<LANES>().0.chunks_exact(n);
        for (lines, q) in panel.as_chunks::<LANES>().0.as_chunks::<LANES>().0.iter().zip(chunks) {
            let q: &[Lanes; M] = q[a.first..].first_chunk().expect("checked");
            for (d, line) in lines.iter().enumerate() {
                let line = T::load(s, line);
                for m in 0..M {
                    dot[m] = s.fma(line, s.splat(q[m][d]), dot[m]);
                }
            }
        }
        for m in 0..M {
            s.store(s.mul(dot[m], s.splat(a.scale)), &mut out[m][i]);
            mask(s, &mut out[m][i], i, a.visible[m]);
        }
    }
}

/// Quads of values per chunk of a query.
const QUADS: usize = LANES / QUAD;

/// Adds the products of a line of keys and quad `i` of each query. A closure would not always be inlined, and
/// then lack the instruction set.
#[inline(always)]
fn dot_line<S: Simd, const M: usize>(
    s: S,
    dot: &mut [S::I; M],
    line: S::Line,
    q: &[[[i8; QUAD]; QUADS]; M],
    i: usize,
) {
    for m in 0..M {
        dot[m] = s.dot(dot[m], line, &q[m][i]);
    }
}

/// Like [`scores`], in integers: f32(q·k) · key scale · (query scale · scale). Keys have `BITS` bits, 8 or 4.
#[inline(always)]
fn scores_int<S: Codes, const M: usize, const BITS: usize>(
    s: S,
    q: &[i8],
    scales: &[f32],
    sums: &[i32],
    k: &[u8],
    a: &AttendBlock<'_>,
    out: &mut [Scores; M],
) {
    let n = scales.len();
    let scales: &[f32; M] = scales[a.first..].first_chunk().expect("checked");
    let sums: &[i32; M] = sums[a.first..].first_chunk().expect("checked");
    let levels = s.levels(&KV_LEVELS);
    let panel_bytes = LINE + LANES * a.head * BITS / 8;
    for (i, panel) in k.chunks_exact(panel_bytes).enumerate() {
        let (key_scales, lines) = panel.as_chunks::<LINE>().0.split_first().expect("a panel");
        let mut dot = [s.seed(0); M];
        for m in 0..M {
            dot[m] = s.seed(sums[m]);
        }
        let chunks = q.as_chunks::<QUAD>().0.as_chunks::<QUADS>().0.chunks_exact(n);
        for (lines, q) in lines.chunks_exact(QUADS * BITS / 8).zip(chunks) {
            let q: &[[[i8; QUAD]; QUADS]; M] = q[a.first..].first_chunk().expect("checked");
            for (j, line) in lines.iter().enumerate() {
                if BITS == 8 {
                    dot_line(s, &mut dot, s.line(line), q, j);
                } else {
                    let codes = s.bytes(line);
                    dot_line(s, &mut dot, s.weights(levels, codes), q, 2 * j);
                    dot_line(s, &mut dot, s.weights(levels, s.shr::<4>(codes)), q, 2 * j + 1);
                }
            }
        }
        let key_scales = s.load(&scales_line(key_scales));
        for m in 0..M {
            let x = s.mul(s.to_f32(dot[m]), key_scales);
            s.store(s.mul(x, s.splat(scales[m] * a.scale)), &mut out[m][i]);
            mask(s, &mut out[m][i], i, a.visible[m]);
        }
    }
}

/// Caps the scores, then masks again because the cap turns -∞ into a finite number.
#[inline(always)]
fn cap_scores<S: Simd, const M: usize>(
    s: S,
    scores: &mut [Scores; M],
    cap: f32,
    visible: &[(usize, usize)],
) {
    for (scores, visible) in scores.iter_mut().zip(visible) {
        for (i, x) in scores.iter_mut().enumerate() {
            s.store(capped(s, s.load(x), cap), x);
            mask(s, x, i, *visible);
        }
    }
}

/// Adds -∞ to hidden positions. A 16-lane window into `EDGE`, offset by the number of visible lanes,
/// masks the positions after the last visible one; another window masks those before the first.
#[inline(always)]
fn mask<S: Simd>(s: S, scores: &mut Lanes, panel: usize, (from, to): (usize, usize)) {
    const HIDDEN: f32 = f32::NEG_INFINITY;
    const EDGE: [f32; 3 * LANES] = {
        let mut edge = [HIDDEN; 3 * LANES];
        let mut i = LANES;
        while i < 2 * LANES {
            edge[i] = 0.0;
            i += 1;
        }
        edge
    };
    let (start, end) = (LANES * panel, LANES * (panel + 1));
    if to < end {
        let seen = to.saturating_sub(start); // the window begins with the last `seen` zeros
        let window = EDGE[2 * LANES - seen..].first_chunk().expect("16 lanes remain");
        s.store(s.add(s.load(scores), s.load(window)), scores);
    }
    if from > start {
        let hidden = (from - start).min(LANES);
        let window = EDGE[LANES - hidden..].first_chunk().expect("16 lanes remain");
        s.store(s.add(s.load(scores), s.load(window)), scores);
    }
}

/// Turns scores into weights e^(score − max), multiplied by the value scales, and updates the maxima
/// and sums of the states. Returns the decay factor of each accumulator and the range of visible
/// positions, or `None` if no query sees a position.
#[inline(always)]
fn softmax_step<S: Simd, const M: usize>(
    s: S,
    scores: &mut [Scores; M],
    visible: &[(usize, usize)],
    states: &mut [f32],
    value: usize,
    v_scales: Option<&Scores>,
) -> Option<(Lanes, usize, usize)> {
    let (mut old, mut new) = ([0.0; LANES], [0.0; LANES]);
    let (mut first, mut last) = (BLOCK, 0);
    for (m, state) in states.chunks_exact(state_len(value)).enumerate() {
        let (from, to) = visible[m];
        if from < to {
            let mut top = s.splat(state[0]);
            for x in &scores[m] {
                top = s.max(top, s.load(x));
            }
            (old[m], new[m]) = (state[0], s.max_lane(top));
            (first, last) = (first.min(from), last.max(to));
        }
    }
    if first >= last {
        return None;
    }
    let mut decay = [0.0; LANES]; // e⁰ = 1 for queries that see no position
    s.store(exp(s, s.sub(s.load(&old), s.load(&new))), &mut decay);
    for (m, state) in states.chunks_exact_mut(state_len(value)).enumerate() {
        if visible[m].0 >= visible[m].1 {
            scores[m] = [[0.0; LANES]; BLOCK_PANELS];
            continue;
        }
        let (max, mut sum) = (s.splat(new[m]), s.splat(0.0));
        for (i, x) in scores[m].iter_mut().enumerate() {
            let p = exp(s, s.sub(s.load(x), max));
            sum = s.add(sum, p);
            let scaled = match v_scales {
                Some(scales) => s.mul(p, s.load(&scales[i])),
                None => p,
            };
            s.store(scaled, x);
        }
        state[1] = state[1] * decay[m] + s.sum(sum);
        state[0] = new[m];
    }
    Some((decay, first, last))
}

/// Arguments of `merge_spans`, which merges the state of the next span into that of all earlier spans.
#[derive(Debug)]
pub struct MergeSpans<'a> {
    /// State of the earlier spans; updated.
    pub state: &'a mut [f32],
    /// State of the next span.
    pub next: &'a [f32],
}

impl MergeSpans<'_> {
    pub(crate) fn check(&self) {
        assert!(self.state.len() == self.next.len() && self.state.len().is_multiple_of(LANES));
    }
}

#[inline(always)]
pub(crate) fn merge<S: Simd>(s: S, a: MergeSpans<'_>) {
    let max = if a.state[0] > a.next[0] { a.state[0] } else { a.next[0] };
    let left = s.first(exp(s, s.splat(a.state[0] - max)));
    let right = s.first(exp(s, s.splat(a.next[0] - max)));
    a.state[1] = a.state[1] * left + a.next[1] * right;
    a.state[0] = max;
    let (acc, next) = (&mut a.state[LANES..], &a.next[LANES..]);
    for (x, y) in acc.as_chunks_mut::<LANES>().0.iter_mut().zip(next.as_chunks::<LANES>().0) {
        let scaled = s.mul(s.load(x), s.splat(left));
        s.store(s.fma(s.load(y), s.splat(right), scaled), x);
    }
}

/// Arguments of `finish_head`, which computes a head's output from its final state.
#[derive(Debug)]
pub struct FinishHead<'a> {
    /// Final state.
    pub state: &'a [f32],
    /// A score whose position has no value: it enters the sum alone (Xiao et al., "Efficient Streaming Language
    /// Models with Attention Sinks", 2023). −∞ if there is none.
    pub sink: f32,
    /// accumulator / sum, as wide as a value.
    pub out: &'a mut [f32],
}

impl FinishHead<'_> {
    pub(crate) fn check(&self) {
        assert!(self.state.len() == self.out.len() + LANES && self.out.len().is_multiple_of(LANES));
    }
}

#[inline(always)]
pub(crate) fn finish<S: Simd>(s: S, a: FinishHead<'_>) {
    let (mut sum, mut scale) = (a.state[1], 1.0);
    if a.sink > f32::NEG_INFINITY {
        let max = if a.state[0] > a.sink { a.state[0] } else { a.sink };
        scale = s.first(exp(s, s.splat(a.state[0] - max)));
        sum = sum * scale + s.first(exp(s, s.splat(a.sink - max)));
    }
    let (sum, scale) = (s.splat(sum), s.splat(scale));
    let acc = a.state[LANES..].as_chunks::<LANES>().0;
    for (x, out) in acc.iter().zip(a.out.as_chunks_mut::<LANES>().0) {
        s.store(s.div(s.mul(s.load(x), scale), sum), out);
    }
}
