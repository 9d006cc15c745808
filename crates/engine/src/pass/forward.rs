//! One forward pass, as every worker runs it.
//!
//! Reads like the paper: a layer is norm, QKV, RoPE and cache, attention, output, norm, gate and
//! up, down, or experts. What differs from one architecture to the next is data of the config; a
//! step reads it and knows no names.
//!
//! A step is a method of [`Pass`] in another file, and contains no barrier. The functions here list
//! steps and barriers alternately, so the barriers of a pass can be counted by reading them:
//!
//! - [`Local::step`] and [`Pass::agree`] are a barrier each;
//! - [`Pass::end_packing`] is one if workers packed inputs together, which they do for more than
//!   one tile of tokens: in decoding it is none.
//!
//! The last step of a layer has its barrier in `run`.

use nanoinfer_format::QkNorm;

use super::Pass;
use super::inputs::{Input, Needs};
use super::product::Dest;
use super::profile::Stage;
use super::scratch::Local;
use crate::model::weights::{ExpertMatrices, Ffn, Layer, Matrix};
use crate::pool::Worker;

impl Pass<'_> {
    /// The whole pass. Returns whether it was cancelled, the same on every worker.
    pub(crate) fn run(&self, w: &mut Worker<'_>, local: &mut Local) -> bool {
        local.profile.begin();
        self.embed(w, local);
        if self.agree(w, local, Stage::Embed) {
            return true;
        }
        for (index, layer) in self.weights.layers.iter().enumerate() {
            self.layer(w, local, layer, index);
            if self.agree(w, local, Stage::Down) {
                return true;
            }
        }
        if !self.wanted.is_empty() {
            self.head(w, local);
        }
        false
    }

    /// A barrier at which all workers learn whether the pass is cancelled.
    fn agree(&self, w: &mut Worker<'_>, local: &mut Local, step: Stage) -> bool {
        let cancelled = w.barrier_agree(self.cancelled);
        local.profile.mark(step);
        cancelled
    }

    /// A barrier if the workers have packed the inputs of `m` tokens together.
    fn end_packing(&self, w: &mut Worker<'_>, local: &mut Local, m: usize, step: Stage) {
        if Self::shares_inputs(m) {
            w.barrier();
        }
        local.profile.mark(step);
    }

    fn layer(&self, w: &mut Worker<'_>, local: &mut Local, layer: &Layer, index: usize) {
        let (m, qkv, output) = (self.m(), &layer.attn_qkv, &layer.attn_output);
        self.pack_norm(w, local, layer.attn_norm.as_ref(), Needs::of(qkv));
        self.end_packing(w, local, m, Stage::Norm);
        self.matmul(w, qkv, self.input(&local.inputs, m), Dest::Store(&self.scratch.qkv));
        local.step(w, Stage::Qkv);
        if self.config.qk_norm == QkNorm::Full {
            self.norm_all_heads(w, local, layer);
            local.step(w, Stage::Norm);
        }
        if self.attends_by_heads() {
            self.store_and_attend(w, local, index);
        } else {
            self.store_kv(w, local, index);
            local.step(w, Stage::Cache);
            self.attention(w, local, index);
        }
        local.step(w, Stage::Attention);
        self.pack_attention(w, local, index, Needs::of(output));
        self.end_packing(w, local, m, Stage::PackAttention);
        let norm = layer.attn_post_norm.as_ref();
        self.matmul(w, output, self.input(&local.inputs, m), self.residual(norm));
        local.step(w, Stage::AttnOutput);
        if let Some(norm) = norm {
            self.add_normed(w, local, norm);
            local.step(w, Stage::AttnOutput);
        }
        match &layer.ffn {
            Ffn::Dense { gate_up, down } => self.dense(w, local, layer, [gate_up, down]),
            Ffn::Experts(experts) => self.experts(w, local, layer, experts),
        }
    }

    fn dense(
        &self,
        w: &mut Worker<'_>,
        local: &mut Local,
        layer: &Layer,
        [gate_up, down]: [&Matrix; 2],
    ) {
        let m = self.m();
        self.pack_norm(w, local, layer.ffn_norm.as_ref(), Needs::of(gate_up));
        self.end_packing(w, local, m, Stage::Norm);
        self.gate_up(w, local, gate_up, Needs::of(down));
        local.step(w, Stage::GateUp);
        let norm = layer.ffn_post_norm.as_ref();
        self.matmul(w, down, Input::shared(m, &self.scratch.hidden), self.residual(norm));
        if let Some(norm) = norm {
            local.step(w, Stage::Down);
            self.add_normed(w, local, norm);
        }
    }

    fn experts(&self, w: &mut Worker<'_>, local: &mut Local, layer: &Layer, e: &ExpertMatrices) {
        let Some(config) = &self.config.experts else { return };
        let (m, scores) = (self.m(), &self.scratch.experts.scores);
        let needs = Needs::of(&e.router).or(Needs::of(&e.gate_up));
        self.pack_norm(w, local, layer.ffn_norm.as_ref(), needs);
        self.end_packing(w, local, m, Stage::Norm);
        self.matmul(w, &e.router, self.input(&local.inputs, m), Dest::Store(scores));
        local.step(w, Stage::GateUp);
        self.route(w, local, config);
        self.experts_gate_up(w, local, e, config);
        local.step(w, Stage::GateUp);
        self.experts_down(w, local, e, config);
    }

    /// Final norm and output layer, for the wanted rows only.
    fn head(&self, w: &mut Worker<'_>, local: &mut Local) {
        let (m, output) = (self.wanted.len(), &self.weights.output);
        self.pack_wanted(w, local);
        self.end_packing(w, local, m, Stage::Head);
        self.matmul(w, output, self.input(&local.inputs, m), Dest::Logits(&self.scratch.logits));
        local.step(w, Stage::Head);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nanoinfer_format::Quant;
    use nanoinfer_packer::{Input, Options, convert};

    use crate::{BatchToken, Engine, EngineOptions, Model};

    /// Barriers of a layer in a pass of one token and in one of 17, which is more than one tile.
    fn barriers(model: &str) -> [u64; 2] {
        const BESIDES: u64 = 3; // after the embedding, after the head, at the end of the job
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
            let steps: Vec<_> =
                (0..m).map(|i| BatchToken { seq, token: i, logits: i == 0 }).collect();
            let before = engine.phases();
            engine.forward(&steps).unwrap();
            let all = engine.phases() - before - BESIDES;
            assert!(all.is_multiple_of(layers), "{all} in {layers} layers");
            all / layers
        })
    }

    #[test]
    fn a_layer_has_the_barriers_that_its_list_shows() {
        assert_eq!(barriers("llama-gqa"), [5, 9]);
        assert_eq!(barriers("olmo2"), [8, 12], "a norm over all heads, and two of outputs");
        assert_eq!(barriers("mixtral-experts"), [6, 10], "a router");
    }
}
