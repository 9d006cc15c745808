//! Untrusted files cause errors, never panics or excessive allocation.

mod common;

use common::{SMOL, SMOL_GGUF};
use nanoinfer_text::{
    Error, GgufVocab, Specials, TextStream, Tokenizer, Vocab, VocabTable, build_vocab,
    tokenizer_json_from_gguf,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A minimal complete tokenizer.
fn small() -> Value {
    json!({
        "version": "1.0",
        "added_tokens": [{"id": 5, "content": "<s>", "special": true, "normalized": false}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "unk_token": null, "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "abb": 4},
            "merges": ["a b", ["ab", "b"]]},
    })
}

fn with_value(pointer: &str, value: Value) -> Vec<u8> {
    let mut json = small();
    *json.pointer_mut(pointer).unwrap() = value;
    serde_json::to_vec(&json).unwrap()
}

#[test]
fn small_tokenizer_works() {
    let json = serde_json::to_vec(&small()).unwrap();
    let tokenizer = Tokenizer::from_json(&json).unwrap();
    assert_eq!(tokenizer.encode("abb<s> ab", Specials::Parse), [4, 5, 3, 2]);
    assert_eq!(tokenizer.max_id(), 5);
    assert_eq!(tokenizer.added_token("<s>"), Some(5));
    let section = build_vocab(&json, 8).unwrap();
    let vocab = Vocab::parse(&section).unwrap();
    assert_eq!((vocab.len(), vocab.bytes(4), vocab.bytes(3)), (8, &b"abb"[..], &b" "[..]));
    assert!(vocab.is_special(5) && vocab.is_absent(6) && !vocab.is_absent(5));
}

/// The worked example of VOCAB_FORMAT.md.
#[test]
fn documented_example() {
    let json = json!({
        "added_tokens": [{"id": 2, "content": "<s>", "special": true}],
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "vocab": {"a": 0, "▁b": 1, "<s>": 2}, "merges": []},
    });
    let section = build_vocab(&serde_json::to_vec(&json).unwrap(), 4).unwrap();
    let format = include_str!("../VOCAB_FORMAT.md");
    let dump = format.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    let byte = |word: &str| (word.len() == 2).then(|| u8::from_str_radix(word, 16).ok())?;
    let bytes = |line: &str| -> Vec<u8> {
        line.get(4..).unwrap().split_whitespace().map_while(byte).collect()
    };
    let documented: Vec<u8> = dump.lines().flat_map(bytes).collect();
    assert_eq!(section, documented);
}

#[test]
fn every_defect_is_reported() {
    let regex = |r: &str| {
        let pattern = json!({"Regex": r});
        with_value(
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": pattern, "behavior": "Isolated"}),
        )
    };
    let open = r#"{"type":"Sequence","pretokenizers":["#.repeat(200);
    let nested = open + &"]}".repeat(200);
    let marked = String::from_utf8(with_value("/pre_tokenizer", json!("@"))).unwrap();
    let nested = marked.replace("\"@\"", &nested).into_bytes();
    let unigram =
        |unk: Value| json!({"type": "Unigram", "vocab": [["a", 0.5], ["b", 1]], "unk_id": unk});
    let cases = [
        (b"".to_vec(), "EOF"),
        (b"[]".to_vec(), "invalid length"),
        (b"{}".to_vec(), "missing field `model`"),
        (nested, "recursion limit exceeded"),
        (with_value("/model/type", json!("WordLevel")), "WordLevel models are not supported"),
        (with_value("/model/type", json!("Unigram")), "invalid type"),
        (with_value("/model", unigram(json!(2))), "model.unk_id: is missing or not in"),
        (with_value("/model", unigram(Value::Null)), "model.unk_id: is missing or not in"),
        (with_value("/model/type", json!("WordPiece")), "\"[UNK]\" is not in the vocabulary"),
        (
            with_value("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "*"})),
            "is not base64",
        ),
        (with_value("/model/vocab", json!({"a": -1})), "invalid value"),
        (with_value("/model/vocab", json!([["a", 0.5]])), "invalid type"),
        (with_value("/model/vocab", json!({"a": 4_000_000_000u32})), "id 4000000000"),
        (with_value("/model/merges", json!(["a z"])), "\"z\", which is not in the vocabulary"),
        (
            with_value("/model/merges", json!([["b", "a"]])),
            "\"ba\", which is not in the vocabulary",
        ),
        (with_value("/model/merges", json!(["a b c"])), "invalid value"),
        (with_value("/model/merges", json!([["a"]])), "invalid length 1"),
        (with_value("/model/unk_token", json!("z")), "\"z\" is not in the vocabulary"),
        (with_value("/pre_tokenizer", json!({"type": "Magic"})), "unknown variant `Magic`"),
        (with_value("/normalizer", json!({"type": "Nmt"})), "unknown variant `Nmt`"),
        (regex("(?=a)b"), "pattern not supported: "),
        (regex("("), "pattern not supported: "),
        (regex(r"((\p{L}{1000}){1000}){1000}"), "pattern not supported: "),
    ];
    for (json, expected) in cases {
        let error = Tokenizer::from_json(&json).expect_err(expected).to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{error} / {expected}");
    }
    let decoders = [
        (with_value("/decoder", Value::Null), "decoder: is null"),
        (with_value("/decoder", json!({"type": "CTC"})), "unknown variant `CTC`"),
        (
            with_value("/decoder", json!({"type": "Strip", "content": "x", "start": 2, "stop": 0})),
            "Strip",
        ),
    ];
    for (json, expected) in decoders {
        let error = build_vocab(&json, 8).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} / {expected}");
    }
    let error = build_vocab(&serde_json::to_vec(&small()).unwrap(), 5).unwrap_err().to_string();
    assert!(error.contains("\"<s>\" has id 5, but the model has 5 rows"), "{error}");
}

#[test]
fn every_defect_of_a_vocabulary_table_is_found() {
    let section = build_vocab(&serde_json::to_vec(&small()).unwrap(), 8).unwrap();
    let offsets_end = 32 + 4 * 9;
    type Damage<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>));
    let defects: [Damage<'_>; 10] = [
        ("magic", &|s| s[0] = b'X'),
        ("version", &|s| s[4] = 2),
        ("count", &|s| s[8] = 9),
        ("huge count", &|s| s[8..12].fill(0xFF)),
        ("byte rule", &|s| s[12] = 2),
        ("space rule", &|s| s[13] = 3),
        ("reserved", &|s| s[31] = 1),
        ("descending offset", &|s| s[36] = 200),
        ("last offset", &|s| s[offsets_end - 4] -= 1),
        ("flag", &|s| s[offsets_end] = 8),
    ];
    for (name, damage) in defects {
        let mut damaged = section.clone();
        damage(&mut damaged);
        let error = VocabTable::parse(&damaged).expect_err(name);
        assert!(matches!(error, Error::Vocab { offset, .. } if offset <= damaged.len()), "{name}");
    }
    for len in 0..section.len() {
        assert!(VocabTable::parse(&section[..len]).is_err(), "cut at {len}");
    }
    // With other bytes, a table returns garbage but does not panic.
    let table = VocabTable::parse(&section).unwrap();
    for len in 0..section.len() {
        let vocab = table.view(&section[..len]);
        for id in 0..10 {
            let mut stream = TextStream::new(&table, true);
            assert!(stream.push(&vocab, id).len() <= 3 * len);
        }
    }
}

#[test]
fn gguf_defects_are_named() {
    let error =
        |gguf: GgufVocab<'_, String>| tokenizer_json_from_gguf(&gguf).unwrap_err().to_string();
    let smol = || SMOL_GGUF.vocab();
    assert!(error(GgufVocab { pre: "no-such", ..smol() }).contains("\"no-such\" is not supported"));
    assert!(error(GgufVocab { model: "rwkv", ..smol() }).contains("\"rwkv\" is not supported"));
    for (model, missing) in [("t5", "scores: is missing"), ("bert", "unknown_token_id: is missing")]
    {
        let vocab = GgufVocab { model, unk: None, ..smol() };
        assert!(error(vocab).contains(missing), "{model}");
    }
    assert!(error(GgufVocab { types: &[1], ..smol() }).contains("1 types for 49152 tokens"));
    assert!(error(GgufVocab { merges: None, ..smol() }).contains("merges: is missing"));
    assert!(error(GgufVocab { bos: Some(49152), ..smol() }).contains("id 49152"));
    let merges = ["ab".to_owned()];
    assert!(error(GgufVocab { merges: Some(&merges), ..smol() }).contains("\"ab\" is not a pair"));
    let llama = |tokens, scores| GgufVocab {
        model: "llama",
        tokens,
        scores: Some(scores),
        types: &[],
        merges: None,
        unk: None,
        ..smol()
    };
    let one = ["a".to_owned()];
    assert!(error(llama(&one, &[])).contains("0 scores for 1 tokens"));
    let t5 = |scores, unk| GgufVocab { model: "t5", unk, ..llama(&one, scores) };
    assert!(error(t5(&[], Some(0))).contains("0 scores for 1 tokens"));
    assert!(error(t5(&[f32::NAN], Some(0))).contains("token 0 has the score NaN"));
    assert!(error(t5(&[0.0], None)).contains("unknown_token_id: is missing"));
    let bert = GgufVocab { model: "bert", unk: Some(1), ..llama(&one, &[]) };
    assert!(error(bert).contains("id 1 is not among the 1 tokens"));
    let long = ["a".repeat(100_000)];
    assert!(error(llama(&long, &[0.0])).contains("has 100000 bytes"));
    let ladder: Vec<String> = (1..500).map(|n| "a".repeat(n)).collect();
    assert!(error(llama(&ladder, &[0.0; 499])).contains("more than 32 splits"));
    // Unusual but valid: NaN scores, equal strings, control tokens with empty strings.
    let odd: Vec<String> = ["a", "b", "ab", "ab", "", ""].map(str::to_owned).into();
    let json = tokenizer_json_from_gguf(&GgufVocab {
        types: &[1, 1, 1, 1, 3, 4],
        ..llama(&odd, &[f32::NAN, 0.0, f32::INFINITY, 1.0, 0.0, 0.0])
    });
    let tokenizer = Tokenizer::from_json(&json.unwrap()).unwrap();
    assert_eq!(tokenizer.encode("ab", Specials::Plain), [2]);
}

proptest! {
    /// A corrupted or truncated native form is either rejected in favour of the JSON or loads as a
    /// tokenizer that does not panic.
    #[test]
    fn damaged_native_forms_never_panic(
        at in 0..4000usize,
        from_end in any::<bool>(),
        byte in any::<u8>(),
        cut in prop::option::of(0..4000usize),
    ) {
        static NATIVE: std::sync::LazyLock<Vec<u8>> =
            std::sync::LazyLock::new(|| SMOL.tokenizer.to_native(&[0; 32]));
        let mut native = NATIVE.clone();
        let at = if from_end { native.len() - 1 - at } else { at };
        native[at] = byte;
        native.truncate(native.len() - cut.unwrap_or(0));
        if let Ok(tokenizer) = Tokenizer::load(b"", &[0; 32], Some(&native)) {
            tokenizer.encode("some text\n 123 <|im_end|> ü😀", Specials::Parse);
        }
    }

    /// Replaces one member of the JSON.
    #[test]
    fn changed_json_never_panics(
        path in prop::sample::select(vec![
            "/added_tokens", "/added_tokens/0/id", "/added_tokens/0/content", "/normalizer",
            "/pre_tokenizer", "/pre_tokenizer/type", "/decoder", "/decoder/type", "/model",
            "/model/vocab", "/model/merges", "/model/merges/0", "/post_processor",
        ]),
        value in prop::sample::select(vec![
            json!(null), json!(0), json!(-1), json!(4294967295u32), json!(""), json!("\u{0}"),
            json!([]), json!({}), json!([[]]), json!({"": 0}), json!("ByteLevel"), json!(["", ""]),
            json!({"type": "Sequence", "normalizers": [], "pretokenizers": [], "decoders": []}),
            json!({"type": "Metaspace", "replacement": "a"}), json!({"type": "Fuse"}),
            json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "a"}),
            json!({"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated"}),
            json!({"type": "Split", "pattern": {"String": ""}, "behavior": "Removed"}),
            json!({"type": "TemplateProcessing", "single": [], "special_tokens": {}}),
        ]),
        text in any::<String>(),
    ) {
        let json = with_value(path, value);
        if let Ok(tokenizer) = Tokenizer::from_json(&json) {
            let ids = tokenizer.encode(&text, Specials::Parse);
            prop_assert!(ids.iter().all(|id| *id <= tokenizer.max_id()));
        }
        if let Ok(section) = build_vocab(&json, 8) {
            prop_assert!(VocabTable::parse(&section).is_ok());
        }
    }
}
