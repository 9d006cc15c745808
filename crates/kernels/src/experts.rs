//! Mixture of experts (Shazeer et al., "Outrageously Large Neural Networks", 2017): routing tokens to
//! experts, and the weighted sum of the experts' outputs.

use crate::isa::Simd;
use crate::layout::LANES;
use crate::math::{exp, sigmoid};

/// Arguments of `route`, which selects the experts of one token from its router logits.
#[derive(Debug)]
pub struct Route<'a> {
    /// Router logits, one per expert; replaced by their sigmoids if those are the scores.
    pub logits: &'a mut [f32],
    /// Whether the scores are sigmoids of the logits rather than their softmax.
    pub sigmoid: bool,
    /// Added to sigmoids to choose experts, but not to their weights; one per expert, or none.
    pub bias: &'a [f32],
    /// Whether the softmax covers only the chosen experts, whose weights then sum to 1, rather than all.
    /// Sigmoids are divided by their sum.
    pub over_chosen: bool,
    /// Output: indices of the experts with the largest logits, or biased sigmoids, ascending; ties go to the
    /// lowest index.
    pub chosen: &'a mut [u32],
    /// Output: the weights of these experts.
    pub weights: &'a mut [f32],
}

impl Route<'_> {
    pub(crate) fn check(&self) {
        assert!(!self.chosen.is_empty() && self.chosen.len() <= self.logits.len());
        assert_eq!(self.chosen.len(), self.weights.len());
        assert!(self.bias.is_empty() || self.sigmoid && self.bias.len() == self.logits.len());
    }
}

#[inline(always)]
pub(crate) fn route<S: Simd>(s: S, a: Route<'_>) {
    if a.sigmoid {
        return route_by_sigmoids(s, a);
    }
    choose(a.logits, &[], a.chosen);
    let max = a.chosen.iter().fold(f32::MIN, |max, &e| max.max(a.logits[e as usize]));
    let mut sum = s.splat(0.0);
    let mut next = 0;
    for (block, logits) in a.logits.chunks(LANES).enumerate() {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        lanes[..logits.len()].copy_from_slice(logits);
        let mut y = [0.0; LANES];
        s.store(exp(s, s.sub(s.load(&lanes), s.splat(max))), &mut y);
        let mut kept = [0.0; LANES];
        while let Some(&e) = a.chosen.get(next).filter(|&&e| e as usize / LANES == block) {
            a.weights[next] = y[e as usize % LANES];
            kept[e as usize % LANES] = y[e as usize % LANES];
            next += 1;
        }
        sum = s.add(sum, s.load(if a.over_chosen { &kept } else { &y }));
    }
    let sum = s.sum(sum);
    a.weights.iter_mut().for_each(|w| *w /= sum);
}

/// The router of DeepSeek-V3 (2024).
#[inline(always)]
fn route_by_sigmoids<S: Simd>(s: S, a: Route<'_>) {
    for logits in a.logits.chunks_mut(LANES) {
        let mut lanes = [0.0; LANES];
        lanes[..logits.len()].copy_from_slice(logits);
        let scores = sigmoid(s, s.load(&lanes));
        s.store(scores, &mut lanes);
        logits.copy_from_slice(&lanes[..logits.len()]);
    }
    choose(a.logits, a.bias, a.chosen);
    let mut sum = TINY;
    for (weight, &e) in a.weights.iter_mut().zip(&*a.chosen) {
        *weight = a.logits[e as usize];
        sum += *weight;
    }
    if a.over_chosen {
        a.weights.iter_mut().for_each(|w| *w /= sum);
    }
}

/// Added to a sum of sigmoids, in case that all of them are 0.
const TINY: f32 = 1e-20;

/// Indices of the largest values, with their bias, if there are any, ascending. The indices are valid even if
/// there are NaNs.
fn choose(values: &[f32], bias: &[f32], chosen: &mut [u32]) {
    for n in 0..chosen.len() {
        let (before, _) = chosen.split_at(n);
        let mut best = None;
        for (i, &value) in values.iter().enumerate() {
            let value = value + bias.get(i).unwrap_or(&0.0);
            if best.is_none_or(|(_, most)| value > most) && !before.contains(&(i as u32)) {
                best = Some((i as u32, value));
            }
        }
        chosen[n] = best.expect("at least as many values as choices").0;
    }
    chosen.sort_unstable();
}

/// Arguments of `add_weighted`, which adds one expert's outputs to the rows of its tokens.
#[derive(Debug)]
pub struct AddWeighted<'a> {
    /// `[panels][tokens.len()][16]`
    pub y: &'a [f32],
    /// Index of each token in `out`, without duplicates.
    pub tokens: &'a [u32],
    /// Weight of the expert, one per token.
    pub weights: &'a [f32],
    /// Number of tokens in `out`.
    pub m: usize,
    /// `[panels][m][16]`, out ← weight · y + out, rounded once.
    pub out: &'a mut [f32],
}

impl AddWeighted<'_> {
    pub(crate) fn check(&self) {
        let n = self.tokens.len();
        assert!(n > 0 && n == self.weights.len() && self.m > 0);
        assert!(self.out.len().is_multiple_of(LANES * self.m));
        assert_eq!(self.y.len(), self.out.len() / self.m * n);
    }
}

#[inline(always)]
pub(crate) fn add_weighted<S: Simd>(s: S, a: AddWeighted<'_>) {
    let panels = a.y.chunks_exact(LANES * a.tokens.len()).zip(a.out.chunks_exact_mut(LANES * a.m));
    for (y, out) in panels {
        let out = out.as_chunks_mut::<LANES>().0;
        for ((y, &token), &weight) in y.as_chunks::<LANES>().0.iter().zip(a.tokens).zip(a.weights) {
            let to = &mut out[token as usize];
            s.store(s.fma(s.splat(weight), s.load(y), s.load(to)), to);
        }
    }
}
