//! Softmax attention, one block of 64 positions at a time (Milakov and Gimelshein, "Online
//! normalizer calculation for softmax", 2018).
//!
//! One definition serves prefill, decode and any split over threads: blocks are aligned to
//! absolute positions and visited in order; a span of 512 positions starts a fresh state, and spans
//! are merged in order. So a token's output depends on what it sees, never on how it was scheduled.
//!
//! Several queries share a pass over a block (the heads of a query group, the tokens of a prompt):
//! keys and values are read once and used once per query, which is why grouped-query attention
//! costs what one head costs.

use crate::gemm::with_tile;
use crate::isa::Simd;
use crate::math::exp;
use crate::quantize::{quantize_values, rotate_block};

/// Positions per cache block and step of the online softmax.
pub const BLOCK: usize = 64;
/// Positions per independent state; also the unit of splitting one head over threads.
pub const SPAN: usize = 512;

/// One block of 64 positions of one KV head, in one of the cache's encodings. `h` is the head size
/// padded to 16. Keys lie in panels of 16 positions, like weights whose rows are positions; values
/// lie by position.
#[derive(Clone, Copy)]
pub enum KvBlock<'a> {
    /// 32-bit floats.
    F32 {
        /// `[4][h][16]`
        k: &'a [f32],
        /// `[64][h]`
        v: &'a [f32],
    },
    /// IEEE half precision, as bits.
    F16 {
        /// `[4][h][16]`
        k: &'a [u16],
        /// `[64][h]`
        v: &'a [u16],
    },
    /// 8 bits with a scale per position. Keys are rotated (see [`StoreKv`]), queries must be too.
    Q8 {
        /// Q8 panels, `[4][16 f32 scales, h/4 lines]`
        k: &'a [u8],
        /// `[64][h]`
        v: &'a [i8],
        /// `[64]`
        v_scales: &'a [f32],
    },
}

/// [`KvBlock`], to be written.
pub enum KvBlockMut<'a> {
    /// See [`KvBlock::F32`].
    F32 {
        /// `[4][h][16]`
        k: &'a mut [f32],
        /// `[64][h]`
        v: &'a mut [f32],
    },
    /// See [`KvBlock::F16`].
    F16 {
        /// `[4][h][16]`
        k: &'a mut [u16],
        /// `[64][h]`
        v: &'a mut [u16],
    },
    /// See [`KvBlock::Q8`].
    Q8 {
        /// `[4][16 f32 scales, h/4 lines]`
        k: &'a mut [u8],
        /// `[64][h]`
        v: &'a mut [i8],
        /// `[64]`
        v_scales: &'a mut [f32],
    },
}

/// Bytes of a Q8 key block.
pub const fn q8_key_block(head: usize) -> usize {
    BLOCK * (head + 4)
}

fn lens_fit(head: usize, k: usize, v: usize) -> bool {
    head > 0 && head.is_multiple_of(16) && k == BLOCK * head && v == BLOCK * head
}

/// Arguments of `store_kv`: one position of one KV head into its block.
pub struct StoreKv<'a> {
    /// Key after RoPE, `h` values; overwritten.
    pub key: &'a mut [f32],
    /// Value, `h` values; overwritten.
    pub value: &'a mut [f32],
    /// Position within the block.
    pub at: usize,
    /// Hadamard block keys are rotated by in an 8-bit cache: it divides the unpadded head size.
    pub rotation: usize,
    /// The block.
    pub to: KvBlockMut<'a>,
}

impl StoreKv<'_> {
    pub(crate) fn check(&self) {
        let head = self.key.len();
        assert!(self.at < BLOCK && self.value.len() == head);
        assert!(self.rotation.is_power_of_two() && self.rotation <= 64);
        assert!(match &self.to {
            KvBlockMut::F32 { k, v } => lens_fit(head, k.len(), v.len()),
            KvBlockMut::F16 { k, v } => lens_fit(head, k.len(), v.len()),
            KvBlockMut::Q8 { k, v, v_scales } => {
                v_scales.len() == BLOCK
                    && k.len() == q8_key_block(head)
                    && lens_fit(head, v.len(), v.len())
            }
        });
    }
}

#[inline(always)]
pub(crate) fn store_kv<S: Simd>(s: S, a: StoreKv<'_>) {
    let head = a.key.len();
    let (panel, lane) = (a.at / 16, a.at % 16);
    match a.to {
        KvBlockMut::F32 { k, v } => {
            let lines = k[panel * 16 * head..].as_chunks_mut::<16>().0;
            lines.iter_mut().zip(a.key).for_each(|(line, x)| line[lane] = *x);
            v[a.at * head..][..head].copy_from_slice(a.value);
        }
        KvBlockMut::F16 { k, v } => {
            let mut half = [0u16; 16];
            let lines = k[panel * 16 * head..].as_chunks_mut::<16>().0;
            for (lines, x) in lines.chunks_mut(16).zip(a.key.as_chunks::<16>().0) {
                s.store_f16(s.load(x), &mut half);
                lines.iter_mut().zip(half).for_each(|(line, x)| line[lane] = x);
            }
            let v = v[a.at * head..][..head].as_chunks_mut::<16>().0;
            for (to, x) in v.iter_mut().zip(a.value.as_chunks::<16>().0) {
                s.store_f16(s.load(x), to);
            }
        }
        KvBlockMut::Q8 { k, v, v_scales } => {
            rotate_block(s, a.key, a.rotation);
            let (scales, lines) = k[panel * 16 * (head + 4)..].split_at_mut(64);
            let (scale, _) = quantize_values(s, a.key, |i, quad| {
                for (to, q) in lines[i * 64 + 4 * lane..].iter_mut().zip(quad) {
                    *to = (q as u8) ^ 0x80;
                }
            });
            scales[4 * lane..4 * lane + 4].copy_from_slice(&scale.to_le_bytes());
            let v = &mut v[a.at * head..][..head];
            let (scale, _) = quantize_values(s, a.value, |i, quad| {
                v[4 * i..4 * i + 4].copy_from_slice(&quad);
            });
            v_scales[a.at] = scale;
        }
    }
}

/// Queries of a tile, all of one KV head.
#[derive(Clone, Copy)]
pub enum Queries<'a> {
    /// `[h][n]`, for float caches.
    F32(&'a [f32]),
    /// Rotated and quantized with one scale per query, for the 8-bit cache.
    Q8 {
        /// `[h/4][n][4]`
        q: &'a [i8],
        /// `[n]`
        scales: &'a [f32],
        /// Σ q, `[n]`
        sums: &'a [i32],
    },
}

/// Arguments of `pack_query`: one query into its tile.
pub struct PackQuery<'a> {
    /// Query after RoPE, `h` values; overwritten.
    pub x: &'a mut [f32],
    /// Its place in the tile.
    pub row: usize,
    /// Queries in the tile.
    pub n: usize,
    /// As in [`StoreKv`].
    pub rotation: usize,
    /// The tile.
    pub to: QueriesMut<'a>,
}

/// [`Queries`], to be written.
pub enum QueriesMut<'a> {
    /// See [`Queries::F32`].
    F32(&'a mut [f32]),
    /// See [`Queries::Q8`].
    Q8 {
        /// `[h/4][n][4]`
        q: &'a mut [i8],
        /// `[n]`
        scales: &'a mut [f32],
        /// `[n]`
        sums: &'a mut [i32],
    },
}

impl PackQuery<'_> {
    pub(crate) fn check(&self) {
        assert!(self.row < self.n && self.x.len().is_multiple_of(16));
        assert!(self.rotation.is_power_of_two() && self.rotation <= 64);
        assert!(match &self.to {
            QueriesMut::F32(q) => q.len() == self.n * self.x.len(),
            QueriesMut::Q8 { q, scales, sums } => {
                q.len() == self.n * self.x.len() && scales.len() == self.n && sums.len() == self.n
            }
        });
    }
}

#[inline(always)]
pub(crate) fn pack_query<S: Simd>(s: S, a: PackQuery<'_>) {
    match a.to {
        QueriesMut::F32(q) => {
            q.chunks_exact_mut(a.n).zip(a.x).for_each(|(to, x)| to[a.row] = *x);
        }
        QueriesMut::Q8 { q, scales, sums } => {
            rotate_block(s, a.x, a.rotation);
            let (scale, sum) = quantize_values(s, a.x, |i, quad| {
                q[(i * a.n + a.row) * 4..][..4].copy_from_slice(&quad);
            });
            (scales[a.row], sums[a.row]) = (scale, sum);
        }
    }
}

/// Arguments of `attend`: a tile of queries against one block.
///
/// The state of a query is `[max, sum, 0…; accumulator]`: 16 + `h` floats, see
/// [`AttendBlock::reset`].
pub struct AttendBlock<'a> {
    /// The queries.
    pub queries: Queries<'a>,
    /// The block.
    pub block: KvBlock<'a>,
    /// Head size padded to 16.
    pub head: usize,
    /// Visible positions of the block, from and to, per query. A query that sees none is skipped.
    pub visible: &'a [(usize, usize)],
    /// Factor on q·k.
    pub scale: f32,
    /// Running states, `[n][16 + h]`.
    pub states: &'a mut [f32],
}

impl AttendBlock<'_> {
    pub(crate) fn check(&self) {
        let (h, n) = (self.head, self.visible.len());
        assert!(n > 0 && n <= crate::MAX_TILE && self.states.len() == n * (16 + h));
        assert!(self.visible.iter().all(|(_, to)| *to <= BLOCK));
        let queries_fit = match self.queries {
            Queries::F32(q) => q.len() == n * h,
            Queries::Q8 { q, scales, sums } => {
                q.len() == n * h && scales.len() == n && sums.len() == n
            }
        };
        let block_fits = match self.block {
            KvBlock::F32 { k, v } => lens_fit(h, k.len(), v.len()),
            KvBlock::F16 { k, v } => lens_fit(h, k.len(), v.len()),
            KvBlock::Q8 { k, v, v_scales } => {
                let (k_fits, s_fits) = (k.len() == q8_key_block(h), v_scales.len() == BLOCK);
                k_fits && s_fits && lens_fit(h, v.len(), v.len())
            }
        };
        assert!(queries_fit && block_fits);
    }

    /// A state that has seen nothing.
    pub fn reset(state: &mut [f32]) {
        state.fill(0.0);
        state[0] = f32::NEG_INFINITY;
    }

    /// Floats of a state.
    pub const fn state_len(head: usize) -> usize {
        16 + head
    }
}

#[inline(always)]
pub(crate) fn attend<S: Simd>(s: S, a: AttendBlock<'_>) {
    with_tile!(a.visible.len(), attend_tile::<S, 1>(s, a));
}

#[inline(always)]
pub(crate) fn attend_tile<S: Simd, const M: usize, const P: usize>(s: S, a: AttendBlock<'_>) {
    if M > S::TILE {
        unreachable!("a tile has at most {} queries", S::TILE);
    }
    let mut p = [[[0.0f32; 16]; 4]; M];
    match (a.queries, a.block) {
        (Queries::Q8 { q, scales, sums }, KvBlock::Q8 { k, .. }) => {
            scores_q8::<S, M>(s, q, scales, sums, k, &a, &mut p);
        }
        (Queries::F32(q), KvBlock::F32 { k, .. }) => {
            scores::<S, M, f32>(s, q, k, &a, &mut p, |line| s.load(line));
        }
        (Queries::F32(q), KvBlock::F16 { k, .. }) => {
            scores::<S, M, u16>(s, q, k, &a, &mut p, |line| s.load_f16(line));
        }
        _ => panic!("queries are packed for another cache"),
    }
    let mut decay = [1.0f32; M];
    let (mut first, mut last) = (BLOCK, 0);
    for (m, state) in a.states.chunks_exact_mut(16 + a.head).enumerate() {
        let (from, to) = a.visible[m];
        if from < to {
            decay[m] = softmax_step(s, &mut p[m], state);
            (first, last) = (first.min(from), last.max(to));
        } else {
            p[m] = [[0.0; 16]; 4];
        }
    }
    if first >= last {
        return;
    }
    if let KvBlock::Q8 { v_scales, .. } = a.block {
        for p in &mut p {
            for (p, scale) in p.iter_mut().zip(v_scales.as_chunks::<16>().0) {
                s.store(s.mul(s.load(p), s.load(scale)), p);
            }
        }
    }
    let p = std::array::from_fn(|m| p[m].as_flattened().first_chunk().expect("a block"));
    let seen = (first, last);
    match a.block {
        KvBlock::F32 { v, .. } => {
            values::<S, M, f32>(s, v, p, decay, seen, a.head, a.states, |x| s.load(x));
        }
        KvBlock::F16 { v, .. } => {
            values::<S, M, u16>(s, v, p, decay, seen, a.head, a.states, |x| s.load_f16(x));
        }
        KvBlock::Q8 { v, .. } => {
            values::<S, M, i8>(s, v, p, decay, seen, a.head, a.states, |x| s.load_i8(x));
        }
    }
}

/// scale · q·k for the visible positions, -∞ for the others.
#[inline(always)]
fn scores<S: Simd, const M: usize, T>(
    s: S,
    q: &[f32],
    k: &[T],
    a: &AttendBlock<'_>,
    out: &mut [[[f32; 16]; 4]; M],
    load: impl Fn(&[T; 16]) -> S::F,
) {
    let q = q.as_chunks::<M>().0;
    for (i, panel) in k.chunks_exact(16 * a.head).enumerate() {
        let mut dot = [s.splat(0.0); M];
        for (line, q) in panel.as_chunks::<16>().0.iter().zip(q) {
            let line = load(line);
            for m in 0..M {
                dot[m] = s.fma(line, s.splat(q[m]), dot[m]);
            }
        }
        for m in 0..M {
            s.store(s.mul(dot[m], s.splat(a.scale)), &mut out[m][i]);
            mask(&mut out[m][i], i, a.visible[m]);
        }
    }
}

/// The same in integers: f32(q·k) · key scale · (query scale · scale).
#[inline(always)]
fn scores_q8<S: Simd, const M: usize>(
    s: S,
    q: &[i8],
    scales: &[f32],
    sums: &[i32],
    k: &[u8],
    a: &AttendBlock<'_>,
    out: &mut [[[f32; 16]; 4]; M],
) {
    let quads = q.as_chunks::<4>().0.as_chunks::<M>().0;
    for (i, panel) in k.chunks_exact(16 * (a.head + 4)).enumerate() {
        let (key_scales, lines) = panel.as_chunks::<64>().0.split_first().expect("a panel");
        let mut dot = [s.seed(0); M];
        for m in 0..M {
            dot[m] = s.seed(sums[m]);
        }
        for (line, quad) in lines.iter().zip(quads) {
            let line = s.line(line);
            for m in 0..M {
                dot[m] = s.dot(dot[m], line, &quad[m]);
            }
        }
        let key_scales = s.load(&crate::gemm::scales_line(key_scales));
        for m in 0..M {
            let x = s.mul(s.to_f32(dot[m]), key_scales);
            s.store(s.mul(x, s.splat(scales[m] * a.scale)), &mut out[m][i]);
            mask(&mut out[m][i], i, a.visible[m]);
        }
    }
}

#[inline(always)]
fn mask(scores: &mut [f32; 16], panel: usize, (from, to): (usize, usize)) {
    if from <= 16 * panel && 16 * panel + 16 <= to {
        return;
    }
    for (lane, x) in scores.iter_mut().enumerate() {
        if !(from..to).contains(&(16 * panel + lane)) {
            *x = f32::NEG_INFINITY;
        }
    }
}

/// Scores to weights e^(score − max); updates max and sum of the state, returns what the
/// accumulator must be multiplied by.
#[inline(always)]
fn softmax_step<S: Simd>(s: S, scores: &mut [[f32; 16]; 4], state: &mut [f32]) -> f32 {
    let mut top = s.splat(state[0]);
    for x in scores.iter() {
        top = s.max(top, s.load(x));
    }
    let max = s.max_lane(top);
    let decay = s.first(exp(s, s.splat(state[0] - max)));
    let mut sum = s.splat(0.0);
    for x in scores {
        let p = exp(s, s.sub(s.load(x), s.splat(max)));
        sum = s.add(sum, p);
        s.store(p, x);
    }
    state[1] = state[1] * decay + s.sum(sum);
    state[0] = max;
    decay
}

/// accumulator = accumulator · decay + Σₜ weight[t] · v[t], t ascending. Weights of positions a
/// query does not see are zero, which changes nothing.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn values<S: Simd, const M: usize, T>(
    s: S,
    v: &[T],
    p: [&[f32; BLOCK]; M],
    decay: [f32; M],
    (first, last): (usize, usize),
    head: usize,
    states: &mut [f32],
    load: impl Fn(&[T; 16]) -> S::F,
) {
    for d in (0..head).step_by(16) {
        let at = |m: usize| m * (16 + head) + 16 + d;
        let mut acc = [s.splat(0.0); M];
        for m in 0..M {
            let before = s.load(states[at(m)..].first_chunk().expect("checked"));
            acc[m] = s.mul(before, s.splat(decay[m]));
        }
        for (t, v) in (first..last).zip(v[first * head + d..].chunks(head)) {
            let v = load(v.first_chunk().expect("checked"));
            for m in 0..M {
                acc[m] = s.fma(v, s.splat(p[m][t]), acc[m]);
            }
        }
        for m in 0..M {
            s.store(acc[m], states[at(m)..].first_chunk_mut().expect("checked"));
        }
    }
}

/// Arguments of `merge_spans`: appends the state of a later span to that of the spans before it.
pub struct MergeSpans<'a> {
    /// State of the earlier spans, updated.
    pub state: &'a mut [f32],
    /// State of the next span.
    pub next: &'a [f32],
}

impl MergeSpans<'_> {
    pub(crate) fn check(&self) {
        assert!(self.state.len() == self.next.len() && self.state.len().is_multiple_of(16));
    }
}

#[inline(always)]
pub(crate) fn merge<S: Simd>(s: S, a: MergeSpans<'_>) {
    let max = if a.state[0] > a.next[0] { a.state[0] } else { a.next[0] };
    let left = s.first(exp(s, s.splat(a.state[0] - max)));
    let right = s.first(exp(s, s.splat(a.next[0] - max)));
    a.state[1] = a.state[1] * left + a.next[1] * right;
    a.state[0] = max;
    let (acc, next) = (&mut a.state[16..], &a.next[16..]);
    for (x, y) in acc.as_chunks_mut::<16>().0.iter_mut().zip(next.as_chunks::<16>().0) {
        let scaled = s.mul(s.load(x), s.splat(left));
        s.store(s.fma(s.load(y), s.splat(right), scaled), x);
    }
}

/// Arguments of `finish_head`: the head's output from its final state.
pub struct FinishHead<'a> {
    /// Final state.
    pub state: &'a [f32],
    /// accumulator / sum, `h` values.
    pub out: &'a mut [f32],
}

impl FinishHead<'_> {
    pub(crate) fn check(&self) {
        assert!(self.state.len() == self.out.len() + 16 && self.out.len().is_multiple_of(16));
    }
}

#[inline(always)]
pub(crate) fn finish<S: Simd>(s: S, a: FinishHead<'_>) {
    let sum = s.splat(a.state[1]);
    let acc = a.state[16..].as_chunks::<16>().0;
    for (x, out) in acc.iter().zip(a.out.as_chunks_mut::<16>().0) {
        s.store(s.div(s.load(x), sum), out);
    }
}
