//! Times loading a tokenizer and encoding text: `cargo bench -p nanoinfer-text`.
//!
//! Measured 2026-11-22 on two shared Zen 4 cores under load, medians of 101 runs for SmolLM2 and
//! Llama-2: loading the native form takes 0.79 and 0.12 ms, encoding 46 kB of English 3.0 and 11 ms.
//! kitoken 0.11, measured within the same hour: loading 18 and 28 ms (minimum 12 and 9), encoding 1.4
//! and 15 ms.

use std::hint::black_box;
use std::time::Instant;

#[path = "../tests/common/mod.rs"]
mod common;

use common::{LLAMA2, Model, SMOL};
use nanoinfer_text::{Specials, Tokenizer, VocabTable};

fn median(name: &str, mut run: impl FnMut()) {
    let mut times: Vec<f64> = (0..101)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{name:<40} median {:7.3} ms   minimum {:7.3} ms", times[50], times[0]);
}

fn main() {
    let models: [(&str, &Model); 2] = [("SmolLM2", &SMOL), ("Llama-2", &LLAMA2)];
    for (name, model) in models {
        let hash = [0; 32];
        let native = model.tokenizer.to_native(&hash);
        let load = || Tokenizer::load(&model.json, &hash, Some(&native)).unwrap();
        let text = "A tokenizer cuts text into the pieces that a model reads. ".repeat(800);
        println!("{name}: native form {} bytes, JSON {} bytes", native.len(), model.json.len());
        median("  load native", || drop(black_box(load())));
        median("  load native, encode one short prompt", || {
            black_box(load().encode("What is the capital of France?", Specials::Plain));
        });
        median("  check vocabulary table", || {
            black_box(VocabTable::parse(&model.section).unwrap());
        });
        median(&format!("  encode {} bytes", text.len()), || {
            black_box(model.tokenizer.encode(&text, Specials::Parse));
        });
    }
    median("SmolLM2: build from JSON", || drop(black_box(Tokenizer::from_json(&SMOL.json))));
}
