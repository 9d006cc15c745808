//! What a batch determines of prompts: hidden states as transformers computes them, log-probabilities as in
//! answers, and the same bits in any company, chunked, cached and after preemptions.

mod common;
#[path = "common/batch.rs"]
mod harness;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{data, log_softmax, logits, model};
use harness::*;
use nanoinfer_engine::{
    Batch, BatchOptions, BatchToken, Class, Engine, EngineOptions, Error, Event, FinishReason, Isa,
    KvType, Model, Overflow, Pooling, PromptOutput, PromptValues, Request, RequestId,
};
use nanoinfer_format::Quant;
use nanoinfer_kernels::Kernels;

const MEAN: PromptOutput = PromptOutput::Hidden(Pooling::Mean);
const LAST: PromptOutput = PromptOutput::Hidden(Pooling::Last);

fn outputs() -> [PromptOutput; 5] {
    let next = PromptOutput::Next(vec![5, 319, 5]);
    [MEAN, LAST, PromptOutput::Logprobs(3), next, PromptOutput::Logits]
}

/// A request for an output, with `max_tokens` tokens if the output permits an answer.
fn reading(prompt: Vec<u32>, output: PromptOutput, max_tokens: usize) -> Request {
    Request { output: Some(output), ..request(prompt, max_tokens) }
}

/// The bits of what was determined.
fn bits(values: &PromptValues) -> Vec<u32> {
    match values {
        PromptValues::Hidden(values)
        | PromptValues::Next(values)
        | PromptValues::Logits(values) => values.iter().map(|x| x.to_bits()).collect(),
        PromptValues::Logprobs(all) => {
            let all = all.iter();
            all.flat_map(|(logprob, top)| token(0, logprob, top).1).collect()
        }
        _ => panic!("unknown values"),
    }
}

/// What came of requests: the bits of the outputs, and the ids of the answers.
#[derive(Default)]
struct Results {
    values: BTreeMap<RequestId, Vec<u32>>,
    tokens: BTreeMap<RequestId, Vec<u32>>,
    ended: BTreeMap<RequestId, FinishReason>,
}

impl Results {
    fn step(&mut self, batch: &mut Batch) {
        for event in batch.step().unwrap() {
            match event.event.unwrap() {
                Event::Prompt { values } => {
                    assert!(!self.tokens.contains_key(&event.id), "it precedes the answer");
                    assert!(self.values.insert(event.id, bits(values)).is_none(), "it comes once");
                }
                Event::Token { id, .. } => self.tokens.entry(event.id).or_default().push(id),
                Event::Finished { reason, .. } => drop(self.ended.insert(event.id, reason)),
                _ => {}
            }
        }
    }

    fn finish(&mut self, batch: &mut Batch) {
        for _ in 0..20_000 {
            if batch.is_idle() {
                return;
            }
            self.step(batch);
        }
        panic!("no end in sight: {:?}", batch.load());
    }
}

fn values(batch: &mut Batch, request: Request) -> Vec<u32> {
    let id = batch.submit(request).unwrap();
    let mut results = Results::default();
    results.finish(batch);
    assert_eq!(results.ended[&id], FinishReason::Length);
    results.values.remove(&id).unwrap()
}

fn floats(bits: &[u32]) -> Vec<f32> {
    bits.iter().map(|&x| f32::from_bits(x)).collect()
}

#[test]
fn hidden_states_are_those_of_transformers() {
    let json = std::fs::read(data("hidden-golden.json")).unwrap();
    let golden: serde_json::Map<_, _> = serde_json::from_slice(&json).unwrap();
    assert!(golden.len() >= 6);
    for (name, golden) in golden {
        let folder = data("tiny").join(&name);
        let json = std::fs::read(folder.join("golden.json")).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let prompt: Vec<u32> = serde_json::from_value(json["prompt"].clone()).unwrap();
        for (quant, limit) in [(Quant::F32, 1e-5), (Quant::Q8, 0.15)] {
            let mut batch =
                Batch::new(common::engine(model(&folder, quant), 2), BatchOptions::default());
            for (output, key) in [(MEAN, "mean"), (LAST, "last")] {
                let want: Vec<f32> = serde_json::from_value(golden[key].clone()).unwrap();
                let got = floats(&values(&mut batch, reading(prompt.clone(), output, 9)));
                assert_eq!(got.len(), want.len());
                let errors = got.iter().zip(&want).map(|(a, b)| (a - b).abs());
                let error = errors.fold(0.0, f32::max);
                println!("{name} {} {key}: {error:.1e}", quant.name());
                assert!(error <= limit, "{name} {} {key}: {error}", quant.name());
            }
        }
    }
}

/// An engine of its own for each way to run a prompt.
fn alone(model: &Arc<Model>, options: EngineOptions, request: Request) -> Vec<u32> {
    let options = EngineOptions { ctx: Some(CTX), ..options };
    let engine = Engine::new(Arc::clone(model), &options).unwrap();
    values(&mut Batch::new(engine, BatchOptions::default()), request)
}

#[test]
fn the_bits_do_not_depend_on_how_a_prompt_is_run() {
    let model = llama();
    let prompt = ids(300, 2);
    let base = || EngineOptions { threads: Some(1), ..EngineOptions::default() };
    for output in outputs() {
        let request = reading(prompt.clone(), output.clone(), 0);
        let want = alone(&model, base(), request.clone());
        let mut ways = vec![
            EngineOptions { threads: Some(3), ..base() },
            EngineOptions { chunk: 1, ..base() },
            EngineOptions { chunk: 37, logits_rows: 5, ..base() },
            EngineOptions { logits_rows: 256, ..base() },
        ];
        let isas = Isa::ALL.into_iter().filter(|isa| Kernels::new(*isa).is_some());
        ways.extend(isas.map(|isa| EngineOptions { isa: Some(isa), ..base() }));
        for way in ways {
            assert_eq!(alone(&model, way.clone(), request.clone()), want, "{output:?} {way:?}");
        }
        // With all of it in the cache, twice.
        let mut batch = batch(&model, 2, 16);
        for request in [harness::request(prompt.clone(), 3), request.clone(), request.clone()] {
            let id = batch.submit(request.clone()).unwrap();
            let mut results = Results::default();
            results.finish(&mut batch);
            assert_eq!(results.values.get(&id), request.output.is_some().then_some(&want));
        }
    }
}

#[test]
fn in_company_and_after_preemptions_the_bits_are_the_same() {
    let model = llama();
    let mut solo = batch(&model, 1, 16);
    // All prompts share their beginnings, so that some would follow others.
    let requests: Vec<Request> = (0..24)
        .map(|i| {
            let prompt = ids(2 + 53 * i % 400, i as u32 % 3);
            let class = if i % 5 == 0 { Class::Interactive } else { Class::Background };
            let output = (i % 6 < 5).then(|| outputs()[i % 6].clone());
            Request { class, output, key: i as u64 % 3, ..request(prompt, 20 + i) }
        })
        .collect();
    let mut batch = batch(&model, 6, 14);
    let (mut results, mut sent) = (Results::default(), Vec::new());
    for (i, request) in requests.iter().enumerate() {
        sent.push(batch.submit(request.clone()).unwrap());
        (0..i % 3).for_each(|_| results.step(&mut batch));
    }
    results.finish(&mut batch);
    assert!(batch.load().preemptions > 0);
    for (request, id) in requests.iter().zip(&sent) {
        let alone = solo.submit(request.clone()).unwrap();
        let mut want = Results::default();
        want.finish(&mut solo);
        assert_eq!(results.values.get(id), want.values.get(&alone), "{:?}", request.output);
        assert_eq!(results.tokens.get(id), want.tokens.get(&alone), "{:?}", request.output);
        assert_eq!(results.values.contains_key(id), request.output.is_some());
    }
    let (all, unused) = batch.engine().kv_blocks();
    assert_eq!(all, unused);
}

#[test]
fn log_probabilities_are_the_log_softmax_of_the_logits() {
    let (model, prompt) = (llama(), ids(70, 1));
    let mut engine = engine(&model, 2, 16, Overflow::Stop);
    let rows = logits(&mut engine, &prompt, 16);
    let mut batch = batch_of(engine);
    let scored = values(&mut batch, reading(prompt.clone(), PromptOutput::Logprobs(2), 1));
    assert_eq!(scored.len(), 69 * 5);
    for (at, scored) in scored.chunks(5).enumerate() {
        let want = log_softmax(&rows[at]);
        let close = |got: u32, id: u32| {
            let (got, want) = (f64::from(f32::from_bits(got)), want[id as usize]);
            assert!((got - want).abs() < 1e-5, "position {at}: {got}, not {want}");
        };
        close(scored[0], prompt[at + 1]);
        close(scored[2], scored[1]);
        close(scored[4], scored[3]);
        let best = want.iter().copied().fold(f64::MIN, f64::max);
        assert_eq!(want[scored[1] as usize], best);
    }
    let next = values(&mut batch, reading(prompt, PromptOutput::Next(vec![7, 8]), 0));
    for (got, id) in next.iter().zip([7, 8]) {
        let want = log_softmax(&rows[69])[id];
        assert!((f64::from(f32::from_bits(*got)) - want).abs() < 1e-5);
    }
}

#[test]
fn logits_of_a_prompt_are_those_of_a_forward_pass() {
    let (model, prompt) = (llama(), ids(150, 1));
    let mut engine = engine(&model, 2, 16, Overflow::Stop);
    let rows = logits(&mut engine, &prompt, 16);
    let mut batch = batch_of(engine);
    let got = values(&mut batch, reading(prompt, PromptOutput::Logits, 0));
    let want: Vec<u32> = rows.iter().flatten().map(|x| x.to_bits()).collect();
    assert_eq!(got, want);
}

/// The requested logits are computed again after others took their place.
#[test]
fn scoring_one_request_leaves_the_draws_of_others_alone() {
    let model = llama();
    let mut solo = batch(&model, 1, 16);
    let plain = request(ids(30, 4), 40);
    let alone = solo.submit(plain.clone()).unwrap();
    let mut want = Results::default();
    want.finish(&mut solo);
    let mut batch = batch(&model, 3, 32);
    let (mut results, id) = (Results::default(), batch.submit(plain).unwrap());
    (0..3).for_each(|_| results.step(&mut batch));
    for i in 0..4 {
        batch.submit(reading(ids(200, i), PromptOutput::Logprobs(1), 2)).unwrap();
    }
    results.finish(&mut batch);
    assert_eq!(results.tokens[&id], want.tokens[&alone]);
}

#[test]
fn short_prompts_and_bad_tokens() {
    let mut batch = batch(&llama(), 2, 16);
    for output in outputs() {
        let got = values(&mut batch, reading(vec![9], output.clone(), 0));
        let n = match output {
            PromptOutput::Logprobs(_) => 0, // nothing precedes the first token
            PromptOutput::Next(ids) => ids.len(),
            PromptOutput::Logits => 320,
            _ => batch.engine().model().config().d_model as usize,
        };
        assert_eq!(got.len(), n);
    }
    let outside = reading(vec![9], PromptOutput::Next(vec![320]), 0);
    assert!(matches!(batch.submit(outside), Err(Error::Token { token: 320, vocab: 320 })));
}

#[test]
fn a_cancelled_request_has_no_values() {
    let mut batch = batch(&llama(), 2, 16);
    let id = batch.submit(reading(ids(600, 1), MEAN, 0)).unwrap();
    let mut results = Results::default();
    results.step(&mut batch);
    batch.cancel(id);
    results.finish(&mut batch);
    assert_eq!(results.ended[&id], FinishReason::Cancelled);
    assert!(results.values.is_empty());
    let (all, unused) = batch.engine().kv_blocks();
    assert_eq!(all, unused);
}

#[test]
fn hidden_states_of_a_pass_are_there_until_the_next() {
    let mut engine = common::engine(model(&data("tiny/llama-gqa"), Quant::Q8), 1);
    let seq = engine.open().unwrap();
    let pass = |engine: &mut Engine, token| {
        engine.forward(&[BatchToken { seq, token, logits: false }]).unwrap()
    };
    let first = pass(&mut engine, 7);
    assert_eq!(engine.hidden(first, 0).unwrap().len(), 128);
    assert!(matches!(engine.hidden(first, 1), Err(Error::HiddenRow { index: 1, rows: 1 })));
    pass(&mut engine, 8);
    assert!(matches!(engine.hidden(first, 0), Err(Error::LogitsGone)));
    assert_ne!(engine.kv(), KvType::F32);
}
