//! Softmax attention, one block of 64 positions at a time (Milakov and Gimelshein, "Online
//! normalizer calculation for softmax", 2018).
//!
//! One definition serves prefill, decode and any split over threads: blocks are aligned to
//! absolute positions and visited in order; a span of 512 positions starts a fresh state, and spans
//! are merged in order. So a token's output depends on what it sees, never on how it was scheduled.

use crate::isa::Simd;
use crate::math::exp;

/// Positions per cache block and step of the online softmax.
pub const BLOCK: usize = 64;
/// Positions per independent state; also the unit of splitting one head over threads.
pub const SPAN: usize = 512;

/// Arguments of `attend`: one query against one block of keys and values.
///
/// The state of a query is `[max, sum, 0…; accumulator]`: 16 + `head` floats, see
/// [`AttendBlock::reset`].
pub struct AttendBlock<'a> {
    /// Query after RoPE, `head` values.
    pub q: &'a [f32],
    /// Keys: 4 panels of 16 positions, `[4][head][16]`.
    pub k: &'a [f32],
    /// Values, `[64][head]`.
    pub v: &'a [f32],
    /// Head size padded to 16.
    pub head: usize,
    /// First visible position of the block.
    pub from: usize,
    /// One past the last visible position; more than `from`.
    pub to: usize,
    /// Factor on q·k.
    pub scale: f32,
    /// Running state.
    pub state: &'a mut [f32],
}

impl AttendBlock<'_> {
    pub(crate) fn check(&self) {
        let h = self.head;
        assert!(h.is_multiple_of(16) && self.q.len() == h && self.state.len() == 16 + h);
        assert!(self.k.len() == BLOCK * h && self.v.len() == BLOCK * h);
        assert!(self.from < self.to && self.to <= BLOCK);
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
    let mut scores = [[0.0f32; 16]; 4];
    score(s, &a, &mut scores);
    let (meta, acc) = a.state.split_at_mut(16);
    let mut top = s.splat(meta[0]);
    for x in &scores {
        top = s.max(top, s.load(x));
    }
    let max = s.max_lane(top);
    let decay = s.first(exp(s, s.splat(meta[0] - max)));
    let mut sum = s.splat(0.0);
    for x in &mut scores {
        let p = exp(s, s.sub(s.load(x), s.splat(max)));
        sum = s.add(sum, p);
        s.store(p, x);
    }
    meta[1] = meta[1] * decay + s.sum(sum);
    meta[0] = max;
    let p = scores.as_flattened();
    for (d, lanes) in acc.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let mut sum = s.mul(s.load(lanes), s.splat(decay));
        for (t, p) in (a.from..a.to).zip(&p[a.from..a.to]) {
            let v = a.v[t * a.head + 16 * d..].first_chunk().expect("checked");
            sum = s.fma(s.load(v), s.splat(*p), sum);
        }
        s.store(sum, lanes);
    }
}

/// scale · q·k for the visible positions, -∞ for the others.
#[inline(always)]
fn score<S: Simd>(s: S, a: &AttendBlock<'_>, scores: &mut [[f32; 16]; 4]) {
    for (i, (panel, out)) in a.k.chunks_exact(16 * a.head).zip(scores).enumerate() {
        let mut dot = s.splat(0.0);
        for (k, q) in panel.as_chunks::<16>().0.iter().zip(a.q) {
            dot = s.fma(s.load(k), s.splat(*q), dot);
        }
        s.store(s.mul(dot, s.splat(a.scale)), out);
        for (lane, x) in out.iter_mut().enumerate() {
            if !(a.from..a.to).contains(&(16 * i + lane)) {
                *x = f32::NEG_INFINITY;
            }
        }
    }
}

/// Arguments of `merge`: appends the state of a later span to that of the spans before it.
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

/// Arguments of `finish`: the head's output from its final state.
pub struct FinishHead<'a> {
    /// Final state.
    pub state: &'a [f32],
    /// accumulator / sum, `head` values.
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
