//! Drafting changes the number of passes per answer, and nothing else.

mod common;

use common::{data, first_layers, model, with_text};
use nanoinfer_engine::bench::{DraftCosts, Script, set_script};
use nanoinfer_engine::{
    Drafting, Engine, EngineOptions, Event, FinishReason, GenerateOptions, Model, Sampling,
    Session, Stats,
};
use nanoinfer_format::{Generation, NanoFile, Quant};
use nanoinfer_hub::{ModelRef, Pip, Store};
use nanoinfer_text::build_vocab;

/// Repetitive text with occasional changes, to script as an answer: models with random weights never
/// repeat themselves.
fn repetitive(n: u32) -> Vec<u32> {
    (0..n).map(|i| if i % 23 == 7 { 200 + i % 90 } else { 10 + i % 11 }).collect()
}

fn session(model: Model, ctx: usize) -> Session {
    let options = EngineOptions { ctx: Some(ctx), threads: Some(2), ..EngineOptions::default() };
    Session::new(Engine::new(model, &options).unwrap()).unwrap()
}

fn tiny() -> Model {
    model(&data("tiny/llama-gqa"), Quant::Q8)
}

fn run(session: &mut Session, prompt: &[u32], options: GenerateOptions) -> (Vec<u32>, Stats) {
    session.prompt_tokens(prompt).unwrap();
    session.start(options).unwrap();
    let mut ids = Vec::new();
    while let Some(event) = session.next().unwrap() {
        if let Event::Token { id, .. } = event {
            ids.push(id);
        }
        assert!(session.cached() <= session.tokens().len());
    }
    assert_eq!(session.generated(), ids);
    assert_eq!(session.cached(), session.tokens().len() - 1);
    (ids, session.stats())
}

fn fixed(n: usize) -> Drafting {
    Drafting { fixed: Some(n), ..Drafting::default() }
}

const SAMPLINGS: [Sampling; 4] = {
    let greedy = Sampling {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        seed: 5,
    };
    let warm = Sampling { temperature: 0.7, ..greedy };
    let filtered = Sampling { temperature: 1.2, top_k: 20, top_p: 0.9, min_p: 0.02, ..greedy };
    let penalized = Sampling {
        repetition_penalty: 1.2,
        presence_penalty: 0.3,
        frequency_penalty: 0.2,
        ..filtered
    };
    [greedy, warm, filtered, penalized]
};

#[test]
fn answers_are_the_same_with_any_draft_and_any_sampler() {
    let prompt = repetitive(100);
    let mut plain = session(tiny(), 300);
    let mut drafting = session(tiny(), 300);
    let mut both = session(tiny(), 300);
    both.set_draft_model(Engine::new(tiny(), &EngineOptions::default()).unwrap()).unwrap();
    for sampling in SAMPLINGS {
        let options = |drafting| GenerateOptions {
            max_tokens: Some(150),
            sampling,
            drafting,
            ..GenerateOptions::default()
        };
        let (want, stats) = run(&mut plain, &prompt, options(Drafting::OFF));
        assert_eq!((stats.drafts.all().drafted, stats.drafts.passes), (0, 149));
        for n in [1, 2, 7, 15] {
            let (ids, _) = run(&mut drafting, &prompt, options(fixed(n)));
            assert_eq!(ids, want, "lookup, {n} tokens, {sampling:?}");
            let model = Drafting { lookup: false, ..fixed(n) };
            let (ids, stats) = run(&mut both, &prompt, options(model));
            assert_eq!(ids, want, "draft model, {n} tokens, {sampling:?}");
            // The draft model is the target itself, so every verified draft is accepted.
            let drafts = stats.drafts.model;
            assert!(drafts.drafted - drafts.accepted <= n && drafts.accepted > 70, "{drafts:?}");
            assert_eq!(stats.generated, 1 + stats.drafts.passes + drafts.accepted);
            let (ids, _) = run(&mut both, &prompt, options(fixed(n)));
            assert_eq!(ids, want, "both, {n} tokens, {sampling:?}");
        }
        let (ids, _) = run(&mut both, &prompt, options(Drafting::default()));
        assert_eq!(ids, want, "governed, {sampling:?}");
    }
}

#[test]
fn repetitive_text_needs_few_passes() {
    let text = repetitive(300);
    let mut session = session(tiny(), 320);
    let script = Script { tokens: text[100..].to_vec(), ..Script::default() };
    set_script(&mut session, Some(script));
    let options = |drafting| GenerateOptions {
        max_tokens: Some(200),
        drafting,
        ..GenerateOptions::default()
    };
    let (ids, stats) = run(&mut session, &text[..100], options(fixed(8)));
    assert_eq!(ids, text[100..]);
    let lookup = stats.drafts.lookup;
    assert!(lookup.accepted > 100 && lookup.accepted < lookup.drafted, "{lookup:?}");
    assert_eq!(stats.drafts.passes, 199 - lookup.accepted);
    assert!(stats.drafts.tokens_per_pass() > 2.0);
    let (ids, stats) = run(&mut session, &text[..100], options(Drafting::OFF));
    assert_eq!((ids.as_slice(), stats.drafts.passes), (&text[100..], 199));
}

#[test]
fn a_scripted_draft_model_has_the_requested_acceptance() {
    let text = repetitive(400);
    let mut session = session(tiny(), 512);
    session.set_draft_model(Engine::new(tiny(), &EngineOptions::default()).unwrap()).unwrap();
    for (acceptance, low, high) in [(0.0, 0.0, 0.0), (0.7, 0.6, 0.8), (1.0, 0.99, 1.0)] {
        let tokens = text[100..].to_vec();
        let script = Script { tokens, acceptance: Some(acceptance), ..Script::default() };
        set_script(&mut session, Some(script));
        let drafting = Drafting { lookup: false, ..fixed(1) };
        let options =
            GenerateOptions { max_tokens: Some(300), drafting, ..GenerateOptions::default() };
        let (ids, stats) = run(&mut session, &text[..100], options);
        assert_eq!(ids, text[100..]);
        let share = stats.drafts.model.acceptance();
        assert!((low..=high).contains(&share), "{acceptance}: {share}");
    }
}

/// With fixed costs, decisions do not depend on the machine or its load.
#[test]
fn the_governor_drafts_only_if_it_pays() {
    let text = repetitive(400);
    let answer = |row, drafting| {
        // One thread: while other tests run in parallel, two threads would wait for each other.
        let (ctx, threads) = (Some(512), Some(1));
        let options = EngineOptions { ctx, threads, ..EngineOptions::default() };
        let engine = || Engine::new(tiny(), &options).unwrap();
        let mut session = Session::new(engine()).unwrap();
        session.set_draft_model(engine()).unwrap();
        let costs = Some(DraftCosts { row, draw: 0.01, step: 0.1 });
        let tokens = text[100..].to_vec();
        set_script(&mut session, Some(Script { tokens, acceptance: Some(0.95), costs }));
        let options =
            GenerateOptions { max_tokens: Some(300), drafting, ..GenerateOptions::default() };
        let (ids, stats) = run(&mut session, &text[..100], options);
        assert_eq!(ids, text[100..]);
        stats.drafts
    };
    let both = Drafting::default();
    let (lookup, model) = (Drafting { model: false, ..both }, Drafting { lookup: false, ..both });
    for drafting in [lookup, model, both] {
        let cheap = answer(0.05, drafting);
        assert!(cheap.tokens_per_pass() > 2.5, "{drafting:?}: {cheap:?}");
        assert_eq!(answer(0.05, drafting), cheap, "{drafting:?}");
        // If a row costs as much as a pass, drafting is tried and abandoned.
        let costly = answer(1.0, drafting).all();
        assert!((1..20).contains(&costly.drafted), "{drafting:?}: {costly:?}");
    }
}

#[test]
fn drafts_do_not_change_where_answers_end() {
    let prompt = repetitive(60);
    let mut plain = session(tiny(), 128);
    let mut drafting = session(tiny(), 128);
    drafting.set_draft_model(Engine::new(tiny(), &EngineOptions::default()).unwrap()).unwrap();
    // The end of the context, and token limits, in the middle of a draft.
    let full = run(&mut plain, &prompt, GenerateOptions::default()).0;
    assert_eq!(full.len(), 128 + 1 - 60);
    for n in [None, Some(1), Some(2), Some(5), Some(13)] {
        let options = GenerateOptions {
            max_tokens: n,
            drafting: Drafting { lookup: false, ..fixed(6) },
            ..GenerateOptions::default()
        };
        let (ids, stats) = run(&mut drafting, &prompt, options);
        assert_eq!(ids, full[..n.unwrap_or(full.len())]);
        assert!(stats.drafts.model.drafted <= ids.len() + 6);
    }
    // After drafts, a conversation continues as it would without them.
    let next = [&prompt[..], &full[..13], &[3, 4, 5]].concat();
    let options = GenerateOptions { max_tokens: Some(20), ..GenerateOptions::default() };
    let (ids, stats) = run(&mut drafting, &next, options.clone());
    assert_eq!(stats.reused_tokens, 60 + 12);
    assert_eq!(ids, run(&mut plain, &next, options).0);
}

/// A model with a string for each token and the given end-of-answer tokens.
fn with_texts(eos: Vec<u32>, name: impl Fn(u32) -> String) -> Model {
    let vocab: serde_json::Map<_, _> = (0..320).map(|id| (name(id), id.into())).collect();
    let json = serde_json::to_vec(&serde_json::json!({
        "added_tokens": [],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }))
    .unwrap();
    let vocabulary = build_vocab(&json, 320).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.nano");
    let generation = Generation { eos, ..Generation::default() };
    let plain = tiny();
    with_text(plain.file(), &file, json, vocabulary, &generation);
    Model::open(file).unwrap()
}

#[test]
fn stop_strings_and_end_tokens_work_within_drafts() {
    let name = |id: u32| format!("<{id}>");
    let prompt = repetitive(60);
    let options =
        |drafting| GenerateOptions { max_tokens: Some(40), drafting, ..GenerateOptions::default() };
    let generated =
        run(&mut session(with_texts(vec![], name), 128), &prompt, options(Drafting::OFF)).0;
    let at = (5..40).find(|&i| !generated[..i].contains(&generated[i])).expect("a new token");
    let end = vec![generated[at]];
    for (eos, stop) in [(end, vec![]), (vec![], vec![name(generated[at])])] {
        let mut session = session(with_texts(eos, name), 128);
        let draft = Engine::new(with_texts(vec![], name), &EngineOptions::default()).unwrap();
        session.set_draft_model(draft).unwrap();
        let drafting = Drafting { lookup: false, ..fixed(7) };
        let options = GenerateOptions { stop, ..options(drafting) };
        let (ids, stats) = run(&mut session, &prompt, options);
        assert_eq!(ids, generated[..=at]);
        assert!(stats.drafts.model.accepted > 0);
    }
}

#[test]
fn a_cancelled_draft_leaves_no_trace() {
    let prompt = repetitive(60);
    let options = GenerateOptions {
        max_tokens: Some(40),
        drafting: Drafting { lookup: false, ..fixed(7) },
        ..GenerateOptions::default()
    };
    let mut session = session(tiny(), 128);
    session.set_draft_model(Engine::new(tiny(), &EngineOptions::default()).unwrap()).unwrap();
    let want = run(&mut session, &prompt, options.clone()).0;
    session.prompt_tokens(&prompt).unwrap();
    session.start(options).unwrap();
    let mut generated = Vec::new();
    while generated.len() < 5 {
        if let Some(Event::Token { id, .. }) = session.next().unwrap() {
            generated.push(id);
        }
    }
    session.canceller().cancel();
    let ended = session.next().unwrap();
    assert!(
        matches!(ended, Some(Event::Finished { reason: FinishReason::Cancelled, .. })),
        "{ended:?}"
    );
    assert!(session.next().unwrap().is_none());
    assert_eq!((session.tokens().len(), session.cached()), (65, 64));
    session.start(GenerateOptions { max_tokens: Some(35), ..GenerateOptions::default() }).unwrap();
    while let Some(event) = session.next().unwrap() {
        if let Event::Token { id, .. } = event {
            generated.push(id);
        }
    }
    assert_eq!(generated, want);
}

#[test]
fn another_vocabulary_or_a_smaller_context_is_rejected() {
    let engine = |model, ctx| {
        Engine::new(model, &EngineOptions { ctx: Some(ctx), ..EngineOptions::default() }).unwrap()
    };
    let name = |id: u32| format!("<{id}>");
    let mut session = session(with_texts(vec![], name), 128);
    let other = with_texts(vec![], |id| if id == 7 { "seven".into() } else { name(id) });
    let error = session.set_draft_model(engine(other, 128)).unwrap_err().to_string();
    for part in ["cannot draft", "token 7", "seven", "<7>"] {
        assert!(error.contains(part), "{error}");
    }
    let short = with_texts(vec![], name);
    let error = session.set_draft_model(engine(short, 100)).unwrap_err().to_string();
    assert!(error.contains("100 positions"), "{error}");
    assert!(session.draft_engine().is_none());
}

fn smollm2() -> std::path::PathBuf {
    let model = ModelRef::parse("smollm2").unwrap();
    Store::open().unwrap().resolve(&model, Quant::Q8, Some(&Pip), &mut |_| {}).unwrap()
}

const PROMPTS: [&str; 20] = [
    "Once upon a time",
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "A recipe for bread:\n1. ",
    "The quick brown fox jumps over the lazy dog. The quick brown fox",
    "{\"name\": \"Ada\", \"age\": 36}\n{\"name\": \"Bob\", \"age\": ",
    "Dear Sir or Madam,",
    "1, 2, 3, 4, 5, 6,",
    "In the beginning",
    "The theory of relativity",
    "SELECT name FROM users WHERE",
    "Q: What is 2 + 2?\nA: 4\nQ: What is 3 + 3?\nA:",
    "# Installation\n\nTo install, run",
    "Water boils at",
    "The difference between a virus and a bacterium is",
    "for (int i = 0; i < n; i++) {",
    "My favourite season is autumn because",
    "row row row your boat, gently down the stream. row row",
    "Les enfants jouent dans",
    "The meeting agenda:\n- ",
];

/// Compares answers with and without drafts, for several temperatures and all draft sources.
fn same_ids(prompts: &[&str], tokens: usize) {
    let path = smollm2();
    let folder = tempfile::tempdir().unwrap();
    let draft = folder.path().join("draft.nano");
    first_layers(&NanoFile::open(&path).unwrap(), &draft, 12);
    // One thread: while other tests run in parallel, two threads would wait for each other.
    let options = EngineOptions { ctx: Some(512), threads: Some(1), ..EngineOptions::default() };
    let target = Engine::new(Model::open(&path).unwrap(), &options).unwrap();
    let mut session = Session::new(target).unwrap();
    let draft = Engine::new(Model::open(&draft).unwrap(), &options).unwrap();
    session.set_draft_model(draft).unwrap();
    let both = Drafting::default();
    let sources = [
        ("lookup", Drafting { model: false, ..both }),
        ("draft model", Drafting { lookup: false, ..both }),
        ("both", both),
        ("lookup, always", Drafting { model: false, ..fixed(4) }),
        ("draft model, always", Drafting { lookup: false, ..fixed(3) }),
        ("both, always", fixed(6)),
    ];
    let (mut drafted, mut accepted) = ([0; 6], [0; 6]);
    for prompt in prompts {
        let prompt = session.engine().model().encode(prompt).unwrap();
        for temperature in [0.0, 0.7, 1.2] {
            let options = |drafting| GenerateOptions {
                max_tokens: Some(tokens),
                sampling: Sampling { temperature, seed: 11, ..Sampling::default() },
                ignore_eos: true,
                drafting,
                ..GenerateOptions::default()
            };
            let (want, _) = run(&mut session, &prompt, options(Drafting::OFF));
            assert_eq!(want.len(), tokens);
            for (i, (name, drafting)) in sources.into_iter().enumerate() {
                let (ids, stats) = run(&mut session, &prompt, options(drafting));
                assert_eq!(ids, want, "{name}, temperature {temperature}");
                drafted[i] += stats.drafts.all().drafted;
                accepted[i] += stats.drafts.all().accepted;
            }
        }
    }
    println!("drafted {drafted:?}, accepted {accepted:?}");
    let always = drafted[3..].iter().chain(&accepted[3..]);
    assert!(always.into_iter().all(|n| *n > 0), "{drafted:?} {accepted:?}");
}

#[test]
fn smollm2_answers_the_same_with_and_without_drafts() {
    same_ids(&PROMPTS[4..6], 24);
}

/// The full comparison: 20 prompts with answers of 200 tokens, in four parts of a few minutes each.
/// `cargo test --release -p nanoinfer-engine --test speculate -- --ignored --nocapture 1_of_4`
macro_rules! all_prompts {
    ($($name:ident: $prompts:expr),*) => {$(
        #[test]
        #[ignore = "takes minutes"]
        fn $name() {
            same_ids(&PROMPTS[$prompts], 200);
        }
    )*};
}

all_prompts! {
    answers_to_20_prompts_are_the_same_1_of_4: 0..5,
    answers_to_20_prompts_are_the_same_2_of_4: 5..10,
    answers_to_20_prompts_are_the_same_3_of_4: 10..15,
    answers_to_20_prompts_are_the_same_4_of_4: 15..20
}
