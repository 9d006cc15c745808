//! Sessions: how answers end, what they emit, and that earlier answers leave no trace.

mod common;

use common::{data, with_template, with_text};
use nanoinfer_engine::{
    Engine, EngineOptions, Event, FinishReason, GenerateOptions, Message, Model, Sampling, Session,
};
use nanoinfer_format::{Generation, NanoFile, Quant};
use nanoinfer_packer::{Input, Options, convert};
use nanoinfer_text::build_vocab;

const PROMPT: [u32; 8] = [5, 300, 17, 42, 9, 211, 130, 77];
const VOCAB: u32 = 320;

/// The string of a token, such as `<17>`.
fn text_of(id: u32) -> String {
    format!("<{id}>")
}

fn text_of_all(ids: &[u32]) -> String {
    ids.iter().map(|id| text_of(*id)).collect()
}

/// A tiny model with a string for each token and the given end-of-answer tokens.
fn model(eos: &[u32]) -> Model {
    model_with(eos, &serde_json::json!([]), None)
}

fn model_with(eos: &[u32], added_tokens: &serde_json::Value, template: Option<&str>) -> Model {
    let vocab: serde_json::Map<_, _> = (0..VOCAB).map(|id| (text_of(id), id.into())).collect();
    let json = serde_json::to_vec(&serde_json::json!({
        "added_tokens": added_tokens,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }))
    .unwrap();
    let vocabulary = build_vocab(&json, VOCAB as usize).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (plain, file) = (folder.path().join("plain.nano"), folder.path().join("m.nano"));
    let source = Input::Folder(data("tiny/llama-gqa"));
    convert(&source, &plain, Options::new(Quant::Q8)).unwrap();
    let generation = Generation { eos: eos.to_vec(), ..Generation::default() };
    with_text(&NanoFile::open(&plain).unwrap(), &file, json, vocabulary, &generation);
    let Some(template) = template else { return Model::open(file).unwrap() };
    let chat = folder.path().join("chat.nano");
    with_template(&NanoFile::open(&file).unwrap(), &chat, template);
    Model::open(chat).unwrap()
}

fn session_of(model: Model, ctx: usize, threads: usize) -> Session {
    let options =
        EngineOptions { ctx: Some(ctx), threads: Some(threads), ..EngineOptions::default() };
    Session::new(Engine::new(model, &options).unwrap()).unwrap()
}

fn session() -> Session {
    session_of(model(&[]), 256, 2)
}

fn tokens(n: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(n), ..GenerateOptions::default() }
}

/// Runs an answer to its end and returns ids, text and reason. Text and bytes must agree.
fn answer(session: &mut Session) -> (Vec<u32>, String, FinishReason) {
    let mut ids = Vec::new();
    let mut text = String::new();
    let mut bytes = Vec::<u8>::new();
    loop {
        match session.next().unwrap().expect("a Finished event") {
            Event::Prefill { done, total } => assert!(done <= total),
            Event::Token { id, text: piece, bytes: raw } => {
                ids.push(id);
                text.push_str(piece);
                bytes.extend(raw);
            }
            Event::Finished { reason, text: piece, bytes: raw } => {
                text.push_str(piece);
                bytes.extend(raw);
                assert_eq!(text.as_bytes(), bytes);
                assert!(session.next().unwrap().is_none());
                assert_eq!(session.generated(), ids);
                return (ids, text, reason);
            }
            other => panic!("unexpected {other:?}"),
        }
    }
}

fn generate(session: &mut Session, prompt: &[u32], options: GenerateOptions) -> (Vec<u32>, String) {
    session.prompt_tokens(prompt).unwrap();
    session.start(options).unwrap();
    let (ids, text, reason) = answer(session);
    assert_eq!(reason, FinishReason::Length);
    (ids, text)
}

#[test]
fn an_answer_has_the_requested_number_of_tokens() {
    let mut session = session();
    let want = common::greedy(&mut common::engine(model(&[]), 1), &PROMPT, 24);
    assert!(want.windows(2).any(|w| w[0] != w[1]), "a constant answer would prove nothing");
    for n in [1, 2, 24] {
        let (ids, text) = generate(&mut session, &PROMPT, tokens(n));
        assert_eq!(ids, want[..n]);
        assert_eq!(text, text_of_all(&ids));
    }
    session.start(tokens(0)).unwrap();
    assert_eq!(answer(&mut session), (vec![], String::new(), FinishReason::Length));
}

#[test]
fn an_answer_ends_at_a_stop_token_without_its_text() {
    let mut session = session();
    let (ids, _) = generate(&mut session, &PROMPT, tokens(24));
    let at = (1..24).find(|&at| !ids[..at].contains(&ids[at])).unwrap();
    // With a stop string that ends with the token's text, and one that never occurs.
    for stop in [vec![], vec!["never".to_owned()], vec![text_of(ids[at])]] {
        session.prompt_tokens(&PROMPT).unwrap();
        let stop_tokens = vec![VOCAB - 1, ids[at]];
        let options = GenerateOptions { stop, stop_tokens, ignore_eos: true, ..tokens(24) };
        session.start(options).unwrap();
        let stopped = answer(&mut session);
        assert_eq!(stopped, (ids[..=at].to_vec(), text_of_all(&ids[..at]), FinishReason::Stop));
    }
}

#[test]
fn an_answer_ends_before_a_stop_string() {
    let mut session = session();
    let (ids, text) = generate(&mut session, &PROMPT, tokens(24));
    let stop_at = |stop: &str, session: &mut Session| {
        let before = text.find(stop).expect("in the answer");
        let stop = vec!["never".to_owned(), stop.to_owned()];
        session.prompt_tokens(&PROMPT).unwrap();
        session.start(GenerateOptions { stop, ..tokens(24) }).unwrap();
        let (emitted, shown, reason) = answer(session);
        assert_eq!((shown.as_str(), reason), (&text[..before], FinishReason::Stop));
        assert_eq!(emitted, ids[..emitted.len()]);
        assert!(
            text_of_all(&emitted).len() > before,
            "stops at the token that completes the string"
        );
    };
    stop_at(&text_of(ids[5]), &mut session);
    stop_at(&text_of_all(&ids[3..6]), &mut session); // spans tokens
    stop_at(&text[1..3], &mut session); // in the middle of the first token
    let across = text_of_all(&ids[7..9]);
    stop_at(&across[2..across.len() - 2], &mut session);

    // An incomplete stop string is emitted at the end.
    let stop = vec![format!("{}never", text_of(ids[23]))];
    session.prompt_tokens(&PROMPT).unwrap();
    session.start(GenerateOptions { stop, ..tokens(24) }).unwrap();
    assert_eq!(answer(&mut session), (ids, text, FinishReason::Length));
}

#[test]
fn a_full_context_ends_an_answer() {
    let ctx = 64;
    let mut session = session_of(model(&[]), ctx, 2);
    let want = common::greedy(&mut common::engine(model(&[]), 2), &PROMPT, ctx);
    session.prompt_tokens(&PROMPT).unwrap();
    session.start(GenerateOptions::default()).unwrap();
    let (ids, _, reason) = answer(&mut session);
    assert_eq!(reason, FinishReason::Context);
    // The last token needs no position: nothing is computed from it.
    assert_eq!(ids, want[..ctx + 1 - PROMPT.len()]);
    assert_eq!(session.tokens().len(), ctx + 1);

    // A prompt may fill the context; its answer is then a single token. A longer prompt is a harmless
    // error.
    let long: Vec<u32> = (0..ctx as u32).collect();
    session.prompt_tokens(&long).unwrap();
    session.start(GenerateOptions::default()).unwrap();
    let (ids, _, reason) = answer(&mut session);
    assert_eq!((ids.len(), reason), (1, FinishReason::Context));
    let error = session.prompt_tokens(&[1; 65]).unwrap_err().to_string();
    assert!(error.contains("65 tokens") && error.contains("holds 64"), "{error}");
    let error = session.prompt_tokens(&[1, VOCAB]).unwrap_err().to_string();
    assert!(error.contains("token 320"), "{error}");
    assert_eq!(generate(&mut session, &PROMPT, tokens(9)).0, want[..9]);
}

#[test]
fn a_cancelled_answer_can_be_continued() {
    let mut session = session();
    let (ids, _) = generate(&mut session, &PROMPT, tokens(12));

    // During prefill: nothing was emitted, and restarting emits everything.
    session.prompt_tokens(&[&[1, 2, 3], &PROMPT[..]].concat()).unwrap();
    session.prompt_tokens(&PROMPT).unwrap();
    session.start(tokens(12)).unwrap();
    session.canceller().cancel();
    assert_eq!(answer(&mut session), (vec![], String::new(), FinishReason::Cancelled));
    session.start(tokens(12)).unwrap();
    assert_eq!(answer(&mut session).0, ids);

    // Between two tokens, from another thread: the emitted tokens remain, and the rest follow.
    session.prompt_tokens(&PROMPT).unwrap();
    session.start(tokens(12)).unwrap();
    let mut generated = Vec::new();
    while generated.len() < 5 {
        if let Some(Event::Token { id, .. }) = session.next().unwrap() {
            generated.push(id);
        }
    }
    let canceller = session.canceller();
    std::thread::spawn(move || canceller.cancel()).join().unwrap();
    let mut ended = None;
    while let Some(event) = session.next().unwrap() {
        match event {
            Event::Finished { reason, .. } => ended = Some(reason),
            Event::Token { id, .. } => generated.push(id),
            _ => {}
        }
    }
    assert_eq!(ended, Some(FinishReason::Cancelled));
    assert_eq!(generated, ids[..5]);
    session.start(tokens(7)).unwrap();
    assert_eq!(answer(&mut session).0, ids[5..]);
}

#[test]
fn end_of_answer_tokens_are_obeyed_or_ignored() {
    let (ids, _) = generate(&mut session(), &PROMPT, tokens(12));
    let at = (1..12).find(|&i| !ids[..i].contains(&ids[i])).expect("a new token");
    let mut session = session_of(model(&[ids[at]]), 256, 2);
    session.prompt_tokens(&PROMPT).unwrap();
    session.start(tokens(12)).unwrap();
    let (emitted, _, reason) = answer(&mut session);
    assert_eq!((emitted.as_slice(), reason), (&ids[..=at], FinishReason::Stop));
    let options = GenerateOptions { ignore_eos: true, ..tokens(12) };
    assert_eq!(generate(&mut session, &PROMPT, options).0, ids);
}

#[test]
fn a_common_prefix_is_reused_and_changes_nothing() {
    let mut session = session();
    let (first, _) = generate(&mut session, &PROMPT, tokens(70));
    let turn = |n: usize| [&PROMPT[..], &first[..n], &[8, 9, 10]].concat();
    // Longer than a cache block, then back into the middle of a block, then to the start.
    for (prompt, reused) in [
        (turn(70), PROMPT.len() + 69), // the last token was drawn but not processed
        (turn(20), PROMPT.len() + 20),
        (turn(20), PROMPT.len() + 22), // repeated: all but the last token
        (vec![200, 201, 202], 0),
    ] {
        let (ids, _) = generate(&mut session, &prompt, tokens(10));
        assert_eq!(session.stats().reused_tokens, reused, "{prompt:?}");
        assert_eq!(session.stats().prompt_tokens, prompt.len());
        let fresh = generate(&mut session_of(model(&[]), 256, 1), &prompt, tokens(10)).0;
        assert_eq!(ids, fresh, "{prompt:?}");
    }
}

#[test]
fn a_seed_yields_the_same_text_everywhere() {
    let sampling = |seed| Sampling {
        temperature: 1.5,
        top_k: 50,
        top_p: 0.95,
        min_p: 0.01,
        repetition_penalty: 1.1,
        presence_penalty: 0.1,
        frequency_penalty: 0.1,
        seed,
    };
    let drawn = |session: &mut Session, seed| {
        generate(session, &PROMPT, GenerateOptions { sampling: sampling(seed), ..tokens(40) }).0
    };
    let mut session = session();
    let first = drawn(&mut session, 1);
    assert_ne!(first, drawn(&mut session, 2));
    assert_eq!(first, drawn(&mut session, 1), "an answer leaves no trace in the next one");
    assert_eq!(first, drawn(&mut session_of(model(&[]), 100, 3), 1), "threads and context");
}

#[test]
fn candidates_are_those_of_the_last_token_until_the_next_prompt() {
    let mut session = session();
    let penalized = Sampling { repetition_penalty: 1.5, ..Sampling::default() };
    for sampling in [Sampling::default(), penalized] {
        session.prompt_tokens(&PROMPT).unwrap();
        assert!(session.candidates(3).is_empty());
        session.start(GenerateOptions { sampling, ..tokens(6) }).unwrap();
        assert!(session.candidates(3).is_empty());
        loop {
            let (chosen, ended) = match session.next().unwrap().unwrap() {
                Event::Token { id, .. } => (Some(id), false),
                Event::Finished { .. } => (None, true),
                _ => continue,
            };
            // Greedy choice: the most likely token under the penalties that applied before it was
            // chosen.
            let top = session.candidates(3);
            let last = session.generated().last().copied();
            assert_eq!((top.len(), Some(top[0].id)), (3, chosen.or(last)));
            assert!(top.is_sorted_by(|a, b| a.probability >= b.probability));
            if ended {
                break;
            }
        }
    }
}

#[test]
fn a_template_without_a_system_role_is_noted_once() {
    let added = serde_json::json!([{
        "id": 5, "content": "<5>", "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    }]);
    let refusing =
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}<5><5>";
    let user = || Message::new("user", "Hi");
    let chat = [Message::new("system", "Be brief."), user()];
    for (template, expected) in [(refusing, 1), ("{{ '<5>' * (messages | length) }}", 0)] {
        let mut session = session_of(model_with(&[], &added, Some(template)), 256, 1);
        session.prompt_chat(&[user()]).unwrap();
        assert!(session.take_notes().is_empty());
        session.prompt_chat(&chat).unwrap();
        assert_eq!(session.take_notes().len(), expected);
        session.prompt_chat(&chat).unwrap();
        assert!(session.take_notes().is_empty());
    }
}

#[test]
fn log_probabilities_are_those_of_the_raw_logits() {
    let mut session = session();
    let mut engine = common::engine(model(&[]), 1);
    let sampling = Sampling { temperature: 1.5, repetition_penalty: 1.3, ..Sampling::default() };
    let options = GenerateOptions { sampling, logprobs: Some(4), ..tokens(12) };
    session.prompt_tokens(&PROMPT).unwrap();
    session.start(options).unwrap();
    assert!(session.logprobs().is_none());
    let mut got = Vec::new();
    while let Some(event) = session.next().unwrap() {
        if let Event::Token { id, .. } = event {
            let logprobs = session.logprobs().unwrap();
            assert_eq!(logprobs.top.len(), 4);
            got.push((id, logprobs.clone()));
        }
    }
    let rows = common::logits(&mut engine, session.tokens(), 16);
    for ((id, got), row) in got.iter().zip(&rows[PROMPT.len() - 1..]) {
        let want = common::log_softmax(row);
        let mut order: Vec<u32> = (0..VOCAB).collect();
        order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b)));
        let near = |got: f32, id: u32| (f64::from(got) - want[id as usize]).abs() < 1e-5;
        assert!(near(got.token, *id), "{} instead of {}", got.token, want[*id as usize]);
        assert!(got.top.iter().zip(order).all(|(t, id)| t.id == id && near(t.logprob, id)));
    }
    session.start(tokens(1)).unwrap();
    answer(&mut session);
    assert!(session.logprobs().is_none(), "only on request");
}

#[test]
fn a_bias_bans_or_forces_tokens() {
    let mut session = session();
    let (free, _) = generate(&mut session, &PROMPT, tokens(6));
    let banned: Vec<_> = free.iter().map(|&id| (id, -100.0)).collect();
    let (ids, _) =
        generate(&mut session, &PROMPT, GenerateOptions { logit_bias: banned, ..tokens(6) });
    assert!(ids.iter().all(|id| !free.contains(id)), "{ids:?} {free:?}");
    for bias in [100.0, f32::INFINITY] {
        let logit_bias = vec![(7, bias), (9, f32::NAN)];
        let (ids, _) = generate(&mut session, &PROMPT, GenerateOptions { logit_bias, ..tokens(3) });
        assert_eq!(ids, [7; 3]);
    }
    let logit_bias = vec![(VOCAB, 1.0)];
    let error = session.start(GenerateOptions { logit_bias, ..tokens(1) }).unwrap_err().to_string();
    assert!(error.contains("token 320"), "{error}");
}
