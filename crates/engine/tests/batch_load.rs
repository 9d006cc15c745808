//! A batch under load: the same request in any company, clients that leave, many prompts. On tiny models,
//! with and without recurrent layers, and with fewer and shorter requests on SmolLM2. The full counts take minutes:
//!
//!     cargo test -p nanoinfer-engine --test batch_load -- --ignored

mod common;
#[path = "common/batch.rs"]
mod harness;

use std::collections::BTreeMap;
use std::sync::Arc;

use harness::*;
use nanoinfer_engine::{
    Batch, Class, Drafting, FinishReason, Message, Model, Overflow, Request, Sampling,
};

/// How often, and how long answers are.
struct Scale {
    model: Arc<Model>,
    n: usize,
    tokens: usize,
}

fn tiny(n: usize) -> Scale {
    Scale { model: llama(), n, tokens: 250 }
}

fn recurrent(n: usize) -> Scale {
    Scale { model: hybrid(), n, tokens: 250 }
}

fn small(n: usize) -> Scale {
    Scale { model: smollm2(), n, tokens: 50 }
}

/// Eight streams, and a ninth client that leaves at a random moment, while it waits, reads its prompt or
/// answers, and comes back.
fn cancellations_beside_streams(Scale { model, n, tokens }: Scale) {
    let mut alone = Alone::new(&model, Overflow::Stop);
    let (mut batch, mut random) = (batch(&model, 9, 60), Random(5));
    let streams: Vec<Request> = (0..8)
        .map(|i| {
            let mut request = request(ids(20 + 9 * i, i as u32), tokens);
            request.options.sampling = sampled(i as u64);
            request.options.ignore_eos = true;
            request
        })
        .collect();
    let want: Vec<_> = streams.iter().map(|stream| alone.answer(stream).0).collect();
    let (mut cancelled, mut phases) = (0, BTreeMap::<_, usize>::new());
    while cancelled < n {
        let mut answers = Answers::default();
        let sent: Vec<_> = streams.iter().map(|s| batch.submit(s.clone()).unwrap()).collect();
        answers.step(&mut batch);
        while sent.iter().any(|id| answers.0.get(id).is_none_or(|a| a.ended.is_none())) {
            let other = request(ids(1 + random.below(200), 50 + cancelled as u32 % 7), 30);
            let id = batch.submit(other).unwrap();
            let most = [3, 12][cancelled % 2]; // a prompt takes up to four passes
            (0..random.below(most)).for_each(|_| drop(answers.step(&mut batch)));
            let phase = answers.0.get(&id).map_or("waiting", |a| match a.ended {
                None if a.tokens.is_empty() => "prefilling",
                None => "decoding",
                Some(_) => "done",
            });
            *phases.entry(phase).or_default() += 1;
            batch.cancel(id);
            answers.step(&mut batch);
            assert!(answers.of(id).ended.is_some(), "it leaves within a step");
            // What the streams hold, and nothing else.
            let length = |(stream, id): (&Request, _)| match answers.0.get(id) {
                Some(answer) if answer.ended.is_none() => {
                    (stream.prompt.len() + answer.tokens.len()).saturating_sub(1)
                }
                _ => 0,
            };
            let held: usize =
                streams.iter().zip(&sent).map(length).map(|n| n.div_ceil(BLOCK)).sum();
            if batch.load().prefilling == 0 {
                assert_eq!(batch.engine().kv_blocks(), (60, 60 - held), "the blocks are free");
            }
            cancelled += 1;
        }
        for (want, id) in want.iter().zip(sent) {
            assert_eq!(answers.of(id).tokens, *want);
        }
        answers.finish(&mut batch);
        assert_eq!(batch.engine().kv_blocks(), (60, 60), "the cache is at its baseline");
    }
    println!("{cancelled} cancelled: {phases:?}");
    assert!(["waiting", "prefilling", "decoding"].iter().all(|phase| phases.contains_key(phase)));
}

#[test]
fn cancellations_do_not_disturb_streams() {
    cancellations_beside_streams(tiny(20));
    cancellations_beside_streams(recurrent(20));
    cancellations_beside_streams(small(12));
}

#[test]
#[ignore = "takes minutes"]
fn a_thousand_cancellations_do_not_disturb_streams() {
    cancellations_beside_streams(tiny(1000));
    cancellations_beside_streams(recurrent(1000));
    cancellations_beside_streams(small(100));
}

/// What surrounds a request, in turns.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Company {
    /// Alone, with nothing cached.
    None,
    /// Alone, with its prompt and answer cached.
    Cached,
    /// Among 63 others.
    Many,
    /// Interrupted by more urgent ones.
    Urgent,
    /// The rest of an answer whose beginning is part of the prompt.
    Resumed,
}

/// One request, again and again.
fn the_same_request_in_any_company(Scale { model, n, tokens }: Scale, temperature: f32) {
    use Company::*;
    let (tokens, others) = (tokens / 6, tokens / 4);
    let mut random = Random(9);
    let mut one = request(ids(90, 1), tokens);
    one.options.sampling = Sampling { temperature, ..sampled(3) };
    one.options.ignore_eos = true;
    let want = Alone::new(&model, Overflow::Stop).answer(&one).0;
    let fresh = || -> Batch { batch(&model, 64, 30) };
    let mut batch = fresh();
    for round in 0..n {
        let company = [None, Cached, Many, Urgent, Resumed][round % 5];
        if company == None {
            batch = fresh();
        }
        let mut answers = Answers::default();
        let crowd = |batch: &mut Batch, n: usize| {
            (0..n).for_each(|i| {
                batch.submit(request(ids(30 + i, i as u32), others)).unwrap();
            });
        };
        let mut again = one.clone();
        again.options.drafting = [Drafting::OFF, Drafting::default()][round % 2];
        let kept = if company == Resumed { 1 + random.below(tokens - 1) } else { 0 };
        again.prompt.extend(want[..kept].iter().map(|(id, _)| id));
        again.options.max_tokens = Some(tokens - kept);
        if company == Urgent {
            again.class = Class::Background;
        }
        let before = if company == Many { 30 } else { 0 };
        crowd(&mut batch, before);
        let id = batch.submit(again).unwrap();
        if company == Urgent {
            while answers.0.get(&id).is_none_or(|answer| answer.tokens.is_empty()) {
                answers.step(&mut batch);
            }
        }
        (0..random.below(5)).for_each(|_| drop(answers.step(&mut batch)));
        crowd(&mut batch, if matches!(company, Many | Urgent) { 63 - before } else { 0 });
        let preemptions = batch.load().preemptions;
        answers.finish(&mut batch);
        let answer = answers.of(id);
        assert_eq!(answer.tokens, want[kept..], "round {round}: {company:?}");
        match company {
            None => assert_eq!(answer.stats.reused_tokens, 0),
            Cached => assert!(answer.stats.reused_tokens >= BLOCK),
            Urgent => assert!(batch.load().preemptions > preemptions),
            Many | Resumed => {}
        }
    }
    println!("temperature {temperature}: the same tokens and log-probabilities {n} times");
}

#[test]
fn a_request_is_answered_alike_in_any_company() {
    the_same_request_in_any_company(tiny(10), 0.0);
    the_same_request_in_any_company(tiny(10), 1.2);
    the_same_request_in_any_company(recurrent(10), 1.2);
    the_same_request_in_any_company(small(5), 1.2);
}

#[test]
#[ignore = "takes minutes"]
fn a_request_is_answered_alike_100_times() {
    for temperature in [0.0, 1.2] {
        the_same_request_in_any_company(tiny(100), temperature);
        the_same_request_in_any_company(recurrent(100), temperature);
        the_same_request_in_any_company(small(20), temperature);
    }
}

/// Clients with a code word each, which arrive at random, in a cache for eight of them: the same text as
/// alone, in which no code word of another occurs.
fn code_words_stay_apart(n: usize) {
    let model = smollm2();
    let mut alone = Alone::new(&model, Overflow::Stop);
    let (mut batch, mut answers) = (batch(&model, n.min(64), 16), Answers::default());
    let word = |i: usize| format!("{}{:02}", ["tiger", "lemon", "cloud", "piano"][i % 4], i);
    let asked = |i: usize| {
        let text = format!("Repeat the code word {0}. The code word is: {0}", word(i));
        let prompt = model.encode_chat(&[Message::new("user", text)]).unwrap();
        let mut request = request(prompt, 24);
        request.answer_follows = true;
        request
    };
    let (mut sent, mut random) = (Vec::new(), Random(3));
    while sent.len() < n {
        sent.push(batch.submit(asked(sent.len())).unwrap());
        (0..random.below(3)).for_each(|_| drop(answers.step(&mut batch)));
    }
    answers.finish(&mut batch);
    let mut said = 0;
    for (i, id) in sent.iter().enumerate() {
        let answer = answers.of(*id);
        assert_eq!(answer.tokens, alone.answer(&asked(i)).0, "request {i}");
        said += usize::from(answer.text.contains(&word(i)));
        let other = (0..n).find(|&other| other != i && answer.text.contains(&word(other)));
        assert_eq!(other, None, "request {i}: {}", answer.text);
    }
    println!("{said} of {n} answers have their own code word, none another one");
    assert!(2 * said > n, "{said} of {n}: this proves nothing");
}

#[test]
fn code_words_do_not_cross() {
    code_words_stay_apart(16);
}

#[test]
#[ignore = "takes minutes"]
fn code_words_of_64_clients_do_not_cross() {
    code_words_stay_apart(64);
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
        let mut request = request(prompt, 3);
        request.options.ignore_eos = true;
        batch.submit(request).unwrap();
        while batch.load().waiting > 20 {
            answers.step(&mut batch);
        }
        assert!(answers.0.values().all(|a| a.ended.is_none_or(|e| e == FinishReason::Length)));
        answers.0.retain(|_, answer| answer.ended.is_none());
        if i == n / 10 {
            early = anonymous_memory();
        }
    }
    answers.finish(&mut batch);
    if let (Some(early), Some(late)) = (early, anonymous_memory()) {
        println!("{n} prompts: {} kB more than after a tenth", (late as i64 - early as i64) >> 10);
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
