//! The contract: threads, chunks, batches and instruction sets do not change a single bit.

mod common;

use common::{data, logits, model, tiny};
use nanoinfer_engine::{BatchToken, Engine, EngineOptions, KvType};
use nanoinfer_format::Quant;
use nanoinfer_kernels::{Isa, Kernels};

/// 130 tokens: three cache blocks, and longer than any sliding window here.
fn ids() -> Vec<u32> {
    (0..130u32).map(|i| (i * i * 7 + i * 13 + 5) % 192).collect()
}

/// An engine with room for all of [`ids`]; the RoPE frequencies of some models depend on the context
/// size.
fn engine(name: &str, quant: Quant, options: &EngineOptions) -> Engine {
    let options = &EngineOptions { ctx: Some(200), ..options.clone() };
    Engine::new(model(&data("tiny").join(name), quant), options).unwrap()
}

fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter().map(|r| r.iter().map(|x| x.to_bits()).collect()).collect()
}

/// Every architectural feature in 8 bits, plus a dense model and a mixture of experts in every other
/// encoding.
fn models() -> Vec<(String, Quant)> {
    let all = tiny().into_iter().map(|name| (name, Quant::Q8));
    let others = Quant::ALL.into_iter().filter(|&quant| quant != Quant::Q8);
    let two = |quant| ["llama-gqa", "mixtral-experts"].map(|name| (name.into(), quant));
    all.chain(others.flat_map(two)).collect()
}

#[test]
fn cache_types_are_exact_and_close_to_each_other() {
    for (name, quant) in models() {
        let mut all = Vec::new();
        for kv in KvType::ALL {
            let options = EngineOptions { kv: Some(kv), ..EngineOptions::default() };
            let mut engine = engine(&name, quant, &options);
            let whole = last(&mut engine, &ids(), 256);
            assert_eq!(whole, last(&mut engine, &ids(), 1), "{name} {}", kv.name());
            all.push(logits(&mut engine, &ids(), 16));
        }
        let [q4, q8, f16] = [0, 1, 2].map(|i| common::mean_kl(&all[3], &all[i]));
        println!("{name} {quant:?}: KL relative to f32: q4 {q4:.1e}, q8 {q8:.1e}, f16 {f16:.1e}");
        // If activations are quantized too, a difference in the last bit can change how a value is
        // rounded.
        let f16_limit = if quant == Quant::F32 { 1e-6 } else { 5e-4 };
        assert!(q4 < 5e-2 && q8 < 2e-3 && f16 < f16_limit, "{name}: {q4} {q8} {f16}");
    }
}

#[test]
fn threads_do_not_matter() {
    for (name, quant) in models() {
        let run = |threads| {
            let options = EngineOptions { threads: Some(threads), ..EngineOptions::default() };
            bits(&logits(&mut engine(&name, quant, &options), &ids(), 16))
        };
        let one = run(1);
        assert_eq!(one, run(2), "{name}");
        assert_eq!(one, run(3), "{name}");
    }
}

/// The instruction sets of this machine; fails if the machine lacks one that the environment requires.
fn isas() -> Vec<Isa> {
    let found: Vec<_> = Isa::ALL.into_iter().filter(|i| Kernels::new(*i).is_some()).collect();
    let required = std::env::var("NANOINFER_REQUIRE_ISA").unwrap_or_default();
    for name in ["scalar"].into_iter().chain(required.split(',').filter(|n| !n.is_empty())) {
        let has = found.iter().any(|i| i.name() == name);
        assert!(has, "this machine lacks the required {name}");
    }
    found
}

#[test]
fn instruction_sets_do_not_matter() {
    for (name, quant) in models() {
        let mut reference = None;
        for isa in isas() {
            let options =
                EngineOptions { isa: Some(isa), threads: Some(2), ..EngineOptions::default() };
            let got = bits(&logits(&mut engine(&name, quant, &options), &ids(), 16));
            println!("{name} {quant:?} on {}", isa.name());
            assert!(*reference.get_or_insert_with(|| got.clone()) == got, "{name} {}", isa.name());
        }
    }
}

/// Bits of the logits after the last token, with the prompt prefilled in passes of `chunk` tokens.
fn last(engine: &mut Engine, ids: &[u32], chunk: usize) -> Vec<u32> {
    let (seq, mut last) = (engine.open().unwrap(), None);
    for (i, part) in ids.chunks(chunk).enumerate() {
        let ends = i * chunk + part.len() == ids.len();
        let batch: Vec<_> = part
            .iter()
            .enumerate()
            .map(|(j, &token)| BatchToken { seq, token, logits: ends && j + 1 == part.len() })
            .collect();
        last = Some(engine.forward(&batch).unwrap());
    }
    let out = engine.logits(last.unwrap(), 0).unwrap().iter().map(|x| x.to_bits()).collect();
    engine.close(seq).unwrap();
    out
}

#[test]
fn chunks_do_not_matter() {
    for (name, quant) in models() {
        let mut engine = engine(&name, quant, &EngineOptions::default());
        let whole = last(&mut engine, &ids(), 256);
        for chunk in [1, 7, 32, 64] {
            assert_eq!(whole, last(&mut engine, &ids(), chunk), "{name} chunk {chunk}");
        }
    }
}

#[test]
fn batched_sequences_match_separate_sequences() {
    for (name, quant) in models() {
        let options = EngineOptions { sequences: 4, ..EngineOptions::default() };
        let mut engine = engine(&name, quant, &options);
        let ids = ids();
        let alone: Vec<_> = (0..4).map(|i| last(&mut engine, &ids[i..100 + i], 256)).collect();
        let seqs: Vec<_> = (0..4).map(|_| engine.open().unwrap()).collect();
        let mut last = None;
        for at in 0..100 {
            let batch: Vec<_> = seqs
                .iter()
                .enumerate()
                .map(|(i, &seq)| BatchToken { seq, token: ids[at + i], logits: at == 99 })
                .collect();
            last = Some(engine.forward(&batch).unwrap());
        }
        for (i, alone) in alone.iter().enumerate() {
            let row = engine.logits(last.unwrap(), i).unwrap();
            let row: Vec<u32> = row.iter().map(|x| x.to_bits()).collect();
            assert_eq!(*alone, row, "{name} sequence {i}");
        }
    }
}

#[test]
fn rollback_leaves_no_trace() {
    for (name, quant) in models() {
        let mut engine = engine(&name, quant, &EngineOptions::default());
        let ids = ids();
        let want = last(&mut engine, &ids, 256);
        let seq = engine.open().unwrap();
        let feed = |engine: &mut Engine, tokens: &[u32]| {
            let batch: Vec<_> =
                tokens.iter().map(|&token| BatchToken { seq, token, logits: false }).collect();
            engine.forward(&batch).unwrap();
        };
        feed(&mut engine, &ids[..70]);
        feed(&mut engine, &[1; 100]);
        // The state of a recurrent layer is known at fewer positions.
        let left = engine.truncate(seq, 70).unwrap();
        assert!(left == 70 || engine.model().config().recurrent.is_some() && left < 70, "{name}");
        feed(&mut engine, &ids[left..129]);
        let pass = engine.forward(&[BatchToken { seq, token: ids[129], logits: true }]).unwrap();
        let got: Vec<u32> = engine.logits(pass, 0).unwrap().iter().map(|x| x.to_bits()).collect();
        assert_eq!(want, got, "{name}");
    }
}

#[test]
fn a_cancelled_pass_leaves_the_sequence_unchanged() {
    let mut engine = engine("llama-gqa", Quant::Q8, &EngineOptions::default());
    let ids = ids();
    let want = last(&mut engine, &ids, 256);
    let seq = engine.open().unwrap();
    let batch: Vec<_> = ids.iter().map(|&token| BatchToken { seq, token, logits: false }).collect();
    engine.canceller(seq).unwrap().cancel();
    assert!(matches!(engine.forward(&batch), Err(nanoinfer_engine::Error::Cancelled)));
    assert_eq!(engine.len(seq).unwrap(), 0);
    engine.close(seq).unwrap();
    assert_eq!(want, last(&mut engine, &ids, 256));
}
