//! From logits to a token: penalties, top-k, top-p, min-p, temperature, in that order.

mod constraint;
mod counts;
mod logprob;
mod pick;

use nanoinfer_format::{Generation, LANES};
use nanoinfer_kernels::{CopyRow, ExpWeights, Kernels};

use crate::pool::Buffers;
pub use constraint::Constraint;
use counts::Counts;
pub use logprob::{Logprobs, MAX_TOP_LOGPROBS, TokenLogprob};
pub(crate) use pick::uniform;
use pick::{Weighted, largest, pick, pick_any, place};

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
    /// Equal seeds produce equal text.
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

/// Limit of a bias, far beyond any logit, but small enough for logits to remain finite.
const MAX_BIAS: f32 = 1e6;

/// The logits of a pass, in the output layer's layout: `[vocab/16][rows][16]`.
#[derive(Clone, Copy)]
pub(crate) struct LogitRows<'a> {
    pub kernels: &'a Kernels,
    pub values: &'a [f32],
    pub rows: usize,
}

impl LogitRows<'_> {
    /// Copies a row. Returns its largest logit, or `None` if any logit is not finite.
    pub(crate) fn copy(&self, row: usize, to: &mut [f32]) -> Option<f32> {
        let (values, rows, mut max) = (self.values, self.rows, None);
        self.kernels.copy_row(CopyRow { values, rows, row, to, max: &mut max });
        max
    }

    /// Computes e^((logit − max)·scale) of all `logits`, and returns the sum.
    fn weigh(&self, logits: &[f32], max: f32, scale: f32, out: &mut [f32]) -> f64 {
        let mut total = 0.0;
        self.kernels.exp_weights(ExpWeights { logits, max, scale, out, total: &mut total });
        total
    }

    fn get(&self, row: usize, id: u32) -> f32 {
        let (panel, lane) = (id as usize / LANES, id as usize % LANES);
        self.values[(panel * self.rows + row) * LANES + lane]
    }
}

/// Scratch for drawing a token, sized for the vocabulary; one per worker.
pub(crate) struct DrawScratch {
    logits: Vec<f32>,          // [vocab]
    weights: Vec<f32>,         // [vocab]
    candidates: Vec<Weighted>, // at most vocab
    allowed: Vec<u32>,         // [vocab/32], by a constraint
}

impl DrawScratch {
    pub(crate) fn new(b: &mut Buffers<'_>, vocab: usize) -> Self {
        Self {
            logits: b.own(vocab),
            weights: b.own(vocab),
            candidates: b.list(vocab),
            allowed: b.own(vocab.div_ceil(32)),
        }
    }
}

/// The result of a draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drawn {
    Token(u32),
    /// The constraint allows no token.
    Complete,
    /// The logits are not finite.
    NotFinite,
}

/// A sequence's sampling parameters, and the token counts for its penalties.
pub(crate) struct Sampler {
    pub sampling: Sampling,
    /// Added to the logits of these tokens before penalties.
    pub bias: Vec<(u32, f32)>,
    counts: Counts,
}

impl Sampler {
    /// For contexts of up to `capacity` tokens. Allocates all memory up front.
    pub(crate) fn new(vocab: usize, capacity: usize) -> Self {
        let counts = Counts::new(vocab.min(capacity));
        Self { sampling: Sampling::default(), bias: Vec::new(), counts }
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
        match self.draw_with(rows, (row, position), scratch, (None, None)) {
            Drawn::Token(id) => Some(id),
            Drawn::Complete | Drawn::NotFinite => None,
        }
    }

    /// Like [`Self::draw`], with a constraint, and also determines the log-probabilities.
    pub(crate) fn draw_with(
        &self,
        rows: LogitRows<'_>,
        (row, position): (usize, usize),
        scratch: &mut DrawScratch,
        (mut logprobs, constraint): (Option<&mut Logprobs>, Option<&mut dyn Constraint>),
    ) -> Drawn {
        let Some(mut max) = rows.copy(row, &mut scratch.logits) else { return Drawn::NotFinite };
        if let Some(logprobs) = &mut logprobs {
            logprobs.read(rows, max, scratch);
        }
        let mut changed = self.penalize(&mut scratch.logits);
        if let Some(constraint) = constraint {
            if !restrict(constraint, scratch) {
                return Drawn::Complete;
            }
            changed = true;
        }
        if changed {
            max = largest(&scratch.logits);
        }
        let id = self.choose(rows, max, position, scratch);
        if let Some(logprobs) = logprobs {
            logprobs.choose(rows.get(row, id));
        }
        Drawn::Token(id)
    }

    /// Chooses a token from the logits in `scratch`, of which `max` is the largest.
    fn choose(
        &self,
        rows: LogitRows<'_>,
        max: f32,
        position: usize,
        scratch: &mut DrawScratch,
    ) -> u32 {
        let DrawScratch { logits, weights, candidates, .. } = scratch;
        let s = self.sampling;
        if s.temperature <= 0.0 {
            return place(logits, max);
        }
        let uniform = uniform(s.seed, position as u64);
        let all = (s.top_k == 0 || s.top_k >= logits.len()) && s.top_p >= 1.0 && s.min_p <= 0.0;
        let scale = 1.0 / s.temperature;
        let picked = if all {
            let total = rows.weigh(logits, max, scale, weights);
            pick_any(weights, uniform * total)
        } else {
            let total = rows.weigh(logits, max, 1.0, weights);
            truncate(&s, logits, (weights, total), candidates);
            for c in candidates.iter_mut() {
                let mut weight = [0.0];
                rows.weigh(&[c.logit], max, scale, &mut weight);
                c.weight = weight[0];
            }
            pick(candidates, uniform)
        };
        picked.unwrap_or_else(|| place(logits, max)) // only by rounding
    }

    /// The `n` most likely tokens of a row of logits after penalties, with ties ordered by id; empty if
    /// the logits are not finite.
    pub(crate) fn top(
        &self,
        rows: LogitRows<'_>,
        row: usize,
        n: usize,
        scratch: &mut DrawScratch,
    ) -> Vec<Candidate> {
        let DrawScratch { logits, weights, .. } = scratch;
        if rows.copy(row, logits).is_none() {
            return Vec::new();
        }
        self.penalize(logits);
        let total = rows.weigh(logits, largest(logits), 1.0, weights);
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

    /// Applies biases and penalties. Returns whether there are any.
    fn penalize(&self, logits: &mut [f32]) -> bool {
        for &(id, bias) in &self.bias {
            let bias = if bias.is_nan() { 0.0 } else { bias.clamp(-MAX_BIAS, MAX_BIAS) };
            logits[id as usize] += bias;
        }
        let s = &self.sampling;
        if (s.repetition_penalty, s.presence_penalty, s.frequency_penalty) == (1.0, 0.0, 0.0) {
            return !self.bias.is_empty();
        }
        for &(id, count) in &self.counts.entries {
            let x = &mut logits[id as usize];
            *x = if *x > 0.0 { *x / s.repetition_penalty } else { *x * s.repetition_penalty };
            if count > 0 {
                *x -= s.presence_penalty + s.frequency_penalty * count as f32;
            }
        }
        true
    }
}

/// Rules out the tokens that a constraint does not allow. Returns whether it allows any.
fn restrict(constraint: &mut dyn Constraint, scratch: &mut DrawScratch) -> bool {
    let DrawScratch { logits, allowed, .. } = scratch;
    allowed.fill(0);
    constraint.allow(allowed);
    let mut any = 0;
    for (logits, &bits) in logits.chunks_mut(32).zip(&*allowed) {
        any |= bits & (u32::MAX >> (32 - logits.len()));
        if bits == 0 {
            logits.fill(f32::NEG_INFINITY);
        } else if bits != u32::MAX {
            for (i, logit) in logits.iter_mut().enumerate() {
                *logit = if bits >> i & 1 == 1 { *logit } else { f32::NEG_INFINITY };
            }
        }
    }
    any != 0
}

/// Candidates after top-k, top-p and min-p, most likely first, with ties ordered by id.
///
/// Sorting the whole vocabulary would cost more than the output layer, so only tokens above a threshold
/// are gathered. The threshold is lowered until they are certain to include the result.
fn truncate(
    s: &Sampling,
    logits: &[f32],
    (weights, total): (&[f32], f64),
    candidates: &mut Vec<Weighted>,
) {
    let k = if s.top_k == 0 { logits.len() } else { s.top_k.min(logits.len()) };
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

#[cfg(test)]
mod tests;
