//! From logits to a token: penalties, top-k, top-p, min-p, temperature, in that order.

mod counts;

use nanoinfer_format::{Generation, LANES};
use nanoinfer_kernels::{ExpWeights, Kernels};

use crate::pool::Buffers;
use counts::Counts;

/// How to choose the next token. The default is greedy: always the most likely token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 = greedy; 1 = the model's distribution; higher = flatter.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 = all.
    pub top_k: usize,
    /// Keep the smallest set of most likely tokens with at least this probability; 1 = all.
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the most likely token; 0 = all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of every token in the context; 1 = off.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of every generated token; 0 = off.
    pub presence_penalty: f32,
    /// Subtracted from the logit of a generated token once per occurrence; 0 = off.
    pub frequency_penalty: f32,
    /// Equal seeds give equal text.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// The model's defaults; greedy if it specifies no temperature.
    pub fn of(generation: &Generation) -> Self {
        let g = generation;
        Self {
            temperature: g.temperature.map_or(0.0, |t| t as f32),
            top_k: g.top_k.map_or(0, |k| k as usize),
            top_p: g.top_p.map_or(1.0, |p| p as f32),
            min_p: g.min_p.map_or(0.0, |p| p as f32),
            repetition_penalty: g.repetition_penalty.map_or(1.0, |p| p as f32),
            ..Self::default()
        }
    }
}

/// A candidate for a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its id.
    pub id: u32,
    /// Its probability according to the model.
    pub probability: f32,
}

/// A token to draw from.
#[derive(Clone, Copy)]
struct Weighted {
    logit: f32,
    weight: f32,
    id: u32,
}

/// The logits of a pass, in the output layer's layout: `[vocab/16][rows][16]`.
#[derive(Clone, Copy)]
pub(crate) struct LogitRows<'a> {
    pub kernels: &'a Kernels,
    pub values: &'a [f32],
    pub rows: usize,
}

impl LogitRows<'_> {
    /// Copies a row. Returns false if any logit is not finite.
    pub(crate) fn copy(&self, row: usize, to: &mut [f32]) -> bool {
        let panels = self.values.chunks_exact(self.rows * LANES);
        for (to, panel) in to.chunks_mut(LANES).zip(panels) {
            to.copy_from_slice(&panel[row * LANES..][..to.len()]);
        }
        to.iter().all(|x| x.is_finite())
    }
}

/// Scratch for drawing a token, as large as the vocabulary; one per worker.
pub(crate) struct DrawScratch {
    logits: Vec<f32>,          // [vocab]
    weights: Vec<f32>,         // [vocab]
    candidates: Vec<Weighted>, // at most vocab
}

impl DrawScratch {
    pub(crate) fn new(b: &mut Buffers<'_>, vocab: usize) -> Self {
        Self { logits: b.own(vocab), weights: b.own(vocab), candidates: b.list(vocab) }
    }
}

/// A sequence's sampling parameters, and the token counts for its penalties.
pub(crate) struct Sampler {
    pub sampling: Sampling,
    counts: Counts,
}

impl Sampler {
    /// For contexts of up to `capacity` tokens. Allocates all memory.
    pub(crate) fn new(vocab: usize, capacity: usize) -> Self {
        Self { sampling: Sampling::default(), counts: Counts::new(vocab.min(capacity)) }
    }

    /// Starts an answer to `prompt`, resetting the counts for penalties.
    pub(crate) fn restart(&mut self, prompt: &[u32]) {
        self.counts.clear();
        for &id in prompt {
            self.counts.add(id, 0);
        }
    }

    /// Counts a generated token. Returns whether it was new to the context.
    pub(crate) fn push(&mut self, id: u32) -> bool {
        self.counts.add(id, 1)
    }

    /// Undoes the last [`Self::push`], which returned `new`.
    pub(crate) fn pop(&mut self, id: u32, new: bool) {
        self.counts.undo(id, new);
    }

    /// Draws the token at `position` of the sequence from a row of logits; `None` if they are not
    /// finite. The random number depends only on seed and position, so draws are repeatable.
    pub(crate) fn draw(
        &self,
        rows: LogitRows<'_>,
        row: usize,
        position: usize,
        scratch: &mut DrawScratch,
    ) -> Option<u32> {
        if !rows.copy(row, &mut scratch.logits) {
            return None;
        }
        self.penalize(&mut scratch.logits);
        Some(self.choose(rows.kernels, position, scratch))
    }

    /// Chooses among the logits in the scratch.
    fn choose(&self, kernels: &Kernels, position: usize, scratch: &mut DrawScratch) -> u32 {
        let DrawScratch { logits, weights, candidates } = scratch;
        let best = argmax(logits);
        if self.sampling.temperature <= 0.0 {
            return best;
        }
        let max = logits[best as usize];
        let s = self.sampling;
        let uniform = uniform(s.seed, position as u64);
        let all = (s.top_k == 0 || s.top_k >= logits.len()) && s.top_p >= 1.0 && s.min_p <= 0.0;
        let scale = if all { 1.0 / s.temperature } else { 1.0 };
        kernels.exp_weights(ExpWeights { logits, max, scale, out: weights });
        if all {
            return pick(weights.iter().zip(0..).map(|(&w, id)| (w, id)), uniform, best);
        }
        truncate(&s, logits, weights, candidates);
        for c in candidates.iter_mut() {
            let (logits, scale) = (&[c.logit], 1.0 / s.temperature);
            let mut out = [0.0];
            kernels.exp_weights(ExpWeights { logits, max, scale, out: &mut out });
            c.weight = out[0];
        }
        pick(candidates.iter().map(|c| (c.weight, c.id)), uniform, best)
    }

    /// The `n` most likely tokens of a row of logits after penalties, ties by id; empty if the logits
    /// are not finite.
    pub(crate) fn top(
        &self,
        rows: LogitRows<'_>,
        row: usize,
        n: usize,
        scratch: &mut DrawScratch,
    ) -> Vec<Candidate> {
        let DrawScratch { logits, weights, .. } = scratch;
        if !rows.copy(row, logits) {
            return Vec::new();
        }
        self.penalize(logits);
        let max = logits[argmax(logits) as usize];
        rows.kernels.exp_weights(ExpWeights { logits, max, scale: 1.0, out: weights });
        let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        let mut top: Vec<(f32, u32)> = Vec::with_capacity(n + 1);
        for (&weight, id) in weights.iter().zip(0..) {
            if top.len() == n && top.last().is_none_or(|(least, _)| weight <= *least) {
                continue;
            }
            let at = top.partition_point(|(w, _)| *w >= weight);
            top.insert(at, (weight, id));
            top.truncate(n);
        }
        let probability = |weight| (f64::from(weight) / total) as f32;
        top.iter().map(|&(w, id)| Candidate { id, probability: probability(w) }).collect()
    }

    fn penalize(&self, logits: &mut [f32]) {
        let s = &self.sampling;
        if (s.repetition_penalty, s.presence_penalty, s.frequency_penalty) == (1.0, 0.0, 0.0) {
            return;
        }
        for &(id, count) in &self.counts.entries {
            let x = &mut logits[id as usize];
            *x = if *x > 0.0 { *x / s.repetition_penalty } else { *x * s.repetition_penalty };
            if count > 0 {
                *x -= s.presence_penalty + s.frequency_penalty * count as f32;
            }
        }
    }
}

/// Candidates after top-k, top-p and min-p, most likely first, ties by id.
///
/// Sorting the whole vocabulary would cost more than the output layer, so only tokens above a
/// threshold are gathered, which is lowered until they are certain to include the result.
fn truncate(s: &Sampling, logits: &[f32], weights: &[f32], candidates: &mut Vec<Weighted>) {
    let k = if s.top_k == 0 { logits.len() } else { s.top_k.min(logits.len()) };
    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    let mut threshold = 0.01f32;
    loop {
        candidates.clear();
        let kept = weights.iter().zip(logits).zip(0..).filter(|((w, _), _)| **w >= threshold);
        candidates.extend(kept.map(|((&weight, &logit), id)| Weighted { logit, weight, id }));
        let mass: f64 = candidates.iter().map(|c| f64::from(c.weight)).sum();
        // Complete at k tokens for top-k, else at the probability of top-p or the threshold of min-p.
        let enough = candidates.len() >= k
            || (s.top_k == 0 && s.top_p < 1.0 && mass >= f64::from(s.top_p) * total)
            || threshold <= s.min_p
            || threshold == 0.0;
        if enough {
            break;
        }
        threshold = if threshold < 1e-30 { 0.0 } else { threshold * 1e-3 };
    }
    candidates.sort_unstable_by(|a, b| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id)));
    candidates.truncate(k);
    if s.top_p < 1.0 {
        let mass = match s.top_k {
            0 => total,
            _ => candidates.iter().map(|c| f64::from(c.weight)).sum(),
        };
        let mut sum = 0.0;
        let reached = candidates.iter().position(|c| {
            sum += f64::from(c.weight);
            sum >= f64::from(s.top_p) * mass
        });
        candidates.truncate(reached.map_or(candidates.len(), |i| i + 1));
    }
    let floor = s.min_p * candidates.first().map_or(0.0, |c| c.weight);
    candidates.retain(|c| c.weight >= floor);
}

/// The first token at which the cumulative weight exceeds the share `uniform` of the total.
fn pick(weights: impl Iterator<Item = (f32, u32)> + Clone, uniform: f64, fallback: u32) -> u32 {
    let total: f64 = weights.clone().map(|(w, _)| f64::from(w)).sum();
    let mut left = uniform * total;
    for (w, id) in weights {
        left -= f64::from(w);
        if left < 0.0 {
            return id;
        }
    }
    fallback // reached only by rounding
}

/// Index of the largest logit, the lowest on ties.
pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, x) in logits.iter().enumerate() {
        if *x > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// A number in [0, 1) that depends only on seed and position: SplitMix64 (Steele, Lea and Flood, 2014)
/// as a counter-based generator.
pub(crate) fn uniform(seed: u64, position: u64) -> f64 {
    let scramble = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
    let key = scramble(seed.wrapping_add(GAMMA));
    let bits = scramble(key.wrapping_add(position.wrapping_mul(GAMMA)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::pool::Pool;

    fn sampler(sampling: Sampling) -> Sampler {
        Sampler { sampling, ..Sampler::new(1000, 100) }
    }

    fn scratch(vocab: usize) -> DrawScratch {
        let pool = Pool::new(1).unwrap();
        DrawScratch::new(&mut Buffers::of(&pool), vocab)
    }

    fn rows(values: &[f32], rows: usize) -> LogitRows<'_> {
        static KERNELS: LazyLock<Kernels> = LazyLock::new(Kernels::best);
        LogitRows { kernels: &KERNELS, values, rows }
    }

    /// Logits in the layout of a pass with one row.
    fn row(logits: &[f32]) -> Vec<f32> {
        let mut values = logits.to_vec();
        values.resize(logits.len().next_multiple_of(LANES), f32::NAN); // padding must be ignored
        values
    }

    fn draw(s: &Sampler, logits: &[f32], position: usize) -> u32 {
        let values = row(logits);
        s.draw(rows(&values, 1), 0, position, &mut scratch(logits.len())).unwrap()
    }

    /// Frequencies of 20,000 draws.
    fn frequencies(sampling: Sampling, logits: &[f32]) -> Vec<f64> {
        let s = sampler(sampling);
        let values = row(logits);
        let mut scratch = scratch(logits.len());
        let rows = rows(&values, 1);
        let mut counts = vec![0.0; logits.len()];
        for position in 0..20_000 {
            let id = s.draw(rows, 0, position, &mut scratch).unwrap();
            counts[id as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -3.0];

    fn softmax(temperature: f64, keep: &[usize]) -> Vec<f64> {
        let exp = |i: usize| (f64::from(LOGITS[i]) / temperature).exp();
        let weight = |i: usize| if keep.contains(&i) { exp(i) } else { 0.0 };
        let sum: f64 = (0..5).map(weight).sum();
        (0..5).map(|i| weight(i) / sum).collect()
    }

    #[track_caller]
    fn assert_near(got: &[f64], want: &[f64]) {
        // Four standard deviations of a frequency over 20,000 draws.
        assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 0.0142), "{got:?} {want:?}");
        assert!(got.iter().zip(want).all(|(g, w)| *w > 0.0 || *g == 0.0), "{got:?} {want:?}");
    }

    #[test]
    fn greedy_takes_the_lowest_of_equal_logits() {
        assert_eq!(draw(&sampler(Sampling::default()), &LOGITS, 0), 1);
    }

    #[test]
    fn each_filter_leaves_the_right_distribution() {
        let base = Sampling { temperature: 1.0, seed: 7, ..Sampling::default() };
        let all = [0, 1, 2, 3, 4];
        assert_near(&frequencies(base, &LOGITS), &softmax(1.0, &all));
        let hot = Sampling { temperature: 2.0, ..base };
        assert_near(&frequencies(hot, &LOGITS), &softmax(2.0, &all));
        let k = Sampling { top_k: 3, ..base };
        assert_near(&frequencies(k, &LOGITS), &softmax(1.0, &[1, 2, 3]));
        // Two equal tokens have 81 % together: 0.5 needs both, 0.3 only the first.
        let p = Sampling { top_p: 0.5, ..base };
        assert_near(&frequencies(p, &LOGITS), &softmax(1.0, &[1, 3]));
        let p = Sampling { top_p: 0.3, ..base };
        assert_near(&frequencies(p, &LOGITS), &softmax(1.0, &[1]));
        let m = Sampling { min_p: 0.3, ..base };
        assert_near(&frequencies(m, &LOGITS), &softmax(1.0, &[1, 2, 3]));
        let both = Sampling { top_k: 3, top_p: 0.9, temperature: 2.0, ..base };
        assert_near(&frequencies(both, &LOGITS), &softmax(2.0, &[1, 2, 3]));
    }

    #[test]
    fn top_is_sorted_and_has_the_models_probabilities() {
        let s = sampler(Sampling { temperature: 0.3, top_k: 1, ..Sampling::default() });
        let (values, mut scratch) = (row(&LOGITS), scratch(5));
        let rows = rows(&values, 1);
        let mut top_of = |n| s.top(rows, 0, n, &mut scratch);
        let top = top_of(3);
        assert_eq!(top.iter().map(|c| c.id).collect::<Vec<_>>(), [1, 3, 2]);
        let want = softmax(1.0, &[0, 1, 2, 3, 4]);
        assert!(top.iter().all(|c| (f64::from(c.probability) - want[c.id as usize]).abs() < 1e-6));
        assert_eq!(top_of(9).len(), 5);
        assert!(top_of(0).is_empty());
    }

    #[test]
    fn filters_work_on_a_flat_distribution() {
        let logits: Vec<f32> = (0..1000).map(|i| (i % 10) as f32 * -9.0).collect();
        let s = sampler(Sampling { temperature: 1.0, top_k: 450, ..Sampling::default() });
        let (values, mut scratch) = (row(&logits), scratch(1000));
        s.draw(rows(&values, 1), 0, 0, &mut scratch).unwrap();
        let ids: Vec<u32> = scratch.candidates.iter().map(|c| c.id).collect();
        let mut want: Vec<u32> = (0..1000).collect();
        want.sort_by_key(|i| (i % 10, *i));
        assert_eq!(ids, want[..450]);
    }

    #[test]
    fn penalties_apply_to_the_right_tokens() {
        let s = Sampling {
            repetition_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            ..Sampling::default()
        };
        let mut s = sampler(s);
        s.restart(&[1, 4]);
        s.push(3);
        s.push(3);
        let mut logits = LOGITS.to_vec();
        s.penalize(&mut logits);
        assert_eq!(logits, [0.0, 1.0, 1.0, 0.0, -6.0]);
        let pushed = [(4, s.push(4)), (2, s.push(2)), (2, s.push(2))];
        assert_eq!(pushed.map(|(_, new)| new), [false, true, false]);
        pushed.iter().rev().for_each(|&(id, new)| s.pop(id, new));
        let mut again = LOGITS.to_vec();
        s.penalize(&mut again);
        assert_eq!(again, logits);
        s.restart(&[]);
        let mut logits = LOGITS.to_vec();
        s.penalize(&mut logits);
        assert_eq!(logits, LOGITS);
    }

    #[test]
    fn a_draw_depends_only_on_seed_and_position() {
        let sampling = Sampling { temperature: 1.0, seed: 3, ..Sampling::default() };
        let (a, b) = (sampler(sampling), sampler(sampling));
        let draws: Vec<u32> = (0..50).map(|p| draw(&a, &LOGITS, p)).collect();
        let backwards: Vec<u32> = (0..50).rev().map(|p| draw(&b, &LOGITS, p)).collect();
        assert!(draws.iter().eq(backwards.iter().rev()));
    }

    #[test]
    fn rows_are_interleaved_and_must_be_finite() {
        let (n, vocab) = (3, 20);
        let value = |row: usize, id: usize| (100 * row + id) as f32;
        let index = |row: usize, id: usize| (id / LANES * n + row) * LANES + id % LANES;
        let mut values = vec![f32::INFINITY; 2 * n * LANES];
        for (row, id) in (0..n).flat_map(|row| (0..vocab).map(move |id| (row, id))) {
            values[index(row, id)] = value(row, id);
        }
        values[index(2, 7)] = f32::NAN;
        let rows = rows(&values, n);
        let mut to = vec![0.0; vocab];
        assert!(rows.copy(1, &mut to));
        assert!((0..vocab).all(|id| to[id] == value(1, id)));
        assert!(!rows.copy(2, &mut to));
        let s = sampler(Sampling::default());
        assert_eq!(s.draw(rows, 2, 0, &mut scratch(vocab)), None);
    }
}
