//! Shared by the tests of this crate: converted models and comparisons.
#![allow(dead_code)] // each test binary uses only part of it

use std::path::{Path, PathBuf};

use nanoinfer_engine::{BatchToken, Engine, EngineOptions, Model};
use nanoinfer_format::{Generation, NanoFile, Precision, SectionKind, Writer};
use nanoinfer_packer::{Input, Options, convert};

/// A folder of the repository's test data.
pub(crate) fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(path)
}

/// The models of `tests/data/tiny`: one per architectural feature.
pub(crate) fn tiny() -> Vec<String> {
    let folders = std::fs::read_dir(data("tiny")).unwrap().map(|e| e.unwrap());
    let models = folders.filter(|f| f.path().join("golden.json").exists());
    let mut names: Vec<_> = models.map(|f| f.file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 20, "models are missing: {names:?}");
    names
}

/// Converts a Hugging Face folder into a temporary file and opens it.
pub(crate) fn model(folder: &Path, quant: impl Into<Precision>) -> Model {
    model_with(folder, Options::new(quant))
}

/// The same with all options of a conversion.
pub(crate) fn model_with(folder: &Path, options: Options<'_>) -> Model {
    let out = tempfile::tempdir().expect("a temporary folder");
    let file = out.path().join("model.nano");
    convert(&Input::Folder(folder.into()), &file, options).expect("converts");
    Model::open(&file).expect("opens") // the mapping outlives the file name
}

/// Copies a model, replacing its tokenizer, vocabulary and generation defaults.
pub(crate) fn with_text(
    from: &NanoFile,
    to: &Path,
    json: Vec<u8>,
    vocabulary: Vec<u8>,
    generation: &Generation,
) {
    let mut writer = Writer::create(to).unwrap();
    for tensor in from.tensors() {
        writer.begin(tensor.spec.clone()).unwrap();
        writer.write(from.bytes(tensor)).unwrap();
        writer.end().unwrap();
    }
    writer.section(SectionKind::Tokenizer, json).unwrap();
    writer.section(SectionKind::Vocabulary, vocabulary).unwrap();
    writer.finish(from.config(), generation).unwrap().commit().unwrap();
}

/// Copies a model with a tokenizer, adding a chat template.
pub(crate) fn with_template(from: &NanoFile, to: &Path, template: &str) {
    let mut writer = Writer::create(to).unwrap();
    for tensor in from.tensors() {
        writer.begin(tensor.spec.clone()).unwrap();
        writer.write(from.bytes(tensor)).unwrap();
        writer.end().unwrap();
    }
    for kind in [SectionKind::Tokenizer, SectionKind::Vocabulary] {
        writer.section(kind, from.section(kind).unwrap().1.to_vec()).unwrap();
    }
    writer.section(SectionKind::ChatTemplate, template.as_bytes().to_vec()).unwrap();
    writer.finish(from.config(), from.generation()).unwrap().commit().unwrap();
}

/// Writes a model with only the first `n` layers of another: a weaker model with the same vocabulary.
pub(crate) fn first_layers(from: &NanoFile, to: &Path, n: u32) {
    let mut config = from.config().clone();
    config.n_layers = n;
    config.windows.truncate(n as usize);
    config.layer_ropes.truncate(n as usize);
    config.recurrent.iter_mut().for_each(|r| r.layers.truncate(n as usize));
    let mut writer = Writer::create(to).unwrap();
    for tensor in from.tensors().iter().filter(|t| t.spec.layer.is_none_or(|layer| layer < n)) {
        writer.begin(tensor.spec.clone()).unwrap();
        writer.write(from.bytes(tensor)).unwrap();
        writer.end().unwrap();
    }
    for kind in [SectionKind::Tokenizer, SectionKind::Vocabulary] {
        if let Some((_, bytes)) = from.section(kind) {
            writer.section(kind, bytes.to_vec()).unwrap();
        }
    }
    writer.finish(&config, from.generation()).unwrap().commit().unwrap();
}

/// The `n` tokens that greedy decoding appends to `prompt`.
pub(crate) fn greedy(engine: &mut Engine, prompt: &[u32], n: usize) -> Vec<u32> {
    let seq = engine.open().unwrap();
    let mut next: Vec<u32> = prompt.to_vec();
    let mut out = Vec::new();
    while out.len() < n {
        let last = next.len() - 1;
        let batch: Vec<_> = next
            .iter()
            .enumerate()
            .map(|(i, &token)| BatchToken { seq, token, logits: i == last })
            .collect();
        let pass = engine.forward(&batch).unwrap();
        let token = argmax(engine.logits(pass, 0).unwrap());
        out.push(token);
        next = vec![token];
    }
    engine.close(seq).unwrap();
    out
}

/// Logits after every token of `ids`, in passes of `chunk` tokens.
pub(crate) fn logits(engine: &mut Engine, ids: &[u32], chunk: usize) -> Vec<Vec<f32>> {
    let seq = engine.open().expect("a free sequence");
    let mut rows = Vec::new();
    for tokens in ids.chunks(chunk.min(16)) {
        let batch: Vec<_> =
            tokens.iter().map(|&token| BatchToken { seq, token, logits: true }).collect();
        let pass = engine.forward(&batch).expect("a pass");
        for i in 0..batch.len() {
            rows.push(engine.logits(pass, i).expect("finite").to_vec());
        }
    }
    engine.close(seq).unwrap();
    rows
}

/// An engine with default options, except for the number of threads.
pub(crate) fn engine(model: Model, threads: usize) -> Engine {
    let options = EngineOptions { threads: Some(threads), ..EngineOptions::default() };
    Engine::new(model, &options).expect("an engine")
}

/// Index of the largest value; the lowest index if there are several.
pub(crate) fn argmax(x: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in x.iter().enumerate() {
        if *v > x[best] {
            best = i;
        }
    }
    best as u32
}

/// Log softmax, in f64.
pub(crate) fn log_softmax(x: &[f32]) -> Vec<f64> {
    let max = x.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = x.iter().map(|v| f64::from(v - max).exp()).sum();
    x.iter().map(|v| f64::from(v - max) - sum.ln()).collect()
}

/// Mean over positions of KL(reference ‖ other).
pub(crate) fn mean_kl(reference: &[Vec<f32>], other: &[Vec<f32>]) -> f64 {
    let kl = |(p, q): (&Vec<f32>, &Vec<f32>)| -> f64 {
        let (p, q) = (log_softmax(p), log_softmax(q));
        p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
    };
    reference.iter().zip(other).map(kl).sum::<f64>() / reference.len() as f64
}

/// Largest absolute difference.
pub(crate) fn max_diff(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
