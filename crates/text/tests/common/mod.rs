//! Vocabularies and goldens; see `tests/data/README.md` for their origin.
#![allow(dead_code, reason = "each test file uses only part of it")]

use std::io::Read;
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use nanoinfer_text::{GgufVocab, Tokenizer, VocabTable, build_vocab, tokenizer_json_from_gguf};
use serde::Deserialize;

/// A string, its ids, and the text that they decode to.
#[derive(Deserialize)]
pub(crate) struct Golden {
    pub(crate) text: String,
    pub(crate) ids: Vec<u32>,
    pub(crate) decoded: String,
}

/// The GGUF metadata of SmolLM2.
#[derive(Deserialize)]
pub(crate) struct SmolGguf {
    pub(crate) model: String,
    pub(crate) pre: String,
    pub(crate) types: Vec<i32>,
    pub(crate) tokens: Vec<String>,
    pub(crate) merges: Vec<String>,
    pub(crate) unk: u32,
    pub(crate) chat_template: String,
}

impl SmolGguf {
    pub(crate) fn vocab(&self) -> GgufVocab<'_, String> {
        GgufVocab {
            pre: &self.pre,
            types: &self.types,
            merges: Some(&self.merges),
            unk: Some(self.unk),
            ..GgufVocab::new(&self.model, &self.tokens)
        }
    }
}

/// A tokenizer and everything derived from it.
pub(crate) struct Model {
    pub(crate) json: Vec<u8>,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) table: VocabTable,
    pub(crate) section: Vec<u8>,
    pub(crate) goldens: Vec<Golden>,
}

impl Model {
    fn new(json: Vec<u8>, rows: usize, goldens: &str) -> Self {
        let section = build_vocab(&json, rows).unwrap();
        Self {
            tokenizer: Tokenizer::from_json(&json).unwrap(),
            table: VocabTable::parse(&section).unwrap(),
            goldens: serde_json::from_str(goldens).unwrap(),
            section,
            json,
        }
    }
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
    out
}

pub(crate) static SMOL_GGUF: LazyLock<SmolGguf> = LazyLock::new(|| {
    serde_json::from_slice(&gunzip(include_bytes!("../data/smollm2-gguf.json.gz"))).unwrap()
});

pub(crate) static LLAMA2_JSON: LazyLock<Vec<u8>> =
    LazyLock::new(|| gunzip(include_bytes!("../data/llama2-spm.tokenizer.json.gz")));

pub(crate) static SMOL: LazyLock<Model> = LazyLock::new(|| {
    let json = tokenizer_json_from_gguf(&SMOL_GGUF.vocab()).unwrap();
    Model::new(json, 49152, include_str!("../data/tokenizer-smollm2.json"))
});

pub(crate) static LLAMA2: LazyLock<Model> = LazyLock::new(|| {
    Model::new(LLAMA2_JSON.clone(), 32000, include_str!("../data/tokenizer-llama2-spm.json"))
});

/// Small tokenizers that are not byte-pair encodings, with their names.
pub(crate) static OTHERS: LazyLock<[(&str, Model); 3]> = LazyLock::new(|| {
    let of = |json: &[u8], goldens| Model::new(json.to_vec(), 512, goldens);
    [
        (
            "unigram",
            of(
                include_bytes!("../data/unigram.tokenizer.json"),
                include_str!("../data/tokenizer-unigram.json"),
            ),
        ),
        (
            "unigram with bytes",
            of(
                include_bytes!("../data/unigram-bytes.tokenizer.json"),
                include_str!("../data/tokenizer-unigram-bytes.json"),
            ),
        ),
        (
            "wordpiece",
            of(
                include_bytes!("../data/wordpiece.tokenizer.json"),
                include_str!("../data/tokenizer-wordpiece.json"),
            ),
        ),
    ]
});
