//! The loops behind [`crate::bench`], which only read or only multiply. Like every kernel, they are
//! compiled once per instruction set.

use std::hint::black_box;

use crate::gemm::with_tile;
use crate::isa::Simd;
use crate::layout::{LANES, LINE, Lanes, QUAD};

/// Reads memory and keeps the lane-wise maximum, so that no read can be optimized away.
#[derive(Debug)]
pub struct ReadLines<'a> {
    /// Memory to read, a multiple of 8 · 16 values.
    pub values: &'a [f32],
    /// Number of interleaved read streams: 1, 2, 4 or 8.
    pub streams: usize,
    /// Output: the maximum of each lane.
    pub out: &'a mut Lanes,
}

/// Multiplies operands from registers or the L1 cache, as the matrix product does.
#[derive(Debug)]
pub struct PeakDots<'a> {
    /// Number of 64-byte dot products, rounded up to whole tiles.
    pub dots: usize,
    /// Output: one of the sums.
    pub out: &'a mut Lanes,
}

impl ReadLines<'_> {
    pub(crate) fn check(&self) {
        assert!(self.values.len().is_multiple_of(8 * LANES));
        assert!(matches!(self.streams, 1 | 2 | 4 | 8));
    }
}

impl PeakDots<'_> {
    pub(crate) fn check(&self) {}
}

#[inline(always)]
pub(crate) fn read_lines<S: Simd>(s: S, a: ReadLines<'_>) {
    match a.streams {
        1 => streams::<S, 1, 8>(s, a),
        2 => streams::<S, 2, 4>(s, a),
        4 => streams::<S, 4, 2>(s, a),
        _ => streams::<S, 8, 1>(s, a),
    }
}

/// Reads `N` streams, `L` lines of each at a time, with one accumulator per line.
#[inline(always)]
fn streams<S: Simd, const N: usize, const L: usize>(s: S, a: ReadLines<'_>) {
    let lines = a.values.as_chunks::<LANES>().0;
    let each = lines.len() / N;
    let mut parts = [&lines[..0]; N];
    for n in 0..N {
        parts[n] = &lines[n * each..(n + 1) * each];
    }
    let mut acc = [[s.splat(0.0); L]; N];
    for at in (0..each).step_by(L) {
        for n in 0..N {
            let lines: &[Lanes; L] = parts[n][at..].first_chunk().expect("checked");
            for l in 0..L {
                acc[n][l] = s.max(s.load(&lines[l]), acc[n][l]);
            }
        }
    }
    let mut all = acc[0][0];
    for acc in acc.into_iter().flatten() {
        all = s.max(acc, all);
    }
    s.store(all, a.out);
}

/// Signed bytes that sum to zero, so that accumulators never overflow.
pub(crate) const ZERO_SUM: [i8; QUAD] = [3, -2, 1, -2];

/// Repeats one register tile of the matrix product.
#[inline(always)]
pub(crate) fn register_tile<S: Simd>(s: S, a: PeakDots<'_>) {
    with_tile!(S::TILE, dots::<S, 1>(s, a));
}

/// The operands pass through `black_box`; otherwise the compiler could hoist the work out of the loop.
#[inline(always)]
fn dots<S: Simd, const M: usize, const P: usize>(s: S, a: PeakDots<'_>) {
    const { assert!(P == 1) };
    let (line, quads) = ([0x85; LINE], [ZERO_SUM; M]);
    let mut acc = [s.seed(0); M];
    for _ in 0..a.dots.div_ceil(M) {
        let (line, quads) = (s.line(black_box(&line)), black_box(&quads));
        for m in 0..M {
            acc[m] = s.dot(acc[m], line, &quads[m]);
        }
    }
    let mut all = s.seed(0);
    for acc in acc {
        all = s.add_i32(all, acc);
    }
    s.store(s.to_f32(all), a.out);
}
