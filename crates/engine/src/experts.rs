//! The feed-forward part of a layer with experts.
//!
//! ```text
//! router     scores of all experts, in f32                              item = a run of panels
//! (each worker for itself: which token goes to which experts, and the tokens of each expert)
//! gate, up   for each expert its tokens, side by side like a batch      item = expert × 64 hidden values
//! down       for each expert in ascending order, added where it belongs item = a run of panels
//! ```
//!
//! Only the panels of experts that some token goes to are read, and those once per pass. A token's
//! sum is over its own experts in ascending order, whoever else is in the batch.

use nanoinfer_format::{Config, Experts, GROUP, LANES, Quant};
use nanoinfer_kernels::{Activate, AddWeighted, Pack, Route, TOKENS, line_of, packed_rows};

use crate::forward::{Into, Pass};
use crate::inputs::{Input, Lines, OwnInputs, SharedInputs};
use crate::pool::{Pool, Shared, Worker};
use crate::profile::PassStep;
use crate::scratch::{Local, MAX_TOKENS, panels_per_item};
use crate::weights::{ExpertMatrices, Norm};

/// Panels of gate and up, and of the product with down, that are in work at once.
const PANELS: usize = 2 * GROUP / LANES;

/// Buffers all workers share; without experts they take nothing.
pub(crate) struct ExpertScratch {
    scores: Shared<f32>,  // [experts/16][m][16]
    inputs: SharedInputs, // of the router, of more than 16 tokens, where experts take 8 bits
    hidden: SharedInputs, // [active experts][d_ff/64][most tokens of one]
}

/// Buffers of one worker.
pub(crate) struct Routing {
    scores: Vec<f32>,   // of one token
    chosen: Vec<u32>,   // [m][per token]
    weights: Vec<f32>,  // [m][per token]
    counts: Vec<usize>, // tokens of each expert
    active: Vec<Active>,
    /// Tokens of the active experts, one after the other, ascending within each; their weights.
    tokens: Vec<u32>,
    token_weights: Vec<f32>,
    router: OwnInputs,   // of up to 16 tokens, where experts take 8 bits
    gathered: OwnInputs, // inputs of gate and up of one expert, or of down of all
}

/// An expert that tokens of this pass go to.
#[derive(Clone, Copy)]
struct Active {
    expert: usize,
    /// First of its tokens in [`Routing::tokens`].
    first: usize,
    /// How many they are.
    n: usize,
    /// Rows of packed inputs before its own, where the inputs of all experts lie together.
    row: usize,
}

/// Most (token, expert) pairs of a pass.
fn pairs(e: &Experts) -> usize {
    MAX_TOKENS * e.experts_per_token as usize
}

/// Most rows that the pairs take when the tokens of each expert are packed in tiles.
fn pair_rows(e: &Experts) -> usize {
    pairs(e) + (TOKENS - 1) * (pairs(e) / (TOKENS + 1)).min(e.n_experts as usize)
}

/// Lines of what all experts hand to their down projections.
fn hidden_lines(e: &Experts) -> usize {
    (e.n_experts as usize).min(pairs(e)) * e.d_ff_padded() / GROUP * MAX_TOKENS
}

/// Lines of [`Routing::gathered`].
fn gathered_lines(c: &Config, e: &Experts) -> usize {
    (MAX_TOKENS * c.d_model_padded()).max(pair_rows(e) * e.d_ff_padded()) / GROUP
}

/// Lines of the router's own inputs for `rows` tokens: none where experts take f32 too.
fn router_lines(c: &Config, rows: usize) -> usize {
    if c.quant == Quant::F32 { 0 } else { rows * c.d_model_padded() / GROUP }
}

impl ExpertScratch {
    pub(crate) fn new(pool: &Pool, c: &Config) -> Self {
        let lines = |n: Option<usize>, quant| SharedInputs::with_lines(pool, quant, n.unwrap_or(0));
        let e = c.experts.as_ref();
        Self {
            scores: pool.shared(e.map_or(0, |e| MAX_TOKENS * e.router_rows())),
            inputs: lines(e.map(|_| router_lines(c, MAX_TOKENS)), Quant::F32),
            hidden: lines(e.map(hidden_lines), c.quant),
        }
    }

    /// Bytes of the buffers of all workers.
    pub(crate) fn bytes(c: &Config, workers: usize) -> u64 {
        let Some(e) = &c.experts else { return 0 };
        let line = match c.quant {
            Quant::Q8 => GROUP + 8,
            Quant::F32 => 4 * GROUP,
        };
        let router = 4 * GROUP * router_lines(c, MAX_TOKENS + workers * TOKENS);
        let lines = hidden_lines(e) + workers * gathered_lines(c, e);
        let scores = 4 * MAX_TOKENS * e.router_rows();
        (router + line * lines + scores + workers * 16 * pairs(e)) as u64
    }
}

impl Routing {
    pub(crate) fn new(c: &Config) -> Self {
        let e = c.experts.as_ref();
        let (pairs, n) = (e.map_or(0, pairs), e.map_or(0, |e| e.n_experts as usize));
        Self {
            scores: vec![0.0; e.map_or(0, Experts::router_rows)],
            chosen: vec![0; pairs],
            weights: vec![0.0; pairs],
            counts: vec![0; n],
            active: Vec::with_capacity(n.min(pairs)),
            tokens: vec![0; pairs],
            token_weights: vec![0.0; pairs],
            router: OwnInputs::with_lines(Quant::F32, e.map_or(0, |_| router_lines(c, TOKENS))),
            gathered: OwnInputs::with_lines(c.quant, e.map_or(0, |e| gathered_lines(c, e))),
        }
    }

    /// From the experts of each token to the tokens of each expert.
    fn group(&mut self, m: usize, per_token: usize) {
        let chosen = &self.chosen[..m * per_token];
        self.counts.fill(0);
        chosen.iter().for_each(|&e| self.counts[e as usize] += 1);
        self.active.clear();
        let (mut first, mut row) = (0, 0);
        for (expert, n) in self.counts.iter_mut().enumerate().filter(|(_, n)| **n > 0) {
            self.active.push(Active { expert, first, n: *n, row });
            (first, row) = (first + *n, row + packed_rows(*n));
            *n = first - *n; // from here on, the place of its next token
        }
        for (pair, &e) in chosen.iter().enumerate() {
            let place = &mut self.counts[e as usize];
            self.tokens[*place] = (pair / per_token) as u32;
            self.token_weights[*place] = self.weights[pair];
            *place += 1;
        }
    }

    /// The most tokens that one expert has.
    fn most(&self) -> usize {
        self.active.iter().map(|a| a.n).max().unwrap_or(0)
    }

    /// The inputs of gate and up of one expert: its tokens, out of those of all `m`.
    fn gather_tokens(&mut self, a: Active, from: Lines<'_>, m: usize, k: usize) {
        let groups = k / GROUP;
        for (row, &token) in self.tokens[a.first..][..a.n].iter().enumerate() {
            let (to, step) = line_of(row, groups, a.n);
            let (at, from_step) = line_of(token as usize, groups, m);
            for g in 0..groups {
                self.gathered.copy(to + g * step, from, at + g * from_step, 1);
            }
        }
    }

    /// The inputs of down of all experts, each expert's in tiles.
    fn gather_hidden(&mut self, from: Lines<'_>, k: usize) {
        let (groups, most) = (k / GROUP, self.most());
        for (slot, a) in self.active.iter().enumerate() {
            for at in (0..a.n).step_by(TOKENS) {
                let (to, step) = line_of(at, groups, a.n);
                for g in 0..groups {
                    let line = (slot * groups + g) * most + at;
                    let n = TOKENS.min(a.n - at);
                    self.gathered.copy(a.row * groups + to + g * step, from, line, n);
                }
            }
        }
    }
}

impl Pass<'_> {
    /// The feed-forward part of a layer with experts, its input normalised and packed already.
    pub(crate) fn experts(
        &self,
        w: &mut Worker<'_>,
        local: &mut Local,
        norm: Option<&Norm>,
        e: &ExpertMatrices,
    ) {
        let Some(config) = &self.config.experts else { return };
        let (m, s) = (self.m(), &self.scratch.experts);
        let inputs = match self.config.quant {
            Quant::F32 => self.inputs(&local.inputs, m),
            Quant::Q8 => {
                self.router_inputs(w, local, norm);
                match m <= TOKENS {
                    true => Input::Own(&local.routing.router),
                    false => Input::Shared(&s.inputs),
                }
            }
        };
        self.matmul(w, &e.router, inputs, Into::Store(&s.scores));
        local.step(w, PassStep::GateUp);
        self.route(w, local, config);
        self.experts_gate_up(w, local, e, config);
        local.step(w, PassStep::GateUp);
        self.experts_down(w, local, e, config);
    }

    /// The router decides by small differences: its input stays f32, whatever the experts take.
    fn router_inputs(&self, w: &mut Worker<'_>, local: &mut Local, norm: Option<&Norm>) {
        let (m, k, s) = (self.m(), self.config.d_model_padded(), &self.scratch.experts);
        let x = &self.scratch.x.read(w)[..m * k];
        if m <= TOKENS {
            return self.norm_tile(x, norm, 0, m, local.routing.router.tile(m, k, 0));
        }
        let split = s.inputs.by_tile(w, m, k);
        for item in w.items(m.div_ceil(TOKENS)) {
            let at = item.index() * TOKENS;
            self.norm_tile(x, norm, at, TOKENS.min(m - at), split.take(&item).tile(0, 0));
        }
        local.step(w, PassStep::GateUp);
    }

    /// The experts of every token: cheaper done by every worker than shared.
    fn route(&self, w: &Worker<'_>, local: &mut Local, e: &Experts) {
        let (m, k, n) = (self.m(), e.experts_per_token as usize, e.n_experts as usize);
        let scores = self.scratch.experts.scores.read(w);
        let r = &mut local.routing;
        for token in 0..m {
            for (panel, to) in r.scores.chunks_exact_mut(LANES).enumerate() {
                to.copy_from_slice(&scores[(panel * m + token) * LANES..][..LANES]);
            }
            self.kernels.route(Route {
                logits: &r.scores[..n],
                over_chosen: e.router_softmax == nanoinfer_format::RouterSoftmax::Chosen,
                chosen: &mut r.chosen[token * k..][..k],
                weights: &mut r.weights[token * k..][..k],
            });
        }
        r.group(m, k);
    }

    fn experts_gate_up(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        e: &ExpertMatrices,
        config: &Experts,
    ) {
        let (m, k, groups) = (self.m(), e.gate_up.k, config.d_ff_padded() / GROUP);
        let Local { gate_up, act, inputs, routing: r, .. } = local;
        let items = r.active.len() * groups;
        let split = self.scratch.experts.hidden.by_run(w, items, r.most());
        let from = self.inputs(inputs, m).lines(w);
        let mut gathered = None;
        for item in w.items(items) {
            let (slot, group) = (item.index() / groups, item.index() % groups);
            let a = r.active[slot];
            if gathered != Some(slot) {
                r.gather_tokens(a, from, m, k);
                gathered = Some(slot);
            }
            let (gate_up, act) = (&mut gate_up[..2 * GROUP * a.n], &mut act[..GROUP * a.n]);
            let first = (a.expert * groups + group) * PANELS;
            let tokens = r.gathered.lines().packed(0, a.n, k);
            self.product(&e.gate_up, first..first + PANELS, &tokens, false, gate_up);
            let (activation, x) = (self.activation(), &*gate_up);
            self.kernels.activate(Activate { activation, gated: true, x, m: a.n, out: act });
            let to = &mut split.take(&item);
            let to = to.tile(0, 0);
            self.kernels.pack(Pack { x: act, m: a.n, at: 0, n: a.n, rotation: GROUP, to });
        }
    }

    fn experts_down(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        e: &ExpertMatrices,
        config: &Experts,
    ) {
        let (m, k) = (self.m(), e.down.k);
        let panels = e.down.panels / config.n_experts as usize;
        let Local { gate_up: y, routing: r, .. } = local;
        r.gather_hidden(Input::Shared(&self.scratch.experts.hidden).lines(w), k);
        let chunk = panels_per_item(panels, self.workers, k).min(PANELS);
        let split = self.scratch.x.split(w, panels * m * LANES, chunk * m * LANES);
        for item in w.items(panels.div_ceil(chunk)) {
            let at = item.index() * chunk;
            let n = chunk.min(panels - at);
            let out = split.take(&item).run();
            for a in &r.active {
                let first = a.expert * panels + at;
                let hidden = r.gathered.lines().packed(a.row * k / GROUP, a.n, k);
                let y = &mut y[..n * a.n * LANES];
                self.product(&e.down, first..first + n, &hidden, false, y);
                let (tokens, weights) = (&r.tokens[a.first..][..a.n], &r.token_weights[a.first..]);
                let weights = &weights[..a.n];
                self.kernels.add_weighted(AddWeighted { y, tokens, weights, m, out });
            }
        }
    }
}
