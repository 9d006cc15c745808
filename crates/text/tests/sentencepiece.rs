//! SentencePiece's `tokenizer.model`.

mod common;

use common::{Golden, LLAMA2, LLAMA2_JSON};
use nanoinfer_text::{
    Error, Specials, Tokenizer, build_vocab, sentencepiece_is_unigram,
    tokenizer_json_from_sentencepiece,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 127 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field with a number.
fn number(out: &mut Vec<u8>, field: u64, value: i64) {
    varint(out, field << 3);
    varint(out, value as u64);
}

/// A field with bytes or a message.
fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend(value);
}

/// A `ModelProto` and the settings that the tests change.
struct Proto {
    pieces: Vec<(String, f32, i64)>,
    model_type: Option<i64>,
    collapse: bool,
    charsmap: &'static [u8],
    bos: i64,
}

impl Proto {
    fn new(pieces: Vec<(String, f32, i64)>) -> Self {
        Self { pieces, model_type: Some(2), collapse: false, charsmap: b"", bos: 1 }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (text, score, kind) in &self.pieces {
            let mut piece = Vec::new();
            bytes(&mut piece, 1, text.as_bytes());
            varint(&mut piece, 2 << 3 | 5);
            piece.extend(score.to_le_bytes());
            if *kind != 1 {
                number(&mut piece, 3, *kind);
            }
            bytes(&mut out, 1, &piece);
        }
        let mut trainer = Vec::new();
        bytes(&mut trainer, 1, b"corpus.txt");
        if let Some(kind) = self.model_type {
            number(&mut trainer, 3, kind);
        }
        varint(&mut trainer, 15 << 3 | 5);
        trainer.extend(0.75f32.to_le_bytes());
        number(&mut trainer, 40, 0);
        number(&mut trainer, 41, self.bos);
        bytes(&mut out, 2, &trainer);
        let mut normalizer = Vec::new();
        bytes(&mut normalizer, 1, b"identity");
        bytes(&mut normalizer, 2, self.charsmap);
        number(&mut normalizer, 3, 1);
        number(&mut normalizer, 4, self.collapse.into());
        bytes(&mut out, 3, &normalizer);
        out
    }
}

/// A vocabulary of four pieces.
fn small() -> Proto {
    let pieces =
        [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("▁a", -1.0, 1), ("▁", -2.0, 1), ("a", -3.0, 1)];
    Proto::new(pieces.map(|(text, score, kind)| (text.to_owned(), score, kind)).into())
}

#[test]
fn llama2_as_a_sentencepiece_model_is_the_same_tokenizer() {
    let json: Value = serde_json::from_slice(&LLAMA2_JSON).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut pieces = vec![(String::new(), -1e9, 1); vocab.len()];
    for (text, id) in vocab {
        let id = id.as_u64().unwrap() as usize;
        pieces[id].0.clone_from(text);
        pieces[id].2 = match id {
            0 => 2,
            1 | 2 => 3,
            3..=258 => 6,
            _ => 1,
        };
    }
    // A piece's score is the negated rank of the first merge that produces it.
    for (rank, merge) in json["model"]["merges"].as_array().unwrap().iter().enumerate().rev() {
        let text = format!("{}{}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap());
        pieces[vocab[&text].as_u64().unwrap() as usize].1 = -(rank as f32);
    }
    let n = pieces.len();
    let made = tokenizer_json_from_sentencepiece(&Proto::new(pieces).bytes(), true).unwrap();
    let tokenizer = Tokenizer::from_json(&made).unwrap();
    // Like transformers without a statement to the contrary: the older rule for blanks.
    let goldens = include_str!("data/tokenizer-llama2-gguf.json");
    let goldens: Vec<Golden> = serde_json::from_str(goldens).unwrap();
    assert_eq!(goldens.len(), 47);
    for golden in &goldens {
        let ids = tokenizer.encode(&golden.text, Specials::Parse);
        assert_eq!(ids, golden.ids, "{:?}", golden.text);
    }
    assert_eq!(build_vocab(&made, n).unwrap(), LLAMA2.section);
    assert_eq!(tokenizer.prompt_prefix(), [1]);
}

#[test]
fn the_bos_token_is_optional() {
    let prefix = |proto: Proto, add_bos| {
        let json = tokenizer_json_from_sentencepiece(&proto.bytes(), add_bos).unwrap();
        Tokenizer::from_json(&json).unwrap().prompt_prefix().to_vec()
    };
    assert_eq!(prefix(small(), true), [1]);
    assert_eq!(prefix(small(), false), [0u32; 0]);
    assert_eq!(prefix(Proto { bos: -1, ..small() }, true), [0u32; 0]);
    assert_eq!(prefix(Proto { bos: 99, ..small() }, true), [0u32; 0]);
}

/// Models and ids of `tools/make_tokenizers.py`: the ids are those of the package sentencepiece.
#[test]
fn unigram_models_encode_like_sentencepiece() {
    let (words, bytes): (&[u8], &[u8]) =
        (include_bytes!("data/unigram.model"), include_bytes!("data/unigram-bytes.model"));
    for (model, goldens) in [
        (words, include_str!("data/tokenizer-unigram-model.json")),
        (bytes, include_str!("data/tokenizer-unigram-bytes-model.json")),
    ] {
        assert!(sentencepiece_is_unigram(model));
        let json = tokenizer_json_from_sentencepiece(model, false).unwrap();
        let tokenizer = Tokenizer::from_json(&json).unwrap();
        let goldens: Vec<Value> = serde_json::from_str(goldens).unwrap();
        assert!(goldens.len() > 30);
        for golden in &goldens {
            let text = golden["text"].as_str().unwrap();
            assert_eq!(json!(tokenizer.encode(text, Specials::Plain)), golden["ids"], "{text:?}");
        }
    }
    assert!(!sentencepiece_is_unigram(&small().bytes()));
    assert!(sentencepiece_is_unigram(&Proto { model_type: None, ..small() }.bytes()));
}

#[test]
fn other_models_are_refused() {
    for (proto, expected) in [
        (
            Proto { model_type: Some(1), ..small() },
            "a blank before a text whose own blanks are kept",
        ),
        (Proto { model_type: Some(4), ..small() }, "a model of words or characters"),
        (Proto { collapse: true, ..small() }, "the removal of extra blanks"),
        (Proto { charsmap: b"x", ..small() }, "a normalization of characters"),
        (Proto { pieces: Vec::new(), ..small() }, "it has no pieces"),
    ] {
        let error = tokenizer_json_from_sentencepiece(&proto.bytes(), true).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::SentencePiece(_)), "{message}");
        assert!(message.contains(expected) && message.contains("tokenizer.json"), "{message}");
    }
}

#[test]
fn damaged_models_are_refused() {
    let valid = small().bytes();
    for len in 0..valid.len() {
        // A message cut between two fields is a valid one with fewer fields, and its defaults differ.
        let error = tokenizer_json_from_sentencepiece(&valid[..len], true).expect_err("truncated");
        assert!(matches!(error, Error::SentencePiece(_)), "{error}");
    }
    for (bytes, expected) in [
        (&b"\x0b"[..], "wire type 3"),
        (
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            "expected 18446744073709551615 more bytes",
        ),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "more than 10 bytes"),
        (b"\x0a\x03\x0a\x01\xff", "piece 0 is not UTF-8"),
        (b"\x15\x00", "expected 4 more bytes, found 1"),
        (b"<!doctype", "wire type 4"),
    ] {
        let message = tokenizer_json_from_sentencepiece(bytes, true).unwrap_err().to_string();
        assert!(message.contains(expected), "{message} does not contain {expected}");
    }
}

proptest! {
    #[test]
    fn changed_models_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = small().bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(json) = tokenizer_json_from_sentencepiece(&bytes, true) {
            let _ = Tokenizer::from_json(&json).map(|t| t.encode("a <s> b", Specials::Parse));
        }
    }
}
