//! Tiny random models with small vocabularies, also used by a fuzz target.
#![allow(dead_code)] // each user needs only part of it

use std::path::Path;
use std::sync::Arc;

use nanoinfer_engine::Model;
use nanoinfer_format::{Generation, NanoFile, Quant, SectionKind, Writer};
use nanoinfer_packer::{Input, Options, convert};
use nanoinfer_text::build_vocab;
use serde_json::{Map, Value, json};

/// Size of the vocabularies.
pub(crate) const VOCAB: u32 = 320;
/// Ends an answer.
pub(crate) const END: u32 = VOCAB - 1;

/// Pieces of JSON and of other texts, some of them of several tokens, and parts of characters.
const PIECES: [&[u8]; 40] = [
    b"{\"",
    b"\":",
    b"\": ",
    b" \"",
    b", \"",
    b"\", \"",
    b"\"}",
    b"\"}]",
    b"[1",
    b"], ",
    b"true",
    b"false",
    b"null",
    b"name",
    b"na",
    b"me\"",
    b"age",
    b"12",
    b"00",
    b"-1",
    b".5",
    b"e+",
    b"ab",
    b"abc",
    b"bc",
    b"a b",
    b"  ",
    b"\n\n",
    b" c",
    b"\\n",
    b"\\u00",
    b"\\\"",
    b"\xc3\xa9",
    b"\xe2\x82",
    b"\x82\xac",
    b"\xac\"",
    b"yes",
    b"no\n",
    b"aaaa",
    b"}}",
];

/// A model whose vocabulary is bytes and pieces, in GPT-2's spelling.
pub(crate) fn byte_level() -> Arc<Model> {
    let spelled = |bytes: &[u8]| bytes.iter().map(|b| alphabet(*b)).collect::<String>();
    let bytes = (0..=255u8).map(|b| spelled(&[b]));
    let mut tokens: Vec<String> = bytes.chain(PIECES.iter().map(|p| spelled(p))).collect();
    let end = json!([{"id": END, "content": "<|end|>", "special": true}]);
    fill(&mut tokens);
    let json = json!({
        "added_tokens": end,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": numbered(&tokens), "merges": []},
    });
    model(&json)
}

/// A model whose vocabulary is byte tokens and pieces, in SentencePiece's spelling: an answer's first token
/// loses a leading space.
pub(crate) fn sentence_piece() -> Arc<Model> {
    let mut tokens: Vec<String> = (0..=255u8).map(|b| format!("<0x{b:02X}>")).collect();
    for piece in PIECES {
        let Ok(text) = str::from_utf8(piece) else { continue };
        tokens.push(text.replace(' ', "\u{2581}"));
    }
    for piece in
        ["\u{2581}", "\u{2581}{\"", "\u{2581}{", "{", "\u{2581}yes", "\u{2581}abc", "\u{2581}xyz"]
    {
        tokens.push(piece.to_owned());
    }
    fill(&mut tokens);
    let json = json!({
        "added_tokens": [{"id": END, "content": "</s>", "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
        ]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "vocab": numbered(&tokens), "merges": [], "byte_fallback": true},
    });
    model(&json)
}

/// Adds tokens that no text contains, up to the one that ends an answer.
fn fill(tokens: &mut Vec<String>) {
    (tokens.len()..END as usize).for_each(|i| tokens.push(format!("unused{i}")));
}

fn numbered(tokens: &[String]) -> Value {
    Value::Object(
        tokens.iter().zip(0..).map(|(t, id)| (t.clone(), json!(id))).collect::<Map<_, _>>(),
    )
}

/// The character that stands for a byte in GPT-2's vocabularies.
fn alphabet(byte: u8) -> char {
    let is_itself = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let shifted = (0..byte).filter(|b| !is_itself(*b)).count() as u32;
    char::from_u32(if is_itself(byte) { byte.into() } else { 256 + shifted }).unwrap()
}

/// A tiny random model with this tokenizer.
fn model(json: &Value) -> Arc<Model> {
    let json = serde_json::to_vec(json).unwrap();
    let vocabulary = build_vocab(&json, VOCAB as usize).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (plain, file) = (folder.path().join("plain.nano"), folder.path().join("m.nano"));
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|f| f.join("tests/data/tiny/llama-gqa"));
    let data = folders.find(|folder| folder.exists()).unwrap();
    convert(&Input::Folder(data), &plain, Options::new(Quant::Q8)).unwrap();
    let from = NanoFile::open(&plain).unwrap();
    let mut writer = Writer::create(&file).unwrap();
    for tensor in from.tensors() {
        writer.begin(tensor.spec.clone()).unwrap();
        writer.write(from.bytes(tensor)).unwrap();
        writer.end().unwrap();
    }
    writer.section(SectionKind::Tokenizer, json).unwrap();
    writer.section(SectionKind::Vocabulary, vocabulary).unwrap();
    let generation = Generation { eos: vec![END], ..Generation::default() };
    writer.finish(from.config(), &generation).unwrap().commit().unwrap();
    Arc::new(Model::open(file).unwrap())
}
