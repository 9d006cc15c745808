//! Several sequences in one engine: each generates the same as on its own, whatever happens to the rest.

mod common;

use std::sync::Arc;
use std::thread;

use common::{data, model};
use nanoinfer_engine::{
    Batch, BatchOptions, BatchToken, Drafting, Engine, EngineOptions, Engines, Error, Event,
    FinishReason, GenerateOptions, Model, Overflow, Request, Sampling, SeqId, Sequence, Session,
};
use nanoinfer_format::Quant;

const NAME: &str = "tiny/llama-gqa";

fn options(sequences: usize) -> EngineOptions {
    EngineOptions { threads: Some(2), ctx: Some(300), sequences, ..EngineOptions::default() }
}

fn engine(sequences: usize) -> Engine {
    Engine::new(model(&data(NAME), Quant::Q8), &options(sequences)).unwrap()
}

fn ids(n: u32, seed: u32) -> Vec<u32> {
    (0..n).map(|i| (i * i * 7 + (i + 1) * seed + 5) % 320).collect()
}

fn batch_of(seq: SeqId, ids: &[u32]) -> Vec<BatchToken> {
    let step = |(i, &token)| BatchToken { seq, token, logits: i + 1 == ids.len() };
    ids.iter().enumerate().map(step).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// The bits of the logits after `ids`, in a separate engine.
fn alone(ids: &[u32]) -> Vec<u32> {
    let mut engine = engine(1);
    let seq = engine.open().unwrap();
    let pass = engine.forward(&batch_of(seq, ids)).unwrap();
    bits(engine.logits(pass, 0).unwrap())
}

#[test]
fn cancelling_a_sequence_does_not_disturb_others_in_the_pass() {
    let mut engine = engine(2);
    let (a, b) = (ids(100, 3), ids(90, 11));
    let want = alone(&b);
    for round in 0..40 {
        let (first, second) = (engine.open().unwrap(), engine.open().unwrap());
        let canceller = engine.canceller(first).unwrap();
        // Cancels before the pass in the first round, and at random moments during the pass in later
        // rounds.
        let cancelling = (round > 0).then(|| thread::spawn(move || canceller.cancel()));
        if cancelling.is_none() {
            engine.canceller(first).unwrap().cancel();
        }
        let pass = engine.forward(&[batch_of(first, &a), batch_of(second, &b)].concat()).unwrap();
        assert_eq!(bits(engine.logits(pass, 1).unwrap()), want, "round {round}");
        if let Some(thread) = cancelling {
            thread.join().unwrap();
        }
        // Alone in a pass, a cancelled sequence stays unchanged.
        let len = engine.len(first).unwrap();
        assert!(matches!(engine.forward(&batch_of(first, &[1])), Err(Error::Cancelled)));
        assert_eq!((engine.len(first).unwrap(), engine.len(second).unwrap()), (len, b.len()));
        engine.close(first).unwrap();
        engine.close(second).unwrap();
    }
}

#[test]
fn a_pass_ends_when_all_its_sequences_are_cancelled() {
    let mut engine = engine(2);
    let blocks = engine.kv_blocks();
    let (first, second) = (engine.open().unwrap(), engine.open().unwrap());
    engine.canceller(first).unwrap().cancel();
    engine.canceller(second).unwrap().cancel();
    let batch = [batch_of(first, &ids(70, 3)), batch_of(second, &ids(70, 4))].concat();
    assert!(matches!(engine.forward(&batch), Err(Error::Cancelled)));
    assert_eq!((engine.len(first).unwrap(), engine.len(second).unwrap()), (0, 0));
    assert_eq!(engine.kv_blocks(), blocks, "reserved room is released");
    engine.canceller(first).unwrap().clear();
    engine.forward(&batch).unwrap();
}

#[test]
fn the_id_of_a_closed_or_foreign_sequence_is_rejected() {
    let (mut one, mut other) = (engine(1), engine(1));
    let stale = one.open().unwrap();
    one.forward(&batch_of(stale, &[1, 2, 3])).unwrap();
    one.close(stale).unwrap();
    let open = one.open().unwrap();
    let foreign = other.open().unwrap();
    for seq in [stale, foreign] {
        let rejected = |result: Result<usize, Error>| matches!(result, Err(Error::Sequence));
        assert!(rejected(one.len(seq)) && rejected(one.evicted(seq)));
        assert!(rejected(one.truncate(seq, 0)) && rejected(one.share(seq, &[1, 2])));
        assert!(matches!(one.close(seq), Err(Error::Sequence)));
        assert!(matches!(one.pin(seq, 64), Err(Error::Sequence)));
        assert!(matches!(one.fork(seq), Err(Error::Sequence)));
        assert!(matches!(one.canceller(seq), Err(Error::Sequence)));
        let batch = [batch_of(open, &[4, 5]), batch_of(seq, &[6])].concat();
        assert!(matches!(one.forward(&batch), Err(Error::Sequence)));
        assert_eq!(one.len(open).unwrap(), 0, "a batch is rejected as a whole");
    }
}

#[test]
fn only_the_last_pass_has_logits() {
    let mut engine = engine(1);
    let seq = engine.open().unwrap();
    let first = engine.forward(&batch_of(seq, &[1, 2])).unwrap();
    assert!(engine.logits(first, 0).is_ok());
    assert!(matches!(engine.logits(first, 1), Err(Error::LogitsRow { index: 1, rows: 1 })));
    let second = engine.forward(&batch_of(seq, &[3])).unwrap();
    assert!(matches!(engine.logits(first, 0), Err(Error::LogitsGone)));
    // A cancelled pass has no logits either.
    engine.canceller(seq).unwrap().cancel();
    assert!(engine.forward(&batch_of(seq, &[4])).is_err());
    assert!(matches!(engine.logits(second, 0), Err(Error::LogitsGone)));
}

#[test]
fn a_batch_that_is_too_large_is_an_error() {
    let mut engine = engine(1);
    let seq = engine.open().unwrap();
    let error = engine.forward(&batch_of(seq, &ids(257, 3))).unwrap_err().to_string();
    assert!(error.contains("257 tokens") && error.contains("limited to 256"), "{error}");
    let all: Vec<_> = (0..17).map(|token| BatchToken { seq, token, logits: true }).collect();
    assert!(matches!(engine.forward(&all), Err(Error::Batch { logits: 17, max_logits: 16, .. })));
    assert!(matches!(
        engine.forward(&batch_of(seq, &[5, 320])),
        Err(Error::Token { token: 320, vocab: 320 })
    ));
    assert_eq!(engine.len(seq).unwrap(), 0);
}

#[test]
fn a_closed_sequence_can_be_reused_as_a_prefix() {
    let mut engine = engine(2);
    let (text, other) = (ids(200, 3), ids(150, 9));
    for ids in [&text, &other] {
        let seq = engine.open().unwrap();
        engine.forward(&batch_of(seq, ids)).unwrap();
        engine.close(seq).unwrap();
    }
    let before = engine.processed();
    let seq = engine.open().unwrap();
    assert_eq!(engine.share(seq, &text).unwrap(), 192, "three full blocks");
    let pass = engine.forward(&batch_of(seq, &text[192..])).unwrap();
    assert_eq!(engine.processed() - before, 8);
    assert_eq!(bits(engine.logits(pass, 0).unwrap()), alone(&text));
    // Sharing an open sequence is exact to the token; blocks of a closed sequence then follow.
    engine.truncate(seq, 128).unwrap();
    let third = engine.open().unwrap();
    assert_eq!(engine.share(third, &text).unwrap(), 192);
    assert_eq!(
        engine.share(third, &[&text[..70], &other].concat()).unwrap(),
        192,
        "the sequence already has more tokens"
    );
    engine.truncate(third, 10).unwrap();
    assert_eq!(engine.share(third, &[&text[..100], &[1; 50]].concat()).unwrap(), 100);
    let pass = engine.forward(&batch_of(third, &text[100..])).unwrap();
    assert_eq!(bits(engine.logits(pass, 0).unwrap()), alone(&text));
}

#[test]
fn a_session_reuses_an_earlier_prompt() {
    let mut session = Session::new(engine(1)).unwrap();
    let generate = |session: &mut Session, prompt: &[u32]| {
        session.prompt_tokens(prompt).unwrap();
        session
            .start(GenerateOptions { max_tokens: Some(9), ..GenerateOptions::default() })
            .unwrap();
        while session.next().unwrap().is_some() {}
        (session.generated().to_vec(), session.stats().reused_tokens)
    };
    let (want, reused) = generate(&mut session, &ids(150, 3));
    assert_eq!(reused, 0);
    assert_eq!(generate(&mut session, &ids(60, 9)).1, 0);
    assert_eq!(generate(&mut session, &ids(150, 3)), (want, 128));
}

#[test]
fn a_small_arena_evicts_blocks_of_closed_sequences_and_then_fails() {
    let block = 64 * engine(1).kv_bytes_per_position();
    let of = |blocks: u64| {
        let kv_bytes = Some(blocks * block);
        let options = EngineOptions { kv_bytes, ..options(3) };
        Engine::new(model(&data(NAME), Quant::Q8), &options)
    };
    assert!(matches!(of(0), Err(Error::KvBytes { given: 0, least }) if least == block));
    let mut engine = of(4).unwrap();
    assert_eq!(engine.kv_blocks(), (4, 4));
    let (a, b) = (engine.open().unwrap(), engine.open().unwrap());
    engine.forward(&batch_of(a, &ids(128, 3))).unwrap();
    engine.forward(&batch_of(b, &ids(64, 9))).unwrap();
    let error = engine.forward(&batch_of(b, &ids(100, 9))).unwrap_err();
    assert!(matches!(error, Error::CacheFull { .. }), "{error}");
    assert_eq!((engine.len(b).unwrap(), engine.kv_blocks()), (64, (4, 1)));
    engine.close(a).unwrap();
    assert_eq!(engine.kv_blocks(), (4, 3), "closed, but kept");
    // Needing one block more than is free evicts the closed sequence's last block.
    engine.forward(&batch_of(b, &ids(70, 9))).unwrap();
    let again = engine.open().unwrap();
    assert_eq!(engine.share(again, &ids(128, 3)).unwrap(), 64);
    let pass = engine.forward(&batch_of(again, &ids(128, 3)[64..])).unwrap_err();
    assert!(matches!(pass, Error::CacheFull { .. }), "{pass}");
    engine.close(b).unwrap();
    let pass = engine.forward(&batch_of(again, &ids(128, 3)[64..])).unwrap();
    assert_eq!(bits(engine.logits(pass, 0).unwrap()), alone(&ids(128, 3)));
}

#[test]
fn a_failing_batch_keeps_the_logits_of_the_previous_pass() {
    let kv_bytes = Some(2 * 64 * engine(1).kv_bytes_per_position());
    let options = EngineOptions { kv_bytes, ..options(2) };
    let mut engine = Engine::new(model(&data(NAME), Quant::Q8), &options).unwrap();
    let (a, b) = (engine.open().unwrap(), engine.open().unwrap());
    let pass = engine.forward(&batch_of(a, &ids(64, 3))).unwrap();
    let want = alone(&ids(64, 3));
    let all = |seq, n: u32| (0..n).map(move |token| BatchToken { seq, token, logits: true });
    let too_much: Vec<_> = all(a, 3).chain(batch_of(b, &ids(64, 9))).collect();
    assert!(matches!(engine.forward(&too_much), Err(Error::CacheFull { .. })));
    assert_eq!(bits(engine.logits(pass, 0).unwrap()), want);
    assert!(matches!(engine.logits(pass, 1), Err(Error::LogitsRow { index: 1, rows: 1 })));
}

#[test]
fn a_sliding_sequence_needs_a_whole_ring() {
    let block = 64 * engine(1).kv_bytes_per_position();
    let of = |blocks: u64| {
        let (ctx, kv_bytes) = (Some(128), Some(blocks * block));
        let overflow = Overflow::Slide;
        let options = EngineOptions { ctx, overflow, kv_bytes, chunk: 64, ..options(1) };
        Engine::new(model(&data(NAME), Quant::Q8), &options)
    };
    assert!(matches!(of(3), Err(Error::KvBytes { least, .. }) if least == 4 * block));
    let mut session = Session::new(of(4).unwrap()).unwrap();
    session.prompt_tokens(&ids(20, 3)).unwrap();
    let max_tokens = Some(400);
    session.start(GenerateOptions { max_tokens, ..GenerateOptions::default() }).unwrap();
    while session.next().unwrap().is_some() {}
    assert_eq!(session.generated().len(), 400);
}

/// Repetitive text in an arena that fills up.
#[test]
fn a_draft_does_not_end_an_answer_early() {
    let prompt = [ids(20, 3), ids(20, 3), ids(20, 3)].concat();
    let generated = |drafting, draft: bool| {
        let kv_bytes = Some(2 * 64 * engine(1).kv_bytes_per_position());
        let options = EngineOptions { kv_bytes, ..options(1) };
        let model = Arc::new(model(&data(NAME), Quant::Q8));
        let mut session = Session::new(Engine::new(Arc::clone(&model), &options).unwrap()).unwrap();
        if draft {
            session.set_draft_model(engine(1)).unwrap();
        }
        session.prompt_tokens(&prompt).unwrap();
        session.start(GenerateOptions { drafting, ..GenerateOptions::default() }).unwrap();
        let mut errors = 0;
        // Retrying neither helps nor hurts.
        while errors < 3 {
            match session.next() {
                Ok(event) => assert!(event.is_some()),
                Err(e) => {
                    assert!(matches!(e, Error::CacheFull { .. }), "{e}");
                    session.candidates(3);
                    errors += 1;
                }
            }
        }
        session.generated().to_vec()
    };
    let want = generated(Drafting::OFF, false);
    assert_eq!(want.len(), 128 + 1 - 60);
    let fixed = Drafting { fixed: Some(7), ..Drafting::default() };
    assert_eq!(generated(fixed, false), want);
    assert_eq!(generated(Drafting { lookup: false, ..fixed }, true), want);
}

#[test]
fn failures_of_the_draft_model_become_notes() {
    let prompt = ids(60, 3);
    let generate = |session: &mut Session| {
        session.prompt_tokens(&prompt).unwrap();
        let drafting = Drafting { lookup: false, fixed: Some(3), ..Drafting::default() };
        let max_tokens = Some(30);
        let options = GenerateOptions { max_tokens, drafting, ..GenerateOptions::default() };
        session.start(options).unwrap();
        while session.next().unwrap().is_some() {}
        let drafted = session.stats().drafts.model.drafted;
        (session.generated().to_vec(), drafted, session.take_notes().join(", "))
    };
    let (want, ..) = generate(&mut Session::new(engine(1)).unwrap());
    // An arena that fills up four tokens after the prompt.
    let kv_bytes = Some(64 * engine(1).kv_bytes_per_position());
    let small =
        Engine::new(model(&data(NAME), Quant::Q8), &EngineOptions { kv_bytes, ..options(1) });
    let mut session = Session::new(engine(2)).unwrap();
    session.set_draft_model(small.unwrap()).unwrap();
    for _ in 0..2 {
        let (generated, drafted, note) = generate(&mut session);
        assert_eq!(generated, want);
        assert!(
            (1..8).contains(&drafted) && note.contains("the cache is full"),
            "{drafted}: {note}"
        );
    }
    // A draft engine with a single sequence for two target sequences: the second has no draft model.
    session.set_draft_model(engine(1)).unwrap();
    let (generated, drafted, note) = generate(&mut session);
    assert!(generated == want && drafted > 20 && note.is_empty(), "{drafted}: {note}");
    let mut aside = session.fork().unwrap();
    session.switch(&mut aside);
    let (generated, drafted, note) = generate(&mut session);
    assert!(generated == want && drafted == 0, "{drafted}");
    assert!(note.contains("all sequences are in use"), "{note}");
    session.set_draft_model(None::<Engine>).unwrap();
    let (generated, drafted, note) = generate(&mut session);
    assert!(generated == want && drafted == 0 && note.is_empty(), "{drafted}: {note}");
}

#[test]
fn engines_share_a_model() {
    let model: Arc<Model> = Arc::new(model(&data(NAME), Quant::Q8));
    let mut engines: Vec<_> =
        (0..2).map(|_| Engine::new(Arc::clone(&model), &options(1)).unwrap()).collect();
    assert_eq!(Arc::strong_count(&model), 3);
    let text = ids(80, 3);
    for engine in &mut engines {
        let seq = engine.open().unwrap();
        let pass = engine.forward(&batch_of(seq, &text)).unwrap();
        assert_eq!(bits(engine.logits(pass, 0).unwrap()), alone(&text));
    }
}

/// Prompt and options of answer `i`.
fn request(i: u32) -> (Vec<u32>, GenerateOptions) {
    let warm = Sampling { temperature: 1.1, top_k: 30, seed: i.into(), ..Sampling::default() };
    let penalized = Sampling { repetition_penalty: 1.3, frequency_penalty: 0.2, ..warm };
    let sampling = [Sampling::default(), warm, penalized][i as usize % 3];
    // Repetitive, so that lookups find drafts.
    let prompt = [ids(20 + 30 * i, 3 + i), ids(20, 3 + i), ids(20, 3 + i)].concat();
    let drafting = Drafting { fixed: (i % 2 == 1).then_some(3), ..Drafting::default() };
    let max_tokens = Some(20 + 5 * i as usize);
    (prompt, GenerateOptions { max_tokens, sampling, drafting, ..GenerateOptions::default() })
}

/// Answers several prompts in shared passes; returns the tokens and finish reason of each answer. Answer
/// `cancel` is cancelled after its fifth token.
fn together(n: u32, cancel: Option<usize>) -> Vec<(Vec<u32>, FinishReason)> {
    let mut engines = Engines::from(engine(n as usize));
    let mut sequences = Vec::new();
    for i in 0..n {
        let mut sequence = Sequence::open(&mut engines).unwrap();
        let (prompt, options) = request(i);
        sequence.prompt_tokens(&mut engines, &prompt).unwrap();
        sequence.start(&mut engines, options).unwrap();
        sequences.push(sequence);
    }
    let mut generated: Vec<_> = (0..n).map(|_| (Vec::new(), None)).collect();
    while generated.iter().any(|(_, end)| end.is_none()) {
        // Few tokens per sequence, so that prefill and decoding mix.
        let (mut batch, mut planned) = (Vec::new(), Vec::new());
        // Use up the rows of a pass before the next pass discards them.
        let due = !sequences.iter().any(Sequence::has_row);
        for (i, sequence) in sequences.iter_mut().enumerate().filter(|_| due) {
            let from = batch.len();
            sequence.plan(&mut engines, 5, &mut batch).unwrap();
            if batch.len() > from {
                planned.push(i);
            }
        }
        if !batch.is_empty() {
            let pass = engines.target.forward(&batch).unwrap();
            for i in planned {
                sequences[i].passed(&mut engines, pass).unwrap();
            }
        }
        engines.draw(&mut sequences).unwrap();
        for (i, (sequence, (generated, end))) in
            sequences.iter_mut().zip(&mut generated).enumerate()
        {
            match sequence.event().unwrap() {
                Some(Event::Token { id, .. }) => generated.push(id),
                Some(Event::Finished { reason, .. }) => *end = Some(reason),
                _ => {}
            }
            if cancel == Some(i) && generated.len() == 5 {
                sequence.canceller().cancel();
            }
        }
    }
    for sequence in sequences {
        sequence.close(&mut engines).unwrap();
    }
    let (blocks, unused) = engines.target.kv_blocks();
    assert_eq!(blocks, unused);
    generated.into_iter().map(|(ids, end)| (ids, end.unwrap())).collect()
}

#[test]
fn answers_in_shared_passes_match_sessions() {
    let all = together(4, None);
    let with_one_cancelled = together(4, Some(2));
    for (i, (ids, reason)) in (0..).zip(&all) {
        let (prompt, options) = request(i);
        let mut session = Session::new(engine(1)).unwrap();
        session.prompt_tokens(&prompt).unwrap();
        session.start(options).unwrap();
        while session.next().unwrap().is_some() {}
        assert_eq!((session.generated(), *reason), (&ids[..], FinishReason::Length), "answer {i}");
        let other = &with_one_cancelled[i as usize];
        match i {
            2 => assert_eq!(*other, (ids[..5].to_vec(), FinishReason::Cancelled)),
            _ => assert_eq!(other.0, *ids),
        }
    }
}

#[test]
fn a_sequence_waits_for_room_in_a_pass() {
    let options = EngineOptions { logits_rows: 3, ..options(2) };
    let engine = Engine::new(model(&data(NAME), Quant::Q8), &options).unwrap();
    let mut engines = Engines::from(engine);
    let mut sequence = Sequence::open(&mut engines).unwrap();
    sequence.prompt_tokens(&mut engines, &ids(10, 3)).unwrap();
    sequence.start(&mut engines, GenerateOptions::default()).unwrap();
    let other = engines.target.open().unwrap();
    let taken: Vec<_> =
        (0..3).map(|token| BatchToken { seq: other, token, logits: true }).collect();
    // With all rows taken, the prompt is planned except for its last token, and then nothing.
    let mut batch = taken.clone();
    sequence.plan(&mut engines, 100, &mut batch).unwrap();
    assert_eq!((batch.len(), batch.iter().filter(|s| s.logits).count()), (3 + 9, 3));
    let pass = engines.target.forward(&batch).unwrap();
    sequence.passed(&mut engines, pass).unwrap();
    let planned = |sequence: &mut Sequence, engines: &mut Engines, room, taken: &[BatchToken]| {
        let mut batch = taken.to_vec();
        sequence.plan(engines, room, &mut batch).unwrap();
        batch.len() - taken.len()
    };
    assert_eq!(
        planned(&mut sequence, &mut engines, 100, &[]),
        0,
        "the event must be fetched first"
    );
    assert!(matches!(sequence.event(), Ok(Some(Event::Prefill { done: 9, total: 10 }))));
    assert_eq!(planned(&mut sequence, &mut engines, 100, &taken), 0);
    assert_eq!(planned(&mut sequence, &mut engines, 0, &[]), 0);
    assert_eq!(planned(&mut sequence, &mut engines, 100, &taken[..2]), 1);
}

#[test]
fn drawing_from_an_earlier_pass_fails() {
    let mut engines = Engines::from(engine(2));
    let mut sequences = Vec::new();
    for i in 0..2 {
        let mut sequence = Sequence::open(&mut engines).unwrap();
        sequence.prompt_tokens(&mut engines, &ids(10, i)).unwrap();
        sequence.start(&mut engines, GenerateOptions::default()).unwrap();
        let mut batch = Vec::new();
        sequence.plan(&mut engines, 16, &mut batch).unwrap();
        let pass = engines.target.forward(&batch).unwrap();
        sequence.passed(&mut engines, pass).unwrap();
        assert!(
            matches!(sequence.event(), Ok(Some(Event::Prefill { done, total })) if done == total)
        );
        sequences.push(sequence);
    }
    assert!(matches!(engines.draw(&mut sequences), Err(Error::LogitsGone)));
    assert!(matches!(engines.draw(&mut sequences[..1]), Err(Error::LogitsGone)));
    engines.draw(&mut sequences[1..]).unwrap();
    assert!(matches!(sequences[1].event(), Ok(Some(Event::Token { .. }))));
}

/// Passes with room for one token, or one row of logits, for several requests.
#[test]
fn requests_with_little_room_in_a_pass_all_finish() {
    let answers = |options: &EngineOptions| {
        let engine = Engine::new(model(&data(NAME), Quant::Q8), options).unwrap();
        let mut batch = Batch::new(engine, BatchOptions::default());
        let generate = GenerateOptions { max_tokens: Some(5), ..GenerateOptions::default() };
        let mut answers = Vec::new();
        for i in 0..5 {
            let (prompt, options) = (ids(4 + i, i + 1), generate.clone());
            let request = Request { prompt, options, ..Request::default() };
            answers.push((batch.submit(request).unwrap(), Vec::new()));
        }
        for _ in 0..500 {
            for event in batch.step().unwrap() {
                if let Ok(Event::Token { id, .. }) = event.event {
                    answers.iter_mut().find(|(of, _)| *of == event.id).unwrap().1.push(id);
                }
            }
        }
        assert!(batch.is_idle(), "some requests did not finish");
        answers
    };
    let plenty = answers(&options(5));
    for (chunk, logits_rows) in [(1, 1), (2, 1), (2, 2), (256, 2)] {
        let few = EngineOptions { chunk, logits_rows, ..options(5) };
        assert_eq!(answers(&few), plenty, "chunk {chunk}, {logits_rows} rows");
    }
}
