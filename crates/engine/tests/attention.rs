//! However the attention of a pass is divided, its bits are the same: sequences of any depth match themselves
//! alone, for any number of them in a pass.

mod common;
#[path = "common/reference.rs"]
#[allow(dead_code)] // the model's own forward pass
mod reference;

use std::sync::Arc;

use common::{data, model};
use nanoinfer_engine::{BatchToken, Engine, EngineOptions, KvType, Model, Overflow, SeqId};
use nanoinfer_format::Quant;
use reference::{Reference, Shape};

/// Positions before the first decoded token; a span has 512.
const DEPTHS: [usize; 9] = [700, 5, 1100, 64, 513, 130, 1, 512, 300];
const SEQUENCES: usize = 64;
const DECODED: usize = 2;
/// Length of a prompt that is read while the sequences decode.
const PROMPT: usize = 100;

type Bits = Vec<u32>;

/// The prompt of a sequence, and the tokens decoded after it.
fn tokens(sequence: usize) -> (Vec<u32>, [u32; DECODED]) {
    let depth = DEPTHS.get(sequence % DEPTHS.len()).copied().filter(|_| sequence < SEQUENCES);
    let token = |i: usize| ((i * i * 7 + i * (13 + sequence) + 5 * sequence) % 192) as u32;
    let depth = depth.unwrap_or(PROMPT);
    ((0..depth).map(token).collect(), [depth, depth + 1].map(token))
}

/// Runs a pass over tokens of several sequences. Returns the logits after the last token of each sequence.
fn pass(engine: &mut Engine, parts: &[(SeqId, &[u32])]) -> Vec<Bits> {
    let rows = |(seq, tokens): &(SeqId, &[u32])| -> Vec<BatchToken> {
        let (seq, last) = (*seq, tokens.len() - 1);
        let row = |(i, &token)| BatchToken { seq, token, logits: i == last };
        tokens.iter().enumerate().map(row).collect()
    };
    let batch: Vec<_> = parts.iter().flat_map(rows).collect();
    let id = engine.forward(&batch).unwrap();
    let bits = |row| engine.logits(id, row).unwrap().iter().map(|x| x.to_bits()).collect();
    (0..parts.len()).map(bits).collect()
}

struct Case {
    model: Arc<Model>,
    kv: KvType,
    overflow: Overflow,
}

impl Case {
    fn engine(&self, threads: usize, sequences: usize) -> Engine {
        let options = EngineOptions {
            threads: Some(threads),
            ctx: Some(if self.overflow == Overflow::Stop { 1200 } else { 640 }),
            kv: Some(self.kv),
            overflow: self.overflow,
            sequences,
            logits_rows: sequences,
            ..EngineOptions::default()
        };
        Engine::new(Arc::clone(&self.model), &options).unwrap()
    }

    /// Logits after each decoded token of every sequence, alone on one thread; after the prompt for the last.
    fn alone(&self) -> Vec<Vec<Bits>> {
        let mut engine = self.engine(1, 1);
        let one = |sequence| {
            let (prompt, decoded) = tokens(sequence);
            let seq = engine.open().unwrap();
            engine.pin(seq, 100).unwrap();
            let mut read = |part: &[u32]| pass(&mut engine, &[(seq, part)]).remove(0);
            let prompt = prompt.chunks(61).map(&mut read).last().unwrap();
            let decoded: Vec<_> = decoded.map(|token| read(&[token])).into();
            engine.close(seq).unwrap();
            if sequence < SEQUENCES { decoded } else { vec![prompt] }
        };
        (0..=SEQUENCES).map(one).collect()
    }

    fn check(&self, name: &str) {
        let want = self.alone();
        let all: Vec<_> = (0..=SEQUENCES).map(tokens).collect();
        for threads in [1, 2, 7] {
            let name = format!("{name} {} {:?}, {threads} threads", self.kv.name(), self.overflow);
            let mut engine = self.engine(threads, SEQUENCES + 1);
            let open = |_| {
                let seq = engine.open().unwrap();
                engine.pin(seq, 100).unwrap();
                seq
            };
            let seqs: Vec<_> = (0..=SEQUENCES).map(open).collect();
            for (i, seq) in seqs[..SEQUENCES].iter().enumerate() {
                all[i].0.chunks(256).for_each(|part| {
                    pass(&mut engine, &[(*seq, part)]);
                });
            }
            let roll_back = |engine: &mut Engine| {
                for (seq, (prompt, _)) in seqs[..SEQUENCES].iter().zip(&all) {
                    assert_eq!(engine.truncate(*seq, prompt.len()).unwrap(), prompt.len());
                }
            };
            for n in [1, 2, 8, 9, 16, 33, 64] {
                for step in [0, DECODED - 1] {
                    let part = |i: usize| (seqs[i], &all[i].1[step..=step]);
                    let got = pass(&mut engine, &(0..n).map(part).collect::<Vec<_>>());
                    let same = (0..n).find(|&i| got[i] != want[i][step]);
                    assert_eq!(same, None, "{name}: step {step} of {n} sequences");
                }
                roll_back(&mut engine);
                let both = |i: usize| (seqs[i], &all[i].1[..]);
                let mut parts: Vec<_> = (0..n).map(both).collect();
                parts.insert(n / 2, (seqs[SEQUENCES], &all[SEQUENCES].0));
                let mut got = pass(&mut engine, &parts);
                assert_eq!(got.remove(n / 2), want[SEQUENCES][0], "{name}: beside {n} sequences");
                let same = (0..n).find(|&i| got[i] != want[i][DECODED - 1]);
                assert_eq!(same, None, "{name}: {n} sequences with a draft, beside a prompt");
                roll_back(&mut engine);
                engine.truncate(seqs[SEQUENCES], 0).unwrap();
            }
        }
    }
}

#[test]
fn caches_of_every_type() {
    let model = Arc::new(model(&data("tiny/llama-gqa"), Quant::Q8));
    for kv in KvType::ALL {
        Case { model: Arc::clone(&model), kv, overflow: Overflow::Stop }.check("llama-gqa");
    }
}

#[test]
fn contexts_that_slide() {
    for name in ["llama-gqa", "mistral-swa"] {
        let model = Arc::new(model(&data("tiny").join(name), Quant::Q8));
        Case { model, kv: KvType::Q8, overflow: Overflow::Slide }.check(name);
    }
}

#[test]
fn windows_and_a_single_kv_head() {
    let windows = Arc::new(model(&data("tiny/gemma2"), Quant::Q8));
    Case { model: windows, kv: KvType::Q8, overflow: Overflow::Stop }.check("gemma2");
    let shape = Shape {
        name: "a single KV head",
        d: 64,
        d_ff: 64,
        heads: 4,
        kv_heads: 1,
        head_dim: 16,
        vocab: 192,
        layers: 2,
        tied: true,
        biases: &[],
    };
    let folder = tempfile::tempdir().unwrap();
    Reference::new(shape, 3).write(folder.path());
    let model = Arc::new(model(folder.path(), Quant::F32));
    Case { model, kv: KvType::F32, overflow: Overflow::Stop }.check(shape.name);
}
