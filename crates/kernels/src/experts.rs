//! Mixture of experts (Shazeer et al., "Outrageously Large Neural Networks", 2017): routing tokens to
//! experts, and the weighted sum of the experts' outputs.

use crate::isa::Simd;
use crate::layout::LANES;
use crate::math::{exp, sigmoid};

/// Groups of consecutive experts, of which a token first chooses some.
#[derive(Clone, Copy, Debug)]
pub struct RouteGroups {
    /// Groups of equal size, at most 64.
    pub n: usize,
    /// Groups chosen for each token.
    pub chosen: usize,
    /// Number of its highest scores whose sum is the score of a group: 1 or 2.
    pub best: usize,
}

/// Arguments of `route`, which selects the experts of one token from its router logits.
#[derive(Debug)]
pub struct Route<'a> {
    /// Router logits, one per expert; replaced by scores if those differ from the logits.
    pub logits: &'a mut [f32],
    /// Whether the scores are sigmoids of the logits rather than their softmax.
    pub sigmoid: bool,
    /// Added to scores to choose experts, but not to their weights; one per expert, or none.
    pub bias: &'a [f32],
    /// The groups that are chosen first; without them, experts are chosen among all.
    pub groups: Option<RouteGroups>,
    /// If given, experts are chosen one after the other, and the softmax of each covers those that are not chosen
    /// yet and whose logits are within this distance of the largest one, relative to the greater of both.
    pub distance: Option<f32>,
    /// Whether the softmax covers only the chosen experts, whose weights then sum to 1, rather than all.
    /// Other scores are divided by their sum.
    pub over_chosen: bool,
    /// Output: indices of the experts with the largest logits, or biased scores, ascending; ties go to the
    /// lowest index.
    pub chosen: &'a mut [u32],
    /// Output: the weights of these experts.
    pub weights: &'a mut [f32],
}

impl Route<'_> {
    pub(crate) fn check(&self) {
        assert!(!self.chosen.is_empty() && self.chosen.len() <= self.logits.len());
        assert_eq!(self.chosen.len(), self.weights.len());
        assert!(self.bias.is_empty() || self.bias.len() == self.logits.len());
        let plain = self.bias.is_empty() && !self.sigmoid && self.groups.is_none();
        assert!(self.distance.is_none() || plain);
        let Some(g) = self.groups else { return };
        assert!((1..=g.n).contains(&g.chosen) && g.n <= MAX_GROUPS && (1..=2).contains(&g.best));
        assert!(self.logits.len().is_multiple_of(g.n));
        assert!(self.chosen.len() <= self.logits.len() / g.n * g.chosen);
    }
}

/// Maximum number of groups of experts.
const MAX_GROUPS: usize = 64;

#[inline(always)]
pub(crate) fn route<S: Simd>(s: S, a: Route<'_>) {
    if let Some(distance) = a.distance {
        return route_in_turn(s, a, distance);
    }
    if a.sigmoid || !a.bias.is_empty() || a.groups.is_some() {
        return route_by_scores(s, a);
    }
    choose(a.logits, &[], u64::MAX, 1, a.chosen);
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

/// The routers of DeepSeek-V2 and V3 (2024): scores first, of which those of some groups are chosen.
#[inline(always)]
fn route_by_scores<S: Simd>(s: S, a: Route<'_>) {
    let by_logits = a.sigmoid && a.bias.is_empty() && a.groups.is_none();
    if by_logits {
        choose(a.logits, &[], u64::MAX, 1, a.chosen); // sigmoids of large logits are all 1
    }
    if a.sigmoid {
        for logits in a.logits.chunks_mut(LANES) {
            let mut lanes = [0.0; LANES];
            lanes[..logits.len()].copy_from_slice(logits);
            let scores = sigmoid(s, s.load(&lanes));
            s.store(scores, &mut lanes);
            logits.copy_from_slice(&lanes[..logits.len()]);
        }
    } else {
        let max = a.logits.iter().fold(f32::MIN, |max, &x| max.max(x));
        let sum = exponentials(s, a.logits, max);
        a.logits.iter_mut().for_each(|x| *x /= sum);
    }
    match a.groups {
        None if by_logits => {}
        None => choose(a.logits, a.bias, u64::MAX, 1, a.chosen),
        Some(g) => {
            let size = a.logits.len() / g.n;
            choose(a.logits, a.bias, best_groups(a.logits, a.bias, g), size, a.chosen);
        }
    }
    let mut sum = TINY;
    for (weight, &e) in a.weights.iter_mut().zip(&*a.chosen) {
        *weight = a.logits[e as usize];
        sum += *weight;
    }
    if a.over_chosen {
        a.weights.iter_mut().for_each(|w| *w /= sum);
    }
}

/// Replaces logits by e^(logit − max) and returns their sum.
#[inline(always)]
fn exponentials<S: Simd>(s: S, logits: &mut [f32], max: f32) -> f32 {
    let mut sum = s.splat(0.0);
    for logits in logits.chunks_mut(LANES) {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        lanes[..logits.len()].copy_from_slice(logits);
        let y = exp(s, s.sub(s.load(&lanes), s.splat(max)));
        sum = s.add(sum, y);
        s.store(y, &mut lanes);
        logits.copy_from_slice(&lanes[..logits.len()]);
    }
    s.sum(sum)
}

/// SparseMixer (Liu et al., 2023) as in Phi-3.5-MoE: the weight of an expert is its softmax when it is chosen.
#[inline(always)]
fn route_in_turn<S: Simd>(s: S, a: Route<'_>, distance: f32) {
    choose(a.logits, &[], u64::MAX, 1, a.chosen);
    for (at, &own) in a.chosen.iter().enumerate() {
        let max = a.logits[own as usize];
        // Chosen before: those with larger logits, and of equal ones the first.
        let before = |e: &u32| {
            let logit = a.logits[*e as usize];
            logit > max || logit == max && *e < own
        };
        let mut sum = s.splat(0.0);
        for (block, logits) in a.logits.chunks(LANES).enumerate() {
            let mut lanes = [f32::NEG_INFINITY; LANES];
            for (lane, &logit) in lanes.iter_mut().zip(logits) {
                let far = (max - logit) / logit.abs().max(max) > distance;
                *lane = if far { f32::NEG_INFINITY } else { logit };
            }
            for &e in a.chosen.iter().filter(|&e| before(e)) {
                if e as usize / LANES == block {
                    lanes[e as usize % LANES] = f32::NEG_INFINITY;
                }
            }
            sum = s.add(sum, exp(s, s.sub(s.load(&lanes), s.splat(max))));
        }
        a.weights[at] = 1.0 / s.sum(sum);
    }
}

/// Added to a sum of scores, in case that all of them are 0.
const TINY: f32 = 1e-20;

/// The groups with the highest scores, as bits; ties go to the lowest.
fn best_groups(values: &[f32], bias: &[f32], g: RouteGroups) -> u64 {
    let size = values.len() / g.n;
    let mut scores = [0.0; MAX_GROUPS];
    for (group, score) in scores[..g.n].iter_mut().enumerate() {
        let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for (e, value) in values.iter().enumerate().skip(group * size).take(size) {
            let value = value + bias.get(e).unwrap_or(&0.0);
            if value > first {
                (first, second) = (value, first);
            } else if value > second {
                second = value;
            }
        }
        *score = if g.best == 2 { first + second } else { first };
    }
    let mut chosen = [0; MAX_GROUPS];
    choose(&scores[..g.n], &[], u64::MAX, 1, &mut chosen[..g.chosen]);
    chosen[..g.chosen].iter().fold(0, |bits, &group| bits | 1 << group)
}

/// Indices of the largest values, with their bias, if there are any, ascending; only of the `groups` of `size`
/// values whose bits are set. The indices are valid even if there are NaNs.
fn choose(values: &[f32], bias: &[f32], groups: u64, size: usize, chosen: &mut [u32]) {
    let all = groups == u64::MAX;
    for n in 0..chosen.len() {
        let (before, _) = chosen.split_at(n);
        let mut best = None;
        for (i, &value) in values.iter().enumerate() {
            if !all && groups >> (i / size) & 1 == 0 {
                continue;
            }
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

/// Arguments of `weigh`, which multiplies the values of each token by a factor.
#[derive(Debug)]
pub struct Weigh<'a> {
    /// `[panels][weights.len()][16]`
    pub x: &'a mut [f32],
    /// Factor, one per token.
    pub weights: &'a [f32],
}

impl Weigh<'_> {
    pub(crate) fn check(&self) {
        assert!(!self.weights.is_empty());
        assert!(self.x.len().is_multiple_of(LANES * self.weights.len()));
    }
}

#[inline(always)]
pub(crate) fn weigh<S: Simd>(s: S, a: Weigh<'_>) {
    for panel in a.x.chunks_exact_mut(LANES * a.weights.len()) {
        for (x, &weight) in panel.as_chunks_mut::<LANES>().0.iter_mut().zip(a.weights) {
            s.store(s.mul(s.load(x), s.splat(weight)), x);
        }
    }
}
