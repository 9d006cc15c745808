//! A batch under load: many cancellations, many requests, many prompts. The full counts take minutes:
//!
//!     cargo test --release -p nanoinfer-engine --test batch_load -- --ignored

mod common;
#[path = "common/batch.rs"]
mod harness;

use harness::*;
use nanoinfer_engine::{Class, Drafting, FinishReason, Overflow, Request, Sampling};

/// A linear congruential generator: numbers below `n`.
struct Random(u32);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as usize % n
    }
}

/// Eight streams, and a ninth client that leaves at a random moment and comes back.
fn cancellations_beside_streams(n: usize) {
    let model = llama();
    let mut alone = Alone::new(&model, Overflow::Stop);
    let (mut batch, mut random) = (batch(&model, 9, 60), Random(5));
    let mut cancelled = 0;
    while cancelled < n {
        let mut answers = Answers::default();
        let streams: Vec<Request> = (0..8)
            .map(|i| {
                let mut request = request(ids(20 + 9 * i, i as u32), 250);
                request.options.sampling = sampled(i as u64);
                request
            })
            .collect();
        let sent: Vec<_> = streams.iter().map(|s| batch.submit(s.clone()).unwrap()).collect();
        while sent.iter().any(|id| answers.0.get(id).is_none_or(|a| a.ended.is_none())) {
            let other = request(ids(1 + random.below(300), 50 + cancelled as u32 % 7), 30);
            let id = batch.submit(other).unwrap();
            (0..random.below(12)).for_each(|_| drop(answers.step(&mut batch)));
            batch.cancel(id);
            answers.step(&mut batch);
            assert!(answers.of(id).ended.is_some(), "it leaves within a step");
            cancelled += 1;
        }
        for (stream, id) in streams.iter().zip(sent) {
            assert_eq!(answers.of(id).tokens, alone.answer(stream).0);
        }
        answers.finish(&mut batch);
        assert_eq!(batch.engine().kv_blocks(), (60, 60), "the cache is at its baseline");
    }
}

#[test]
fn cancellations_do_not_disturb_streams() {
    cancellations_beside_streams(20);
}

#[test]
#[ignore = "takes minutes"]
fn a_thousand_cancellations_do_not_disturb_streams() {
    cancellations_beside_streams(1000);
}

/// One request, again and again: alone, among others, cached, preempted and resumed, with drafts.
fn the_same_request_in_any_company(n: usize) {
    let model = llama();
    let mut alone = Alone::new(&model, Overflow::Stop);
    let mut random = Random(9);
    for temperature in [0.0, 1.2] {
        let mut one = request(ids(90, 1), 40);
        one.options.sampling = Sampling { temperature, ..sampled(3) };
        one.options.ignore_eos = true;
        let want = alone.answer(&one).0;
        let mut batch = batch(&model, 64, 30);
        let mut preempted = 0;
        for round in 0..n {
            let mut answers = Answers::default();
            let (others, urgent) = ([0, 3, 63][round % 3], round / 6 % 2 == 1);
            // More urgent requests come later, so that it is preempted.
            let before = if urgent { 0 } else { others / 2 };
            for i in 0..before {
                batch.submit(request(ids(30 + i, i as u32), 60)).unwrap();
            }
            one.options.drafting = [Drafting::OFF, Drafting::default()][round / 3 % 2];
            one.class = if urgent { Class::Background } else { Class::Normal };
            let id = batch.submit(one.clone()).unwrap();
            (0..random.below(20)).for_each(|_| drop(answers.step(&mut batch)));
            for i in before..others {
                batch.submit(request(ids(30 + i, i as u32), 60)).unwrap();
            }
            let so_far = batch.load().preemptions;
            answers.finish(&mut batch);
            preempted += batch.load().preemptions - so_far;
            assert_eq!(answers.of(id).tokens, want, "round {round}");
        }
        assert!(preempted > 0 || n < 12);
    }
}

#[test]
fn a_request_is_answered_alike_in_any_company() {
    the_same_request_in_any_company(12);
}

#[test]
#[ignore = "takes minutes"]
fn a_request_is_answered_alike_100_times() {
    the_same_request_in_any_company(100);
}

/// Anonymous memory of this process, in bytes, whether resident or swapped; `None` if the system does
/// not say.
fn anonymous_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    Some((field("RssAnon:")? + field("VmSwap:")?) << 10)
}

/// Distinct prompts; memory after a tenth of them and after all of them is about the same.
fn distinct_prompts(n: usize) {
    let model = llama();
    let (mut batch, mut answers) = (batch(&model, 16, 64), Answers::default());
    let mut early = None;
    for i in 0..n {
        let mut prompt = ids(100, 0);
        prompt[..3].copy_from_slice(&[i, i / 300, i / 90_000].map(|x| (x % 300) as u32));
        batch.submit(request(prompt, 3)).unwrap();
        while batch.load().waiting > 20 {
            answers.step(&mut batch);
        }
        answers.0.retain(|_, answer| answer.ended.is_none());
        if i == n / 10 {
            early = anonymous_memory();
        }
    }
    answers.finish(&mut batch);
    assert!(answers.0.values().all(|a| a.ended == Some(FinishReason::Length)));
    if let (Some(early), Some(late)) = (early, anonymous_memory()) {
        assert!(late < early + (8 << 20), "from {} to {} MB", early >> 20, late >> 20);
    }
}

#[test]
fn memory_does_not_grow_with_the_number_of_prompts() {
    distinct_prompts(200);
}

#[test]
#[ignore = "takes minutes"]
fn memory_does_not_grow_over_10_000_prompts() {
    distinct_prompts(10_000);
}
