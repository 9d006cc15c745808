//! Grouping tokens by expert, and the buffers of a layer with experts.

use nanoinfer_format::{Config, Experts};
use nanoinfer_kernels::{GROUP, LANES, TOKENS, locate_token, packed_rows};

use super::inputs::{Lines, Needs, OwnInputs, SharedInputs, lines};
use super::limits::MAX_TOKENS;
use crate::pool::{Buffers, Shared};

/// Number of panels processed at once: of gate and up together, or of down.
pub(crate) const PANELS: usize = 2 * GROUP / LANES;

/// Buffers shared by all workers; empty without experts.
pub(crate) struct ExpertScratch {
    pub scores: Shared<f32>,  // [experts/16][m][16]
    pub hidden: SharedInputs, // [active experts][d_ff/64][tokens of the busiest]
    pub sum: Shared<f32>,     // [d_model/16][m][16], their output, if it is normalized
}

/// Buffers of one worker.
pub(crate) struct Routing {
    pub scores: Vec<f32>,  // of one token
    pub chosen: Vec<u32>,  // [m][per token]
    pub weights: Vec<f32>, // [m][per token]
    counts: Vec<usize>,    // tokens of each expert
    pub active: Vec<Active>,
    /// Tokens of the active experts, concatenated and ascending within each expert, and their weights.
    tokens: Vec<u32>,
    token_weights: Vec<f32>,
    pub gathered: OwnInputs, // inputs of one expert's gate and up, or of all experts' down
    pub shared_scores: Vec<f32>, // [m][16], the score of the gate of the shared network first
    pub shared_gates: Vec<f32>, // [m], its values
    pub all: Vec<u32>,       // [m], the indices of all tokens
    pub ones: Vec<f32>,      // [m], weights of outputs if those of the inputs count
}

/// An expert chosen by at least one token of this pass.
#[derive(Clone, Copy)]
pub(crate) struct Active {
    pub expert: usize,
    /// Index of the expert's first token in [`Routing::tokens`].
    first: usize,
    /// Number of tokens.
    pub n: usize,
    /// The expert's first row in the packed inputs of all experts.
    pub row: usize,
}

/// Maximum number of (token, expert) pairs in a pass.
fn pairs(e: &Experts) -> usize {
    MAX_TOKENS * e.experts_per_token as usize
}

/// Maximum number of rows needed to pack the tokens of each expert in tiles.
fn pair_rows(e: &Experts) -> usize {
    pairs(e) + (TOKENS - 1) * (pairs(e) / (TOKENS + 1)).min(e.n_experts as usize)
}

/// Number of lines in the inputs of all experts' down projections.
fn hidden_lines(e: &Experts) -> usize {
    (e.n_experts as usize).min(pairs(e)) * e.d_ff_padded() / GROUP * MAX_TOKENS
}

/// Number of lines in [`Routing::gathered`].
fn gathered_lines(c: &Config, e: &Experts) -> usize {
    lines(MAX_TOKENS, c.d_model_padded()).max(pair_rows(e) * e.d_ff_padded() / GROUP)
}

/// Maximum number of tokens whose share of the shared network is gated.
fn gated_tokens(e: Option<&Experts>) -> usize {
    let gate = e.and_then(|e| e.shared.as_ref()).is_some_and(|shared| shared.gate);
    if gate { MAX_TOKENS } else { 0 }
}

impl ExpertScratch {
    /// `needs` are those of the down projections.
    pub(crate) fn new(b: &mut Buffers<'_>, c: &Config, needs: Needs) -> Self {
        let e = c.experts.as_ref();
        Self {
            scores: b.shared(e.map_or(0, |e| MAX_TOKENS * e.router_rows())),
            hidden: SharedInputs::with_lines(b, needs, e.map_or(0, hidden_lines)),
            sum: b.shared(match e {
                Some(e) if e.separate_norms => MAX_TOKENS * c.d_model_padded(),
                _ => 0,
            }),
        }
    }
}

impl Routing {
    /// `needs` are those of the expert matrices.
    pub(crate) fn new(b: &mut Buffers<'_>, c: &Config, needs: Needs) -> Self {
        let e = c.experts.as_ref();
        let (pairs, n) = (e.map_or(0, pairs), e.map_or(0, |e| e.n_experts as usize));
        let mut all = b.own(gated_tokens(e));
        all.iter_mut().zip(0..).for_each(|(token, index)| *token = index);
        let weighted = e.is_some_and(|e| e.weighted_inputs);
        let mut ones = b.own(if weighted { MAX_TOKENS } else { 0 });
        ones.fill(1.0);
        Self {
            scores: b.own(e.map_or(0, Experts::router_rows)),
            chosen: b.own(pairs),
            weights: b.own(pairs),
            counts: b.own(n),
            active: b.list(n.min(pairs)),
            tokens: b.own(pairs),
            token_weights: b.own(pairs),
            gathered: OwnInputs::with_lines(b, needs, e.map_or(0, |e| gathered_lines(c, e))),
            shared_scores: b.own(LANES * gated_tokens(e)),
            shared_gates: b.own(gated_tokens(e)),
            all,
            ones,
        }
    }

    /// Turns the experts of each token into the tokens of each expert.
    pub(crate) fn group(&mut self, m: usize, per_token: usize) {
        let chosen = &self.chosen[..m * per_token];
        self.counts.fill(0);
        chosen.iter().for_each(|&e| self.counts[e as usize] += 1);
        self.active.clear();
        let (mut first, mut row) = (0, 0);
        for (expert, n) in self.counts.iter_mut().enumerate().filter(|(_, n)| **n > 0) {
            self.active.push(Active { expert, first, n: *n, row });
            (first, row) = (first + *n, row + packed_rows(*n));
            *n = first - *n; // from here on, the index of its next token
        }
        for (pair, &e) in chosen.iter().enumerate() {
            let next = &mut self.counts[e as usize];
            self.tokens[*next] = (pair / per_token) as u32;
            self.token_weights[*next] = self.weights[pair];
            *next += 1;
        }
    }

    /// The number of tokens of the busiest expert.
    pub(crate) fn max_tokens(&self) -> usize {
        self.active.iter().map(|a| a.n).max().unwrap_or(0)
    }

    /// The tokens of an expert, ascending, and its weight for each.
    pub(crate) fn tokens_of(&self, a: Active) -> (&[u32], &[f32]) {
        (&self.tokens[a.first..][..a.n], &self.token_weights[a.first..][..a.n])
    }

    /// Gathers the inputs of one expert's gate and up projections: its tokens out of all `m`.
    pub(crate) fn gather_tokens(&mut self, a: Active, from: Lines<'_>, m: usize, k: usize) {
        let groups = k / GROUP;
        for (row, &token) in self.tokens[a.first..][..a.n].iter().enumerate() {
            let (to, step) = locate_token(row, groups, a.n);
            let (at, from_step) = locate_token(token as usize, groups, m);
            for g in 0..groups {
                self.gathered.copy(to + g * step, from, at + g * from_step, 1);
            }
        }
    }

    /// Gathers the inputs of all experts' down projections, in tiles per expert.
    pub(crate) fn gather_hidden(&mut self, from: Lines<'_>, k: usize) {
        let (groups, max) = (k / GROUP, self.max_tokens());
        for (slot, a) in self.active.iter().enumerate() {
            for at in (0..a.n).step_by(TOKENS) {
                let (to, step) = locate_token(at, groups, a.n);
                for g in 0..groups {
                    let line = (slot * groups + g) * max + at;
                    let n = TOKENS.min(a.n - at);
                    self.gathered.copy(a.row * groups + to + g * step, from, line, n);
                }
            }
        }
    }
}
