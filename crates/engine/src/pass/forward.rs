//! One forward pass, as run by every worker.
//!
//! Reads like the paper: a layer is norm, QKV, RoPE and cache, attention (or projection and recurrence, or
//! both), output, norm, and then either gate and up, and down, or experts. Architectures differ only in config
//! data read by the steps; no step depends on a model's name.
//!
//! A step is a method of [`Pass`] in another file and contains no barrier. The functions here
//! alternate steps and barriers, so the barriers of a pass can be counted by reading:
//!
//! - [`Local::end`] and [`Pass::agree`] are one barrier each;
//! - [`Pass::observe_output`] is one if there is an observer;
//! - [`Pass::end_packing`] is a barrier only if the workers packed inputs jointly, as for more than one
//!   tile of tokens; never when decoding.
//!
//! The barrier after a layer's last step is in `run`.

use nanoinfer_format::{QkNorm, Role};

use super::Pass;
use super::inputs::{Input, Needs};
use super::product::Dest;
use super::profile::Stage;
use super::scratch::Local;
use crate::model::weights::{
    Attention, Dense, ExpertMatrices, ExpertNorms, Ffn, LatentMatrices, Layer, LayerEmbedding,
    Matrix, RecurrentMixer,
};
use crate::pool::{Shared, Worker};

impl Pass<'_> {
    /// Runs the whole pass. Returns whether it was cancelled; the result is the same on every worker.
    pub(crate) fn run(&self, w: &mut Worker<'_>, local: &mut Local) -> bool {
        local.profile.begin();
        self.embed(w, local);
        if self.agree(w, local, Stage::Embed) {
            return true;
        }
        self.project_layer_embeddings(w, local);
        let layers = &self.part.layers;
        for (index, layer) in
            self.weights.layers.iter().enumerate().take(layers.end).skip(layers.start)
        {
            self.layer(w, local, layer, index);
            let sparse = matches!(layer.ffn, Some(Ffn::Experts(_)));
            if self.agree(w, local, if sparse { Stage::Experts } else { Stage::Down }) {
                return true;
            }
            self.observe_down(w, layer, index);
        }
        if !self.requested.is_empty() {
            self.head(w, local);
        }
        false
    }

    /// A barrier at which all workers agree on whether the pass is cancelled.
    fn agree(&self, w: &mut Worker<'_>, local: &mut Local, stage: Stage) -> bool {
        let cancelled = w.barrier_agree(self.cancelled);
        local.profile.mark(stage);
        cancelled
    }

    /// A barrier if the workers packed the inputs of `m` tokens jointly.
    fn end_packing(&self, w: &mut Worker<'_>, local: &mut Local, m: usize, stage: Stage) {
        if Self::shares_inputs(m) {
            w.barrier();
        }
        local.profile.mark(stage);
    }

    fn layer(&self, w: &mut Worker<'_>, local: &mut Local, layer: &Layer, index: usize) {
        if layer.attention.is_some() || layer.recurrent.is_some() {
            self.mix(w, local, layer, index);
        }
        match &layer.ffn {
            None => {}
            Some(Ffn::Dense(dense)) if self.config.parallel => {
                self.dense_output(w, local, layer, dense);
            }
            Some(Ffn::Dense(dense)) => self.dense(w, local, (layer, index), dense),
            Some(Ffn::Experts(experts)) => match &experts.norms {
                None => self.experts(w, local, (layer, index), experts),
                Some(norms) => self.experts_apart(w, local, (layer, index), (experts, norms)),
            },
        }
        if let Some(embedding) = &layer.embedding {
            local.end(w, Stage::Down);
            self.enter(w, local, (layer, index), embedding);
        }
    }

    /// Attention, a recurrence, or both of the same input, which in a parallel block is also that of the
    /// feed-forward network.
    fn mix(&self, w: &mut Worker<'_>, local: &mut Local, layer: &Layer, index: usize) {
        let (m, at) = (self.m(), Some(index));
        let needs = |needs: Needs, [input, _]: [&Matrix; 2]| needs.or(Needs::of(input));
        let beside = self.beside(layer);
        let first = beside.map_or(Needs::default(), |dense| Needs::of(&dense.gate_up));
        let needs = layer.projections().fold(first, needs);
        let queries = layer.attention.as_ref().and_then(|a| a.queries_of_stream());
        let needs = queries.map_or(needs, |queries| needs.or(Needs::of(queries)));
        self.pack_norm(w, local, layer.attn_norm.as_ref(), needs);
        self.end_packing(w, local, m, Stage::Norm);
        if let Some(Attention { qkv, .. }) = &layer.attention {
            self.project(w, local, &self.scratch.qkv, (qkv, Role::AttnQkv, at));
        }
        if let Some(queries) = layer.attention.as_ref().and_then(|a| a.queries_of_stream()) {
            self.project(w, local, &self.scratch.latent_queries, (queries, Role::AttnQB, at));
        }
        if let Some(RecurrentMixer { input, .. }) = &layer.recurrent {
            self.project(w, local, &self.scratch.projected, (input, Role::SsmIn, at));
        }
        if let Some(dense) = beside {
            self.dense_hidden(w, local, index, dense);
        }
        if let Some(attention) = &layer.attention {
            let output = &attention.output;
            if let Some(latent) = &attention.latent {
                self.attend_latent(w, local, (attention, index), latent);
                self.pack_head_values(w, local, index, Needs::of(output));
            } else {
                self.attend(w, local, attention, index);
                self.pack_attention(w, local, index, Needs::of(output));
            }
            self.add_output(w, local, layer, (output, Role::AttnOutput, at));
        }
        if let Some(mixer) = &layer.recurrent {
            self.recur(w, local, index, mixer);
            self.pack_recurrent(w, local, mixer);
            self.add_output(w, local, layer, (&mixer.output, Role::SsmOut, at));
        }
    }

    /// The feed-forward network whose input is that of attention.
    fn beside<'l>(&self, layer: &'l Layer) -> Option<&'l Dense> {
        match &layer.ffn {
            Some(Ffn::Dense(dense)) if self.config.parallel => Some(dense),
            _ => None,
        }
    }

    /// Stores the product of the packed inputs of a layer.
    fn project(
        &self,
        w: &mut Worker<'_>,
        local: &mut Local,
        to: &Shared<f32>,
        at: (&Matrix, Role, Option<usize>),
    ) {
        let Local { inputs, decoded, .. } = &mut *local;
        self.matmul(w, at.0, self.input(inputs, self.m()), Dest::Store(to), decoded);
        self.observe_inputs(w, local, at);
        local.end(w, Stage::Qkv);
    }

    /// Adds the product of packed inputs to the residual stream.
    fn add_output(
        &self,
        w: &mut Worker<'_>,
        local: &mut Local,
        layer: &Layer,
        at: (&Matrix, Role, Option<usize>),
    ) {
        let (m, (output, ..)) = (self.m(), at);
        self.end_packing(w, local, m, Stage::PackAttention);
        let norm = layer.attn_post_norm.as_ref();
        let Local { inputs, decoded, .. } = &mut *local;
        self.matmul(w, output, self.input(inputs, m), self.residual(norm), decoded);
        local.end(w, Stage::AttnOutput);
        if let Some(norm) = norm {
            self.add_normed(w, local, norm, None);
            local.end(w, Stage::AttnOutput);
        }
        self.observe_output(w, local, at);
    }

    /// Attention, from projected queries, keys and values to the outputs of heads.
    fn attend(&self, w: &mut Worker<'_>, local: &mut Local, attention: &Attention, index: usize) {
        if self.config.qk_norm == QkNorm::Full {
            self.norm_all_heads(w, local, (attention, index));
            local.end(w, Stage::Norm);
        }
        if !self.config.caches(index) {
            self.attention(w, local, index); // to what an earlier layer has stored
        } else if self.attends_by_heads() {
            self.store_and_attend(w, local, index);
        } else {
            self.store_kv(w, local, index);
            local.end(w, Stage::Cache);
            self.attention(w, local, index);
        }
        local.end(w, Stage::Attention);
    }

    /// Latent attention, from projected vectors to the outputs of heads.
    fn attend_latent(
        &self,
        w: &mut Worker<'_>,
        local: &mut Local,
        (attention, index): (&Attention, usize),
        LatentMatrices { queries, keys, values }: &LatentMatrices,
    ) {
        let (Some(latent), m) = (&self.config.latent, self.m()) else { return };
        if attention.queries_of_stream().is_none() {
            let norm = attention.q_norm.as_ref();
            self.pack_query_vectors(w, local, latent, (norm, Needs::of(queries)));
            self.end_packing(w, local, m, Stage::Norm);
            let Local { inputs, decoded, .. } = &mut *local;
            let to = Dest::Store(&self.scratch.latent_queries);
            self.matmul(w, queries, self.input(inputs, m), to, decoded);
            local.end(w, Stage::Qkv);
        }
        self.absorb_queries(w, local, latent, keys);
        local.end(w, Stage::Qkv);
        self.store_kv(w, local, index);
        local.end(w, Stage::Cache);
        self.attention(w, local, index);
        local.end(w, Stage::Attention);
        self.project_values(w, local, index, values);
        local.end(w, Stage::PackAttention);
    }

    /// The recurrence, from projected channels to the outputs of heads.
    fn recur(&self, w: &mut Worker<'_>, local: &mut Local, index: usize, mixer: &RecurrentMixer) {
        self.convolve(w, local, index, mixer);
        local.end(w, Stage::Convolve);
        if mixer.config.has_matrix() {
            self.step_states(w, local, index, mixer);
            local.end(w, Stage::States);
        }
    }

    fn dense(
        &self,
        w: &mut Worker<'_>,
        local: &mut Local,
        (layer, index): (&Layer, usize),
        dense: &Dense,
    ) {
        self.pack_norm(w, local, layer.ffn_norm.as_ref(), Needs::of(&dense.gate_up));
        self.end_packing(w, local, self.m(), Stage::Norm);
        self.dense_hidden(w, local, index, dense);
        self.dense_output(w, local, layer, dense);
    }

    /// The hidden values of a feed-forward network whose inputs have been packed.
    fn dense_hidden(&self, w: &mut Worker<'_>, local: &mut Local, index: usize, dense: &Dense) {
        let Dense { gate_up, down } = dense;
        self.gate_up(w, local, (gate_up, index), Needs::of(down));
        self.observe_inputs(w, local, (gate_up, Role::FfnGateUp, Some(index)));
        local.end(w, Stage::GateUp);
    }

    /// Adds the output of a feed-forward network to the residual stream.
    fn dense_output(&self, w: &mut Worker<'_>, local: &mut Local, layer: &Layer, dense: &Dense) {
        let norm = layer.ffn_post_norm.as_ref();
        let (from, to) = (Input::shared(self.m(), &self.scratch.hidden), self.residual(norm));
        self.matmul(w, &dense.down, from, to, &mut local.decoded);
        if let Some(norm) = norm {
            local.end(w, Stage::Down);
            self.add_normed(w, local, norm, layer.scale_of_ffn());
        }
    }

    /// Projects the embeddings of tokens to what enters each layer, if anything does.
    fn project_layer_embeddings(&self, w: &mut Worker<'_>, local: &mut Local) {
        let (Some(entering), s) = (&self.weights.layer_embeddings, self.scratch) else { return };
        let (m, projection) = (self.m(), &entering.projection);
        self.pack_stream(w, local, &s.delta, (None, Needs::of(projection)));
        self.end_packing(w, local, m, Stage::Embed);
        let Local { inputs, decoded, .. } = &mut *local;
        let to = Dest::Store(&s.layer_projected);
        self.matmul(w, projection, self.input(inputs, m), to, decoded);
        local.end(w, Stage::Embed);
    }

    /// Adds the embedding of a token for this layer, gated by the residual stream.
    fn enter(
        &self,
        w: &mut Worker<'_>,
        local: &mut Local,
        (layer, index): (&Layer, usize),
        LayerEmbedding { gate, output, norm }: &LayerEmbedding,
    ) {
        let (m, s) = (self.m(), self.scratch);
        self.pack_norm(w, local, None, Needs::of(gate));
        self.end_packing(w, local, m, Stage::Norm);
        let Local { inputs, decoded, .. } = &mut *local;
        self.matmul(w, gate, self.input(inputs, m), Dest::Store(&s.layer_gates), decoded);
        local.end(w, Stage::Down);
        self.pack_entering(w, local, index, Needs::of(output));
        self.end_packing(w, local, m, Stage::Norm);
        let Local { inputs, decoded, .. } = &mut *local;
        self.matmul(w, output, self.input(inputs, m), Dest::Store(&s.delta), decoded);
        local.end(w, Stage::Down);
        self.add_normed(w, local, norm, layer.scale.as_ref());
    }

    fn experts(
        &self,
        w: &mut Worker<'_>,
        local: &mut Local,
        (layer, index): (&Layer, usize),
        e: &ExpertMatrices,
    ) {
        let Some(config) = &self.config.experts else { return };
        let (m, scores) = (self.m(), &self.scratch.experts.scores);
        let shared = e.shared.as_ref().map_or(Needs::default(), |s| Needs::of(&s.gate_up));
        let needs = Needs::of(&e.router).or(Needs::of(&e.gate_up)).or(shared);
        self.pack_norm(w, local, layer.ffn_norm.as_ref(), needs);
        self.end_packing(w, local, m, Stage::Norm);
        let Local { inputs, decoded, .. } = local;
        self.matmul(w, &e.router, self.input(inputs, m), Dest::Store(scores), decoded);
        self.observe_inputs(w, local, (&e.gate_up, Role::FfnGateUpExperts, Some(index)));
        local.end(w, Stage::Router);
        if let Some(shared) = &e.shared {
            self.gate_up(w, local, (&shared.gate_up, index), Needs::of(&shared.down));
            self.observe_inputs(w, local, (&shared.gate_up, Role::FfnGateUp, Some(index)));
            local.end(w, Stage::GateUp);
        }
        self.route(w, local, e, config);
        if let Some(gate) = &e.shared_gate {
            self.shared_gates(w, local, gate);
        }
        self.experts_gate_up(w, local, (e, index), config);
        local.end(w, Stage::Experts);
        self.experts_down(w, local, e, config);
    }

    /// Experts and the network beside them, with norms of their own.
    fn experts_apart(
        &self,
        w: &mut Worker<'_>,
        local: &mut Local,
        (layer, index): (&Layer, usize),
        (e, norms): (&ExpertMatrices, &ExpertNorms),
    ) {
        let (Some(config), Some(shared), Some(norm)) =
            (&self.config.experts, &e.shared, &layer.ffn_post_norm)
        else {
            return;
        };
        let (m, s) = (self.m(), self.scratch);
        self.pack_norm(w, local, layer.ffn_norm.as_ref(), Needs::of(&shared.gate_up));
        self.end_packing(w, local, m, Stage::Norm);
        self.dense_hidden(w, local, index, shared);
        let hidden = Input::shared(m, &s.hidden);
        self.matmul(w, &shared.down, hidden, Dest::Store(&s.delta), &mut local.decoded);
        local.end(w, Stage::Down);
        self.pack_norm(w, local, Some(&norms.router), Needs::of(&e.router));
        self.end_packing(w, local, m, Stage::Norm);
        let Local { inputs, decoded, .. } = &mut *local;
        let scores = Dest::Store(&s.experts.scores);
        self.matmul(w, &e.router, self.input(inputs, m), scores, decoded);
        local.end(w, Stage::Router);
        self.pack_norm(w, local, Some(&norms.input), Needs::of(&e.gate_up));
        self.end_packing(w, local, m, Stage::Norm);
        self.observe_inputs(w, local, (&e.gate_up, Role::FfnGateUpExperts, Some(index)));
        self.route(w, local, e, config);
        self.experts_gate_up(w, local, (e, index), config);
        local.end(w, Stage::Experts);
        self.experts_down(w, local, e, config);
        local.end(w, Stage::Experts);
        self.add_normed_experts(w, local, (norms, norm), layer.scale_of_ffn());
    }

    /// Final norm and output layer, for the rows that request logits.
    pub(crate) fn head(&self, w: &mut Worker<'_>, local: &mut Local) {
        let (m, output) = (self.requested.len(), &self.weights.output);
        self.pack_requested(w, local);
        self.end_packing(w, local, m, Stage::Head);
        let Local { inputs, decoded, .. } = local;
        let to = Dest::Logits(&self.scratch.logits);
        self.matmul(w, output, self.input(inputs, m), to, decoded);
        self.observe_inputs(w, local, (output, Role::Output, None));
        local.end(w, Stage::Head);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nanoinfer_format::Quant;
    use nanoinfer_packer::{Input, Options, convert};

    use crate::{BatchToken, Engine, EngineOptions, Model};

    /// Number of barriers per layer in a pass of one token, and in a pass of 17 tokens (more than one
    /// tile).
    fn barriers(model: &str) -> [u64; 2] {
        const OUTSIDE_LAYERS: u64 = 3; // after the embedding, after the head, at the end of the job
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny").join(model);
        let out = tempfile::tempdir().unwrap();
        let file = out.path().join("model.nano");
        convert(&Input::Folder(folder), &file, Options::new(Quant::Q8)).unwrap();
        let options = EngineOptions { threads: Some(2), ..EngineOptions::default() };
        let mut engine = Engine::new(Model::open(&file).unwrap(), &options).unwrap();
        let layers = u64::from(engine.model().config().n_layers);
        let seq = engine.open().unwrap();
        [1, 17].map(|m| {
            let batch: Vec<_> =
                (0..m).map(|i| BatchToken { seq, token: i, logits: i == 0 }).collect();
            let before = engine.phases();
            engine.forward(&batch).unwrap();
            let all = engine.phases() - before - OUTSIDE_LAYERS;
            assert!(all.is_multiple_of(layers), "{all} in {layers} layers");
            all / layers
        })
    }

    #[test]
    fn a_layer_has_the_expected_number_of_barriers() {
        assert_eq!(barriers("llama-gqa"), [5, 9]);
        assert_eq!(barriers("olmo2"), [8, 12], "a norm over all heads, and two post-norms");
        assert_eq!(barriers("mixtral-experts"), [6, 10], "a router");
        assert_eq!(barriers("gemma4-experts"), [10, 16], "experts with norms of their own");
        assert_eq!(barriers("minicpm3"), [9, 13], "latent attention");
        assert_eq!(barriers("cohere2"), [5, 8], "one norm for attention and feed-forward");
    }
}
