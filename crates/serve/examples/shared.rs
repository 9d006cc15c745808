//! Measures the speed of several answers at once by a `Batch` directly, and by threads that share a `Local`, in turns.
//!
//! ```text
//! cargo run --release -p nanoinfer-serve --example shared -- MODEL.nano [ANSWERS [TOKENS [ROUNDS]]]
//! ```
//!
//! Prints the tokens per second of each round: of the batch, and of the threads. `bench/python_threads.py` adds those
//! of Python threads.

use std::error::Error;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use nanoinfer_engine::{
    Batch, BatchOptions, Engine, EngineOptions, Event, GenerateOptions, Model, Request, Sampling,
};
use nanoinfer_serve::{Api, Local, Served, Update, wait};
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn engine(model: &Arc<Model>, answers: usize) -> Result<Engine> {
    let options = EngineOptions {
        ctx: Some(1024),
        sequences: answers,
        logits_rows: answers.max(16),
        ..EngineOptions::default()
    };
    Ok(Engine::new(Arc::clone(model), &options)?)
}

fn prompt(i: usize) -> String {
    format!("Story number {i}: ")
}

/// Seconds for all answers of a batch.
fn direct(batch: &mut Batch, answers: usize, tokens: usize) -> Result<f64> {
    let model = Arc::clone(batch.engine().model());
    let start = Instant::now();
    for i in 0..answers {
        let sampling =
            Sampling { temperature: 1.0, seed: i as u64, ..Sampling::of(model.generation()) };
        let options = GenerateOptions {
            max_tokens: Some(tokens),
            sampling,
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        let prompt = model.encode(&prompt(i))?;
        batch.submit(Request { prompt, options, ..Request::default() })?;
    }
    let mut generated = 0;
    while !batch.is_idle() {
        for event in batch.step()? {
            generated +=
                usize::from(matches!(event.event.map_err(|e| e.to_string())?, Event::Token { .. }));
        }
    }
    assert_eq!(generated, answers * tokens);
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds for the same answers, each on a thread.
fn threads(local: &Local, answers: usize, tokens: usize) -> f64 {
    let start = Instant::now();
    thread::scope(|scope| {
        for i in 0..answers {
            let request = json!({
                "prompt": prompt(i), "max_tokens": tokens, "temperature": 1, "seed": i, "ignore_eos": true,
            });
            scope.spawn(move || {
                let mut answers = local.ask(Api::Completions, &request).expect("a valid request");
                while let Some(update) = wait(answers.next(), None).flatten() {
                    assert!(!matches!(update, Update::Failed(_)), "{update:?}");
                }
                assert_eq!(answers.tokens(0).len(), tokens);
            });
        }
    });
    start.elapsed().as_secs_f64()
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("which model?")?;
    let mut number = |default| args.next().map_or(Ok(default), |n| n.parse());
    let (answers, tokens, rounds) = (number(8)?, number(128)?, number(5)?);
    let model = Arc::new(Model::open(path)?);
    let mut batch = Batch::new(engine(&model, answers)?, BatchOptions::default());
    let engines = engine(&model, answers)?.into();
    let (name, load, batch_options) = ("model".to_owned(), None, BatchOptions::default());
    let local = Local::open(Served { name, engines, load, batch: batch_options })?;
    direct(&mut batch, answers, tokens)?; // warm
    threads(&local, answers, tokens);
    for _ in 0..rounds {
        let all = (answers * tokens) as f64;
        let (by_batch, by_threads) =
            (direct(&mut batch, answers, tokens)?, threads(&local, answers, tokens));
        println!("{:.1} {:.1}", all / by_batch, all / by_threads);
    }
    Ok(())
}
