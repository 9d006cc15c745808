//! The feed-forward part of a layer with experts.
//!
//! ```text
//! router     scores of all experts, in f32                              item = a run of panels
//! shared     gate and up of the network beside the experts, if any      item = 64 hidden values
//! (each worker independently: the experts of each token, then the tokens of each expert, and the gate of the
//! shared network)
//! gate, up   per expert, its tokens gathered into a batch               item = expert × 64 hidden values
//! down       per expert in ascending order, scattered to its tokens,    item = a run of panels
//!            then that of the shared network
//! ```
//!
//! Panels of active experts are read once per pass, and those of inactive experts not at all. Each token
//! sums over its experts in ascending order, independently of the rest of the batch.

use nanoinfer_format::{Experts, RouterSoftmax, pad};
use nanoinfer_kernels::{
    Activate, AddWeighted, GROUP, LANES, Pack, Route, RouteGroups, StateSteps, Steps, Weigh,
};

use super::Pass;
use super::inputs::{Input, Needs};
use super::limits::panels_per_item;
use super::routing::PANELS;
use super::scratch::Local;
use crate::model::weights::{ExpertMatrices, Matrix};
use crate::pool::Worker;

impl Pass<'_> {
    /// Chooses the experts of every token. Every worker does this independently, which is cheaper than
    /// sharing the result.
    pub(crate) fn route(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        matrices: &ExpertMatrices,
        e: &Experts,
    ) {
        let m = self.m();
        let k = e.experts_per_token as usize;
        let n = e.n_experts as usize;
        let scores = self.scratch.experts.scores.read(w);
        let bias = matrices.router_bias.map_or(&[][..], |bias| &bias.values(self.file)[..n]);
        let groups = e.router_groups.map(|g| RouteGroups {
            n: g.n as usize,
            chosen: g.chosen as usize,
            best: g.best as usize,
        });
        let factors = matrices.scale.map(|scale| scale.values(self.file));
        let r = &mut local.routing;
        for token in 0..m {
            for (panel, to) in r.scores.chunks_exact_mut(LANES).enumerate() {
                to.copy_from_slice(&scores[(panel * m + token) * LANES..][..LANES]);
            }
            self.kernels.route(Route {
                logits: &mut r.scores[..n],
                sigmoid: e.router_sigmoid,
                bias,
                groups,
                distance: e.router_distance.map(|distance| distance as f32),
                over_chosen: e.router_softmax == RouterSoftmax::Chosen,
                chosen: &mut r.chosen[token * k..][..k],
                weights: &mut r.weights[token * k..][..k],
            });
            if let Some(factors) = factors {
                let chosen = r.chosen[token * k..][..k].iter();
                for (weight, &expert) in r.weights[token * k..][..k].iter_mut().zip(chosen) {
                    *weight *= factors[expert as usize];
                }
            }
        }
        r.group(m, k);
    }

    /// Computes the gate of the network beside the experts for every token. Every worker does this
    /// independently, as it is a single panel.
    pub(crate) fn shared_gates(&self, w: &Worker<'_>, local: &mut Local, gate: &Matrix) {
        let m = self.m();
        let Local { inputs, decoded, routing: r, .. } = local;
        let from = self.input(inputs, m).packed(w, gate.k, Needs::of(gate));
        let scores = &mut r.shared_scores[..m * LANES];
        self.product(gate, 0..1, &from, false, scores, decoded);
        (0..m).for_each(|token| scores[token] = scores[token * LANES]);
        let x = &r.shared_scores[..pad(m, LANES)];
        let (out, steps) = (&mut r.shared_gates[..x.len()], Steps::Sigmoid);
        self.kernels.state_steps(StateSteps { steps, x, bias: &[], a: &[], out });
    }

    /// Computes gate, up and activation of every active expert, and packs them as inputs of its down
    /// projection.
    pub(crate) fn experts_gate_up(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        (e, layer): (&ExpertMatrices, usize),
        config: &Experts,
    ) {
        let m = self.m();
        let k = e.gate_up.k;
        let groups = config.d_ff_padded() / GROUP;
        let (needs, hidden) = (Needs::of(&e.gate_up), Needs::of(&e.down));
        let Local { gate_up, act, inputs, decoded, routing: r, .. } = local;
        let (gated, projections) = (self.config.gated, self.config.ffn_inputs());
        let panels = projections * GROUP / LANES; // per item
        let items = r.active.len() * groups;
        let split = self.scratch.experts.hidden.by_run(w, items, r.max_tokens(), hidden);
        let from = self.input(inputs, m).lines(w, needs);
        let mut gathered = None;
        for item in w.items(items) {
            let (slot, group) = (item.index() / groups, item.index() % groups);
            let a = r.active[slot];
            if gathered != Some(slot) {
                r.gather_tokens(a, from, m, k);
                gathered = Some(slot);
            }
            let (gate_up, act) =
                (&mut gate_up[..projections * GROUP * a.n], &mut act[..GROUP * a.n]);
            let first = (a.expert * groups + group) * panels;
            let tokens = r.gathered.lines(needs).packed(0, a.n, k);
            self.product(&e.gate_up, first..first + panels, &tokens, false, gate_up, decoded);
            if config.weighted_inputs {
                // A factor of the inputs is one of the products.
                let weights = r.tokens_of(a).1;
                self.kernels.weigh(Weigh { x: &mut *gate_up, weights });
            }
            let (activation, x) = (self.activation(layer), &*gate_up);
            self.kernels.activate(Activate { activation, gated, x, m: a.n, out: act });
            for to in split.take(&item).tile(0).forms(0) {
                self.kernels.pack(Pack { x: act, m: a.n, at: 0, n: a.n, rotation: GROUP, to });
            }
        }
    }

    /// Adds the weighted outputs of each token's experts to the residual stream, then those of the network
    /// beside them. With norms of their own, stores the sum over the experts instead.
    pub(crate) fn experts_down(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        e: &ExpertMatrices,
        config: &Experts,
    ) {
        let m = self.m();
        let k = e.down.k;
        let needs = Needs::of(&e.down);
        let panels = e.down.panels / config.n_experts as usize;
        let Local { gate_up: y, decoded, routing: r, .. } = local;
        let apart = e.norms.is_some();
        let shared = e.shared.as_ref().filter(|_| !apart).map(|s| {
            let input = Input::shared(m, &self.scratch.hidden);
            (&s.down, input.packed(w, s.down.k, Needs::of(&s.down)))
        });
        r.gather_hidden(Input::shared(m, &self.scratch.experts.hidden).lines(w, needs), k);
        let chunk = panels_per_item(panels, self.workers, k).min(PANELS);
        let to = if apart { &self.scratch.experts.sum } else { &self.scratch.x };
        let split = to.split(w, panels * m * LANES, chunk * m * LANES);
        for item in w.items(panels.div_ceil(chunk)) {
            let at = item.index() * chunk;
            let n = chunk.min(panels - at);
            let out = split.take(&item).run();
            if apart {
                out.fill(0.0);
            }
            for a in &r.active {
                let first = a.expert * panels + at;
                let hidden = r.gathered.lines(needs).packed(a.row * k / GROUP, a.n, k);
                let y = &mut y[..n * a.n * LANES];
                self.product(&e.down, first..first + n, &hidden, false, y, decoded);
                let (tokens, weights) = r.tokens_of(*a);
                let weights = if config.weighted_inputs { &r.ones[..a.n] } else { weights };
                self.kernels.add_weighted(AddWeighted { y, tokens, weights, m, out });
            }
            let Some((down, hidden)) = &shared else { continue };
            if e.shared_gate.is_none() {
                self.product(down, at..at + n, hidden, true, out, decoded);
                continue;
            }
            let y = &mut y[..n * m * LANES];
            self.product(down, at..at + n, hidden, false, y, decoded);
            let (tokens, weights) = (&r.all[..m], &r.shared_gates[..m]);
            self.kernels.add_weighted(AddWeighted { y, tokens, weights, m, out });
        }
    }
}
