//! After the first token, `Session::next` makes no heap allocations on any thread, not even for text.
//!
//! A separate program, because the test harness allocates when it reports a slow test. It supports as
//! much of the harness's arguments and output as test runners need.
#![allow(unsafe_code)] // required for a global allocator

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use common::{data, model, tiny};
use nanoinfer_engine::{
    Batch, BatchOptions, BatchToken, Drafting, Engine, EngineOptions, Event, GenerateOptions,
    KvType, Model, Overflow, Pooling, PromptOutput, Request, Sampling, Session, buffer_bytes,
};
use nanoinfer_format::Quant;
use nanoinfer_hub::{ModelRef, Pip, Store};

struct Counting;

/// Allocations of all threads.
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
thread_local! {
    /// Bytes allocated by this thread; new threads allocate at unpredictable times during startup.
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is forwarded unchanged to the system allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.set(BYTES.get() + layout.size()); // always accessible, as it has no destructor
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NAME: &str = "generating_allocates_nothing";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let tests = u8::from(is_selected(&args));
    if args.iter().any(|arg| arg == "--list") {
        (0..tests).for_each(|_| println!("{NAME}: test"));
        return;
    }
    println!("\nrunning {tests} test{}", if tests == 1 { "" } else { "s" });
    let start = Instant::now();
    if tests == 1 {
        within_one_context();
        while_the_context_slides();
        while_requests_join_and_leave();
        with_every_architecture();
        an_engine_allocates_what_buffer_bytes_returns();
        println!("test {NAME} ... ok");
    }
    let (filtered, seconds) = (1 - tests, start.elapsed().as_secs_f32());
    println!(
        "\ntest result: ok. {tests} passed; 0 failed; 0 ignored; 0 measured; {filtered} filtered \
         out; finished in {seconds:.2}s\n"
    );
}

/// Whether the test harness's arguments select the only test.
fn is_selected(args: &[String]) -> bool {
    let exact = args.iter().any(|arg| arg == "--exact");
    let matches = |f: &String| if exact { f == NAME } else { NAME.contains(f.as_str()) };
    let (mut filtered, mut matched) = (false, false);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--ignored" => return false,
            "--skip" if args.next().is_some_and(matches) => return false,
            "--skip" => {}
            "--color" | "--format" | "--logfile" | "--shuffle-seed" | "--test-threads" | "-Z" => {
                args.next();
            }
            flag if flag.starts_with('-') => {}
            _ => (filtered, matched) = (true, matched || matches(arg)),
        }
    }
    matched || !filtered
}

/// `buffer_bytes` equals an engine's allocations, except for tables, threads and the list of a pass's
/// tokens, which are about the same size for all of these models.
fn an_engine_allocates_what_buffer_bytes_returns() {
    let mut extra = Vec::new();
    let kinds =
        [(Quant::Q8, None), (Quant::F32, None), (Quant::Q4, None), (Quant::Q8, Some(KvType::Q4))];
    for (name, (quant, kv)) in tiny().iter().flat_map(|n| kinds.map(|kind| (n, kind))) {
        let options =
            EngineOptions { threads: Some(2), ctx: Some(64), kv, ..EngineOptions::default() };
        let model = model(&data("tiny").join(name), quant);
        let expected = buffer_bytes(model.config(), &options) as usize;
        let before = BYTES.get();
        let engine = Engine::new(model, &options).unwrap();
        let taken = BYTES.get() - before;
        assert_eq!(engine.threads(), 2);
        assert!(taken >= expected, "{name}: {taken} < {expected}");
        // Each layer's keys and values, and each layer's states, have tables.
        let c = engine.model().config();
        let recurrent = (0..c.n_layers as usize).filter(|&layer| c.recurrent_of(layer).is_some());
        let caches = (0..c.n_layers as usize).filter(|&layer| c.caches(layer));
        extra.push(taken - expected - 800 * (caches.count() + recurrent.count()));
    }
    let (least, most) = (extra.iter().min().unwrap(), extra.iter().max().unwrap());
    assert!(*most < 48 * 1024 && most - least < 2 * 1024, "{least} to {most} extra bytes");
}

/// Passes of one token, so that experts change with every pass.
fn with_every_architecture() {
    let kinds = [(Quant::Q8, None), (Quant::Q4, None), (Quant::Q8, Some(KvType::Q4))];
    for (name, (quant, kv)) in tiny().iter().flat_map(|n| kinds.map(|kind| (n, kind))) {
        let options =
            EngineOptions { threads: Some(2), ctx: Some(64), kv, ..EngineOptions::default() };
        let model = model(&data("tiny").join(name), quant);
        let mut engine = Engine::new(model, &options).unwrap();
        let seq = engine.open().unwrap();
        let mut before = 0;
        for i in 0..48 {
            if i == 1 {
                before = ALLOCATIONS.load(Ordering::Relaxed);
            }
            let token = BatchToken { seq, token: i * 37 % 192, logits: true };
            let pass = engine.forward(&[token]).unwrap();
            assert!(engine.logits(pass, 0).unwrap()[0].is_finite());
        }
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before, "{name}");
    }
}

/// 320 tokens in a context of 128 positions, with drafts.
fn while_the_context_slides() {
    let path = smollm2();
    let options = EngineOptions {
        threads: Some(2),
        ctx: Some(128),
        overflow: Overflow::Slide,
        ..EngineOptions::default()
    };
    let mut session =
        Session::new(Engine::new(Model::open(path).unwrap(), &options).unwrap()).unwrap();
    session.prompt_text("Once upon a time").unwrap();
    let sampling = Sampling { temperature: 0.8, ..Sampling::default() };
    let options = GenerateOptions {
        max_tokens: Some(320),
        sampling,
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    session.start(options).unwrap();
    let (mut tokens, mut before) = (0, 0);
    while let Some(event) = session.next().unwrap() {
        tokens += usize::from(matches!(event, Event::Token { .. }));
        if tokens == 1 && before == 0 {
            before = ALLOCATIONS.load(Ordering::Relaxed);
        }
    }
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before);
    assert_eq!((tokens, session.evicted()), (320, 256));
}

/// 16 running requests, some of which read their prompts; others wait, and some are cancelled. Only steps that admit
/// a request allocate.
fn while_requests_join_and_leave() {
    let options = EngineOptions {
        threads: Some(2),
        ctx: Some(256),
        sequences: 16,
        ..EngineOptions::default()
    };
    let engine = Engine::new(Model::open(smollm2()).unwrap(), &options).unwrap();
    let mut batch = Batch::new(engine, BatchOptions::default());
    let text = "Once upon a time, a time upon once. ".repeat(4);
    let prompt = batch.engine().model().encode(&text).unwrap();
    let mut sent = Vec::new();
    for i in 0..40usize {
        let request = Request {
            prompt: prompt[i % 3..1 + i % 3 + 7 * i % 24].to_vec(),
            options: GenerateOptions {
                max_tokens: Some(4 + 5 * i % 17),
                sampling: Sampling { temperature: 0.9, top_p: 0.9, ..Sampling::default() },
                stop: vec!["§§".to_owned()],
                logprobs: (i % 2 == 0).then_some(5),
                ignore_eos: true,
                ..GenerateOptions::default()
            },
            output: match i % 8 {
                3 => Some(PromptOutput::Hidden(Pooling::Mean)),
                4 => Some(PromptOutput::Logprobs(5)),
                5 => Some(PromptOutput::Next(vec![7, 8])),
                6 => Some(PromptOutput::Logits),
                _ => None,
            },
            key: i as u64 % 3,
            ..Request::default()
        };
        sent.push(batch.submit(request).unwrap());
    }
    let whole = (0..40).filter(|i| ![0, 3, 5, 6].contains(&(i % 8))).map(|i| 4 + 5 * i % 17);
    let (mut tokens, mut values, mut steps) = (0, 0, 0);
    while !batch.is_idle() {
        let (admissions, before) = (batch.load().admissions, ALLOCATIONS.load(Ordering::Relaxed));
        let events = batch.step().unwrap();
        for event in events {
            tokens += usize::from(matches!(event.event, Ok(Event::Token { .. })));
            values += usize::from(matches!(event.event, Ok(Event::Prompt { .. })));
        }
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert!(allocations == 0 || batch.load().admissions > admissions, "step {steps}");
        batch.cancel(sent[steps * 7 % 40 / 8 * 8]); // every eighth, sooner or later
        steps += 1;
    }
    assert!(tokens >= whole.sum(), "{tokens} tokens");
    assert_eq!(values, 20, "prompts that were read");
}

fn smollm2() -> std::path::PathBuf {
    let model = ModelRef::parse("smollm2").unwrap();
    Store::open().unwrap().resolve(&model, Quant::Q8, Some(&Pip), &mut |_| {}).unwrap()
}

fn within_one_context() {
    let path = smollm2();
    let options = EngineOptions { threads: Some(2), ..EngineOptions::default() };
    let engine = Engine::new(Model::open(&path).unwrap(), &options).unwrap();
    let mut session = Session::new(engine).unwrap();
    let sampled = Sampling {
        temperature: 0.8,
        top_k: 40,
        top_p: 0.95,
        repetition_penalty: 1.1,
        seed: 1,
        ..Sampling::default()
    };
    let draft = Engine::new(Model::open(&path).unwrap(), &options).unwrap();
    session.set_draft_model(draft).unwrap();
    let (greedy, governed) = (Sampling::default(), Drafting::default());
    let lookup = Drafting { model: false, fixed: Some(7), ..governed };
    let model = Drafting { lookup: false, fixed: Some(3), ..governed };
    let stop = vec!["§§".to_owned()];
    for (sampling, stop, drafting) in [
        (greedy, vec![], Drafting::OFF),
        (greedy, vec![], governed),
        (sampled, stop.clone(), governed),
        (greedy, vec![], lookup),
        (sampled, stop, model),
    ] {
        session.prompt_text("Once upon a time, a time upon once. Once upon a time").unwrap();
        let max_tokens = Some(60);
        let options = GenerateOptions {
            max_tokens,
            sampling,
            stop,
            ignore_eos: true,
            drafting,
            logprobs: Some(5),
            ..GenerateOptions::default()
        };
        session.start(options).unwrap();
        let mut tokens = 0;
        let mut bytes = 0;
        let mut before = 0;
        while let Some(event) = session.next().unwrap() {
            if let Event::Token { text, .. } = event {
                tokens += 1;
                bytes += text.len();
            }
            if tokens == 1 && before == 0 {
                before = ALLOCATIONS.load(Ordering::Relaxed);
            }
        }
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before);
        assert!(tokens == 60 && bytes > 60);
        let drafted = session.stats().drafts.all().drafted;
        assert!(drafting.fixed.is_none() || drafted > 0, "{drafting:?}");
    }
}
