//! Measures what many users of one engine see.
//!
//! ```text
//! cargo run --release -p nanoinfer-engine --example serving -- stall MODEL [PROMPT [PASS_MS]]
//! … -- streams MODEL [N,N,…]      tokens per second together while all of N streams decode
//! … -- overhead MODEL [N]         time of a step outside the forward pass
//! … -- store MODEL [PROMPT]       gaps of a stream while the context of another is written and read
//! ```
//!
//! `MODEL` is a `.nano` file, or a shape with an encoding, such as `tinyllama-1.1b:q8`, which is filled with
//! random weights; `smollm2-135m@152000:q8` has another vocabulary.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nanoinfer_engine::{
    Batch, BatchOptions, Drafting, Engine, EngineOptions, Event, GenerateOptions, Model,
    PrefixStore, Request, RequestId, Sampling,
};
use nanoinfer_format::Quant;
use nanoinfer_packer::synthetic::{Shape, build};
use nanoinfer_platform::file;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn open(name: &str) -> Result<Model> {
    let Some((shape, quant)) = name.split_once(':') else { return Ok(Model::open(name)?) };
    let quant = Quant::ALL.into_iter().find(|q| q.name() == quant).ok_or("unknown encoding")?;
    let (shape, vocabulary) = shape.split_once('@').unwrap_or((shape, ""));
    let mut shape = Shape::find(shape).ok_or("unknown shape")?.with_quant(quant);
    if !vocabulary.is_empty() {
        shape = shape.with_vocabulary(vocabulary.parse()?);
    }
    let folder = file::in_memory(shape.bytes()).unwrap_or_else(std::env::temp_dir);
    let staged = build(&shape, &folder, &mut |_| {})?;
    Ok(Model::open_copy(staged.path())?) // in large pages, unlike a mapping of a tmpfs
}

fn batch(model: &str, ctx: usize, sequences: usize, pass_ms: f64) -> Result<Batch> {
    let options = EngineOptions {
        ctx: Some(ctx),
        sequences,
        logits_rows: sequences.max(16),
        ..EngineOptions::default()
    };
    let engine = Engine::new(open(model)?, &options)?;
    Ok(Batch::new(engine, BatchOptions { pass_ms, ..BatchOptions::default() }))
}

/// A request with a random prompt of `n` tokens, which ends only when it is cancelled.
fn request(n: usize, seed: u32, vocab: u32) -> Request {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let prompt = (0..n).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % vocab
    });
    Request {
        prompt: prompt.collect(),
        options: GenerateOptions {
            sampling: Sampling { temperature: 1.0, seed: seed.into(), ..Sampling::default() },
            ignore_eos: true,
            drafting: Drafting::OFF,
            ..GenerateOptions::default()
        },
        ..Request::default()
    }
}

/// Runs a step; calls `token` for each token.
fn step(batch: &mut Batch, mut token: impl FnMut(RequestId)) -> Result<()> {
    for event in batch.step()? {
        match event.event {
            Ok(Event::Token { .. }) => token(event.id),
            Ok(_) => {}
            Err(e) => return Err(e.to_string().into()),
        }
    }
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The gaps of a stream while the prompt of another is read, and how long that takes compared to alone.
fn stall(model: &str, prompt: usize, pass_ms: f64) -> Result<()> {
    let mut batch = batch(model, prompt + 64, 4, pass_ms)?;
    let vocab = batch.engine().model().config().vocab_size;
    let first_token = |batch: &mut Batch, seed: u32, gaps: &mut Vec<f64>| -> Result<f64> {
        let id = batch.submit(request(prompt, seed, vocab))?;
        let (start, mut last) = (Instant::now(), Instant::now());
        let mut done = false;
        while !done {
            let mut streamed = false;
            step(batch, |from| if from == id { done = true } else { streamed = true })?;
            if streamed {
                gaps.push(ms(last.elapsed()));
                last = Instant::now();
            }
        }
        let time = start.elapsed().as_secs_f64();
        batch.cancel(id);
        step(batch, |_| {})?;
        Ok(time)
    };
    let mut alone = f64::INFINITY;
    for seed in 0..2 {
        alone = alone.min(first_token(&mut batch, seed, &mut Vec::new())?);
    }
    let stream = batch.submit(request(16, 9, vocab))?;
    let mut tokens = 0;
    while tokens < 50 {
        step(&mut batch, |_| tokens += 1)?;
    }
    let mut gaps = Vec::new();
    let beside = first_token(&mut batch, 3, &mut gaps)?;
    batch.cancel(stream);
    gaps.sort_by(f64::total_cmp);
    let at = |share: f64| gaps[((gaps.len() - 1) as f64 * share) as usize];
    println!(
        "{prompt} tokens: {alone:.2} s alone, {beside:.2} s beside a stream ({:.0} % of the speed)",
        100.0 * alone / beside
    );
    println!("gaps of the stream: p50 {:.0} ms, p99 {:.0}, max {:.0}", at(0.5), at(0.99), at(1.0));
    Ok(())
}

/// Tokens per second of `n` streams together: from the last first token until each has 128 more, and
/// from the first prompt on.
fn streams(model: &str, n: usize) -> Result<()> {
    const PROMPT: usize = 512;
    const MORE: usize = 128;
    // Room for what the first answers get while the last prompts are read.
    let mut batch = batch(model, 8 * PROMPT, n, BatchOptions::default().pass_ms)?;
    let vocab = batch.engine().model().config().vocab_size;
    let start = Instant::now();
    let mut counts = BTreeMap::new();
    for seed in 0..n {
        counts.insert(batch.submit(request(PROMPT, seed as u32, vocab))?, 0usize);
    }
    while counts.values().any(|&tokens| tokens == 0) {
        step(&mut batch, |id| *counts.entry(id).or_default() += 1)?;
    }
    let (all, before) = (Instant::now(), counts.values().sum::<usize>());
    for _ in 0..MORE {
        step(&mut batch, |id| *counts.entry(id).or_default() += 1)?;
    }
    let tokens = counts.values().sum::<usize>();
    println!(
        "{n} streams: {:.1} tokens/s while all decode, {:.1} end to end, first tokens after {:.1} s",
        (tokens - before) as f64 / all.elapsed().as_secs_f64(),
        tokens as f64 / start.elapsed().as_secs_f64(),
        (all - start).as_secs_f64()
    );
    Ok(())
}

/// Time of a step with `n` streams outside the forward pass.
fn overhead(model: &str, n: usize) -> Result<()> {
    let mut batch = batch(model, 256, n, BatchOptions::default().pass_ms)?;
    let vocab = batch.engine().model().config().vocab_size;
    for seed in 0..n {
        batch.submit(request(8, seed as u32, vocab))?;
    }
    while batch.load().decoding < n {
        step(&mut batch, |_| {})?;
    }
    let (mut total, mut forward) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let start = Instant::now();
        step(&mut batch, |_| {})?;
        total.push(ms(start.elapsed()));
        forward.push(batch.load().forward_ms);
    }
    let mut outside: Vec<_> = total.iter().zip(&forward).map(|(all, pass)| all - pass).collect();
    outside.sort_by(f64::total_cmp);
    println!(
        "{n} streams, {vocab} tokens in the vocabulary: {:.2} ms outside the pass (p90 {:.2})",
        outside[50], outside[90]
    );
    Ok(())
}

/// A batch with a store in `folder`, and a stream that has begun.
fn beside_a_stream(model: &Arc<Model>, prompt: usize, folder: &Path) -> Result<(Batch, RequestId)> {
    let options =
        EngineOptions { ctx: Some(prompt + 64), sequences: 4, ..EngineOptions::default() };
    let mut batch = Batch::new(Engine::new(Arc::clone(model), &options)?, BatchOptions::default());
    batch.set_store(Some(PrefixStore::open(folder, 8 << 30)?));
    let stream = batch.submit(request(16, 9, model.config().vocab_size))?;
    let mut tokens = 0;
    while tokens < 20 {
        step(&mut batch, |_| tokens += 1)?;
    }
    Ok((batch, stream))
}

/// The gaps of a stream while a context is written, and while it is read again after a restart.
fn store(model: &str, prompt: usize) -> Result<()> {
    let (model, folder) = (Arc::new(open(model)?), tempfile::tempdir()?);
    let long = || request(prompt, 1, model.config().vocab_size);
    let largest = |gaps: &[f64]| gaps.iter().copied().fold(0.0, f64::max);
    let written = || {
        let files = fs::read_dir(folder.path()).into_iter().flatten().flatten();
        files.filter(|file| file.path().extension().is_some_and(|e| e == "nkv")).count()
    };
    let (mut batch, _) = beside_a_stream(&model, prompt, folder.path())?;
    let (mut before, mut while_written) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let start = Instant::now();
        step(&mut batch, |_| {})?;
        before.push(ms(start.elapsed()));
    }
    let id = batch.submit(long())?;
    let mut done = false;
    while !done {
        step(&mut batch, |from| done |= from == id)?;
    }
    batch.cancel(id);
    while written() == 0 {
        let start = Instant::now();
        step(&mut batch, |_| {})?;
        while_written.push(ms(start.elapsed()));
    }
    drop(batch);
    // Until the request is admitted; then what is not stored is computed.
    let restored = |batch: &mut Batch| -> Result<(Vec<f64>, [f64; 2])> {
        let admitted = batch.load().admissions + 1;
        let (id, start) = (batch.submit(long())?, Instant::now());
        let (mut steps, mut read, mut done) = (Vec::new(), None, false);
        while !done {
            let begun = Instant::now();
            step(batch, |from| done |= from == id)?;
            if batch.load().admissions < admitted {
                steps.push(ms(begun.elapsed()));
            } else {
                read.get_or_insert_with(|| ms(begun - start));
            }
        }
        Ok((steps, [read.unwrap_or_default(), ms(start.elapsed())]))
    };
    let (mut batch, _) = beside_a_stream(&model, prompt, folder.path())?;
    let (while_read, beside) = restored(&mut batch)?;
    drop(batch);
    println!(
        "longest step of a stream: {:.0} ms before, {:.0} while written ({} steps), {:.0} while read ({} steps)",
        largest(&before),
        largest(&while_written),
        while_written.len(),
        largest(&while_read),
        while_read.len()
    );
    let (mut batch, stream) = beside_a_stream(&model, prompt, folder.path())?;
    batch.cancel(stream);
    let (_, alone) = restored(&mut batch)?;
    for (company, [read, first]) in [("beside a stream", beside), ("alone", alone)] {
        println!(
            "{prompt} tokens, {company}: read after {read:.0} ms, first token after {first:.0} ms"
        );
    }
    Ok(())
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["stall", model] => stall(model, 4096, 150.0),
        ["stall", model, prompt] => stall(model, prompt.parse()?, 150.0),
        ["stall", model, prompt, pass_ms] => stall(model, prompt.parse()?, pass_ms.parse()?),
        ["streams", model] => [1, 4, 8, 16, 32, 64].iter().try_for_each(|&n| streams(model, n)),
        ["streams", model, list] => list.split(',').try_for_each(|n| streams(model, n.parse()?)),
        ["store", model] => store(model, 4100),
        ["store", model, prompt] => store(model, prompt.parse()?),
        ["overhead", model] => overhead(model, 64),
        ["overhead", model, n] => overhead(model, n.parse()?),
        _ => {
            Err("usage: serving (stall | streams | overhead | store) MODEL …; see the source"
                .into())
        }
    }
}
