//! Folders without a `tokenizer.json`.

mod common;

use std::path::Path;

use common::{Shape, packed, refused};
use nanoinfer_format::{NanoFile, SectionKind};
use nanoinfer_packer::{Input, Quant};
use nanoinfer_text::{Specials, Tokenizer};
use serde_json::json;
use tempfile::TempDir;

const SMALL: Shape =
    Shape { d: 20, ff: 30, heads: 2, kv: 1, head_dim: 6, vocab: 17, layers: 1, tied: false };
/// `<unk> <s> ▁a ▁ a <0x0A> !`, a BPE model.
const SENTENCE_PIECE: &[u8] = include_bytes!("../../../fuzz/corpus/sentencepiece/seed-spm");

fn folder(files: &[(&str, &[u8])]) -> (TempDir, Input) {
    let dir = tempfile::tempdir().unwrap();
    SMALL.write(dir.path(), &SMALL.weights());
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let input = Input::Folder(dir.path().into());
    (dir, input)
}

fn converted(dir: &Path) -> (NanoFile, Tokenizer) {
    let (nano, _) = packed(dir, &dir.join("m.nano"), Quant::Q8, 1);
    let tokenizer = Tokenizer::from_json(nano.section(SectionKind::Tokenizer).unwrap().1).unwrap();
    (nano, tokenizer)
}

#[test]
fn a_sentencepiece_model_is_read() {
    for name in ["tokenizer.model", "spiece.model"] {
        let (dir, _) = folder(&[(name, SENTENCE_PIECE)]);
        let (nano, tokenizer) = converted(dir.path());
        assert_eq!(tokenizer.encode("a!", Specials::Plain), [2, 6]);
        assert_eq!(tokenizer.prompt_prefix(), [1]);
        assert_eq!((nano.generation().bos, nano.generation().add_bos), (Some(1), true));
        let provenance = nano.section(SectionKind::Provenance).unwrap().1;
        assert!(String::from_utf8_lossy(provenance).contains(name));
    }
    let config = json!({"add_bos_token": false}).to_string();
    let (dir, _) = folder(&[
        ("tokenizer.model", SENTENCE_PIECE),
        ("tokenizer_config.json", config.as_bytes()),
    ]);
    let (nano, tokenizer) = converted(dir.path());
    assert_eq!((tokenizer.prompt_prefix(), nano.generation().add_bos), (&[][..], false));
}

#[test]
fn the_files_of_gpt2_are_read() {
    let vocab = json!({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3, "1": 4, "11": 6}).to_string();
    let files = [("vocab.json", vocab.as_bytes()), ("merges.txt", b"#version: 0.2\na b\n1 1\n")];
    for (class, digits) in [("GPT2Tokenizer", &[6][..]), ("Qwen2TokenizerFast", &[4, 4])] {
        let config = json!({"tokenizer_class": class}).to_string();
        let (dir, _) =
            folder(&[&files[..], &[("tokenizer_config.json", config.as_bytes())]].concat());
        let (_, tokenizer) = converted(dir.path());
        assert_eq!(tokenizer.encode("ab<|endoftext|>", Specials::Parse), [2, 3]);
        assert_eq!(tokenizer.encode("11", Specials::Parse), digits, "{class}");
    }
    let expected = "has vocab.json, which cannot be used without a tokenizer.json; add the model's";
    refused(&folder(&files).1, expected);
    let config = br#"{"tokenizer_class": "GPT2Tokenizer"}"#;
    for vocab in
        [r#"{"a": 0, "b": 0}"#, r#"{"a": 4000000000}"#, r#"{"a": 100000}"#, r#"{"a": "x"}"#]
    {
        let files = [
            ("vocab.json", vocab.as_bytes()),
            ("merges.txt", b""),
            ("tokenizer_config.json", config),
        ];
        refused(&folder(&files).1, "vocab.json: ");
    }
}

#[test]
fn a_unigram_model_is_used_where_its_ids_are_the_tokenizers() {
    let model = include_bytes!("../../text/tests/data/unigram.model");
    let with = |class: &str| {
        let config = json!({"tokenizer_class": class}).to_string();
        let (dir, input) =
            folder(&[("spiece.model", &model[..]), ("tokenizer_config.json", config.as_bytes())]);
        let shape = Shape { vocab: 242, ..SMALL };
        shape.write(dir.path(), &shape.weights());
        (dir, input)
    };
    let (dir, _) = with("T5Tokenizer");
    let (_, tokenizer) = converted(dir.path());
    let encode = |text| tokenizer.encode(text, Specials::Plain);
    assert_eq!(encode("  a \u{3000}b "), encode("a b"));
    assert!(tokenizer.prompt_prefix().is_empty());
    let expected = "is a Unigram model, whose ids XLMRobertaTokenizer may change";
    refused(&with("XLMRobertaTokenizer").1, expected);
}

#[test]
fn other_vocabularies_are_named() {
    for (name, bytes, expected) in [
        ("tokenizer.model", &b"IQ== 0\nIg== 1\n"[..], "tokenizer.model: is a tiktoken vocabulary"),
        ("tokenizer.model", b"\x0a\xff", "tokenizer.model: SentencePiece model: it is damaged"),
        ("spiece.model", b"\x0a\x03\x0a\x01a", "its settings are missing"),
        ("tekken.json", b"{}", "has tekken.json, which cannot be used without a tokenizer.json"),
        ("tokenizer.tiktoken", b"IQ== 0\n", "has tokenizer.tiktoken"),
        ("vocab.txt", b"[PAD]\n", "has vocab.txt"),
        ("vocab.json", b"{}", "has vocab.json"),
    ] {
        refused(&folder(&[(name, bytes)]).1, expected);
    }
    // The vocabularies do not matter if there is a tokenizer.json.
    let json = include_bytes!("../../../fuzz/corpus/tokenizer/seed-bytelevel");
    let end = json.iter().position(|&b| b == 0).unwrap_or(json.len());
    let (dir, _) = folder(&[("tokenizer.json", &json[..end]), ("tekken.json", b"{}")]);
    converted(dir.path());
}
