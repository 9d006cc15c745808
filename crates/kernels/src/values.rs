//! The second half of attention: the weighted sum of values.

use std::ops::Range;

use crate::isa::codes::Codes;
use crate::kv::{BLOCK, KvBlock, Stored};
use crate::layout::{LANES, LINE, Lanes};
use crate::quantize::KV_LEVELS;

/// Length of a query's state, `[max, sum, 0…; accumulator]`, in floats.
pub(crate) const fn state_len(value: usize) -> usize {
    LANES + value
}

/// How the values of a block are added to the accumulators of `M` queries.
pub(crate) struct WeightedBlock<'a, const M: usize> {
    /// Weights of the positions, per query.
    pub weights: [&'a [f32; BLOCK]; M],
    /// Factor applied to each accumulator before the addition.
    pub decay: Lanes,
    /// Positions visible to at least one query.
    pub seen: Range<usize>,
    /// Width of a value, padded to 16.
    pub width: usize,
    /// The block that will be read next.
    pub next: Option<KvBlock<'a>>,
}

/// Prefetches line `i` of a block's keys, followed by its values.
#[inline(always)]
fn prefetch_line<S: Codes>(s: S, block: KvBlock<'_>, i: usize) {
    match block {
        KvBlock::F32 { k, v } => prefetch_line_of(s, k, v, i),
        KvBlock::F16 { k, v } => prefetch_line_of(s, k, v, i),
        KvBlock::Q8 { k, v, .. } => prefetch_line_of(s, k, v, i),
        KvBlock::Q4 { k, v, .. } => prefetch_line_of(s, k, v, i),
    }
}

#[inline(always)]
fn prefetch_line_of<S: Codes, K, V>(s: S, k: &[K], v: &[V], i: usize) {
    let of_keys = size_of_val(k) / LINE;
    if let Some(x) = k.get(i * (LINE / size_of::<K>())) {
        s.prefetch_near(x);
    } else if let Some(x) = v.get((i - of_keys) * (LINE / size_of::<V>())) {
        s.prefetch_near(x);
    }
}

/// Element type of stored values.
pub(crate) trait StoredValue: Copy {
    /// Chunks of 16 elements for one position, of `registers` · 16 values.
    fn chunks(registers: usize) -> usize;

    /// The registers from `d` on of the position whose first chunk is `at`.
    fn registers<S: Codes, const D: usize>(
        s: S,
        levels: S::Floats,
        v: &[[Self; LANES]],
        at: usize,
        d: usize,
    ) -> [S::F; D];
}

impl<T: Stored> StoredValue for T {
    #[inline(always)]
    fn chunks(registers: usize) -> usize {
        registers
    }

    #[inline(always)]
    fn registers<S: Codes, const D: usize>(
        s: S,
        _levels: S::Floats,
        v: &[[T; LANES]],
        at: usize,
        d: usize,
    ) -> [S::F; D] {
        let v: &[[T; LANES]; D] = v[at + d..].first_chunk().expect("checked");
        let mut lanes = [s.splat(0.0); D];
        for i in 0..D {
            lanes[i] = T::load(s, &v[i]);
        }
        lanes
    }
}

/// Two values of a 4-bit cache; their scales are folded into the attention weights.
impl StoredValue for u8 {
    #[inline(always)]
    fn chunks(registers: usize) -> usize {
        registers.div_ceil(2)
    }

    #[inline(always)]
    fn registers<S: Codes, const D: usize>(
        s: S,
        levels: S::Floats,
        v: &[[u8; LANES]],
        at: usize,
        d: usize,
    ) -> [S::F; D] {
        let mut lanes = [s.splat(0.0); D];
        for i in 0..D {
            let codes = &v[at + (d + i) / 2];
            lanes[i] = if (d + i).is_multiple_of(2) {
                s.nibble_floats::<false>(levels, codes)
            } else {
                s.nibble_floats::<true>(levels, codes)
            };
        }
        lanes
    }
}

/// accumulator = accumulator · decay + Σₜ weight[t] · v[t], t ascending. Hidden positions have weight
/// zero and leave the sum unchanged.
#[inline(always)]
pub(crate) fn add_values<S: Codes, const M: usize, T: StoredValue>(
    s: S,
    v: &[T],
    block: &WeightedBlock<'_, M>,
    states: &mut [f32],
) {
    let registers = block.width / LANES;
    let mut d = 0;
    while d + S::VALUES <= registers {
        match S::VALUES {
            2 => value_lanes::<S, M, 2, T>(s, v, block, d, states),
            _ => value_lanes::<S, M, 1, T>(s, v, block, d, states),
        }
        d += S::VALUES;
    }
    if d < registers {
        value_lanes::<S, M, 1, T>(s, v, block, d, states);
    }
}

/// Processes `D` registers of every query, starting at register `d`.
#[inline(always)]
fn value_lanes<S: Codes, const M: usize, const D: usize, T: StoredValue>(
    s: S,
    v: &[T],
    block: &WeightedBlock<'_, M>,
    d: usize,
    states: &mut [f32],
) {
    let v = v.as_chunks::<LANES>().0;
    let row = T::chunks(block.width / LANES);
    let levels = s.float_levels(&KV_LEVELS);
    let weights = &block.weights;
    let state_len = state_len(block.width);
    let mut acc = [[s.splat(0.0); D]; M];
    for (state, (acc, decay)) in states.chunks_exact(state_len).zip(acc.iter_mut().zip(block.decay))
    {
        let state: &[Lanes; D] = state.as_chunks().0[1 + d..].first_chunk().expect("checked");
        for i in 0..D {
            acc[i] = s.mul(s.load(&state[i]), s.splat(decay));
        }
    }
    for t in block.seen.clone() {
        if let Some(next) = block.next {
            prefetch_line(s, next, d / D * BLOCK + t);
        }
        let lanes: [S::F; D] = T::registers(s, levels, v, t * row, d);
        for m in 0..M {
            let weight = s.splat(weights[m][t % BLOCK]);
            for i in 0..D {
                acc[m][i] = s.fma(lanes[i], weight, acc[m][i]);
            }
        }
    }
    for (state, acc) in states.chunks_exact_mut(state_len).zip(acc) {
        let state: &mut [Lanes; D] =
            state.as_chunks_mut().0[1 + d..].first_chunk_mut().expect("checked");
        for i in 0..D {
            s.store(acc[i], &mut state[i]);
        }
    }
}
