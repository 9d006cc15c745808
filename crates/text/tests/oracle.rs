//! Compares ids of random text with those of Hugging Face `tokenizers`, for every kind of pre-tokenizer.

mod common;

use std::sync::LazyLock;

use base64::Engine;
use common::{LLAMA2, LLAMA2_JSON, OTHERS, SMOL, SMOL_GGUF};
use nanoinfer_text::{
    GgufVocab, Specials, Tokenizer, Vocab, pre_tokenizer_names, tokenizer_json_from_gguf,
};
use proptest::prelude::*;
use regex_automata::meta::Regex;
use serde_json::{Value, json};

/// Our tokenizer and theirs, from the same JSON.
struct Pair {
    name: String,
    ours: Tokenizer,
    theirs: tokenizers::Tokenizer,
    theirs_plain: tokenizers::Tokenizer,
    /// Whether theirs depends on tables of Unicode 8 or 9.
    old_tables: bool,
}

/// Characters added after Unicode 8.
static NEWER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\P{Age=8.0}").unwrap());

impl Pair {
    fn new(name: &str, json: &[u8]) -> Self {
        let theirs = tokenizers::Tokenizer::from_bytes(json).unwrap();
        let mut theirs_plain = theirs.clone();
        theirs_plain.set_encode_special_tokens(true);
        let ours = Tokenizer::from_json(json).unwrap();
        let old_tables = ["NFKC", "NFKD", "NFD", "Punctuation", "BertNormalizer"]
            .iter()
            .any(|n| has_type(json, n));
        Self { name: name.to_owned(), ours, theirs, theirs_plain, old_tables }
    }

    fn check(&self, text: &str) {
        // Their tables lack newer characters.
        let is_old = |c: &char| !self.old_tables || !NEWER.is_match(&*c.encode_utf8(&mut [0; 4]));
        let text = &text.chars().filter(is_old).collect::<String>();
        let sides = [(&self.theirs, Specials::Parse), (&self.theirs_plain, Specials::Plain)];
        for (theirs, specials) in sides {
            let expected = theirs.encode_fast(text.as_str(), false).unwrap();
            let ids = self.ours.encode(text, specials);
            assert_eq!(ids, expected.get_ids(), "{}: {specials:?} {text:?}", self.name);
        }
    }
}

/// Whether the JSON contains this type.
fn has_type(json: &[u8], name: &str) -> bool {
    String::from_utf8_lossy(json).contains(&format!(r#""type":"{name}""#))
}

/// Text made of pieces that exercise pre-tokenizers and added tokens.
fn text() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        " ",
        "  ",
        "   ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "\u{a0}",
        "\u{3000}",
        "\u{2028}",
        "\u{85}",
        "a",
        "The",
        " the",
        "hello",
        " world",
        "Naïve",
        "e\u{301}",
        "straße",
        "ǅ",
        "ʰ",
        "İ",
        "ſ",
        "don't",
        "WE'LL",
        "'re",
        "'",
        "it’s",
        "12",
        "3456789",
        "½",
        "Ⅳ",
        "²",
        "٣",
        "a1b2",
        "привет",
        "你好",
        "世界。",
        "ひらがな",
        "カタカナ",
        "한국어",
        "हिन्दी",
        "ไทย",
        "שלום",
        "🙂",
        "👨\u{200d}👩\u{200d}👧",
        "🏳️",
        "\u{200b}",
        "\u{feff}",
        "\0",
        "\u{7f}",
        "▁",
        "▁▁",
        "Ġ",
        "!",
        "?!",
        "...",
        "--",
        "$",
        "+=",
        "<",
        ">",
        "|",
        "<s>",
        "</s>",
        "<unk>",
        "<0x41>",
        "[x]",
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|im_",
        "end|>",
        "_a",
        "snake_case",
        "//",
    ]);
    let part = prop_oneof![
        8 => words.prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        1 => "[a-zA-Z0-9 .,'\n]{0,12}",
    ];
    prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

fn run(cases: u32, pairs: &[Pair], check_more: impl Fn(&Pair, &str)) {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let checked = runner.run(&text(), |text| {
        for pair in pairs {
            pair.check(&text);
            check_more(pair, &text);
        }
        Ok(())
    });
    checked.unwrap();
}

#[test]
fn smollm2_and_llama2() {
    run(3000, &[Pair::new("smollm2", &SMOL.json), Pair::new("llama2", &LLAMA2.json)], |_, _| {});
}

#[test]
fn unigram_and_wordpiece() {
    let pairs: Vec<Pair> =
        OTHERS.iter().map(|(name, model)| Pair::new(name, &model.json)).collect();
    // Cased, without bytes for unknown characters, and with longer words.
    let change = |at: usize, edit: &dyn Fn(&mut Value)| {
        let mut json: Value = serde_json::from_slice(&OTHERS[at].1.json).unwrap();
        edit(&mut json);
        serde_json::to_vec(&json).unwrap()
    };
    let cased = change(2, &|j| {
        j["normalizer"] = json!({"type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": false, "strip_accents": null, "lowercase": false});
        j["model"]["max_input_chars_per_word"] = json!(100);
    });
    let stripped = change(0, &|j| {
        j["normalizer"] = json!({"type": "Sequence", "normalizers": [
            {"type": "NFKD"}, {"type": "StripAccents"},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        ]});
        j["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "▁",
            "prepend_scheme": "first", "split": false});
    });
    let more = [("cased", &cased), ("stripped", &stripped)];
    let pairs: Vec<Pair> =
        pairs.into_iter().chain(more.map(|(name, json)| Pair::new(name, json))).collect();
    run(2000, &pairs, |_, _| {});
    for text in ["ab".repeat(20_000), "é🙂 ".repeat(3_000), "x".repeat(101), "x".repeat(21)] {
        pairs.iter().for_each(|pair| pair.check(&text));
    }
}

/// A tokenizer as llama.cpp's converter writes it: texts of tokens, their types and scores.
struct Lists {
    tokens: Vec<String>,
    types: Vec<i32>,
    scores: Vec<f32>,
}

/// The lists of a Unigram or WordPiece model.
fn lists(json: &Value) -> Lists {
    let special = |text: &str| {
        let added = json["added_tokens"].as_array().unwrap();
        added.iter().any(|token| token["content"] == text)
    };
    let kind = |text: &str| match text {
        "<unk>" => 2,
        _ if special(text) => 3,
        _ if text.starts_with("<0x") && text.len() == 6 => 6,
        _ => 1,
    };
    let vocab = &json["model"]["vocab"];
    if let Some(scored) = vocab.as_array() {
        let texts = scored.iter().map(|entry| entry[0].as_str().unwrap());
        let scores = scored.iter().map(|entry| entry[1].as_f64().unwrap() as f32);
        let types = texts.clone().map(kind).collect();
        return Lists {
            tokens: texts.map(str::to_owned).collect(),
            types,
            scores: scores.collect(),
        };
    }
    let vocab = vocab.as_object().unwrap();
    let mut texts = vec![""; vocab.len()];
    vocab.iter().for_each(|(text, id)| texts[id.as_u64().unwrap() as usize] = text);
    let phantom = |text: &&str| match text.strip_prefix("##") {
        _ if special(text) => (*text).to_owned(),
        Some(rest) => rest.to_owned(),
        None => format!("▁{text}"),
    };
    let types = texts.iter().map(|text| kind(text)).collect();
    Lists { tokens: texts.iter().map(phantom).collect(), types, scores: Vec::new() }
}

/// Ours from the lists and settings of a GGUF file, theirs from the JSON from which these lists were taken.
fn from_lists(name: &str, json: &Value, settings: GgufVocab<'_, String>) -> Pair {
    let lists = lists(json);
    let unk = lists.tokens.iter().position(|text| text == "<unk>" || text == "[UNK]");
    let made = tokenizer_json_from_gguf(&GgufVocab {
        tokens: &lists.tokens,
        types: &lists.types,
        scores: Some(&lists.scores),
        unk: unk.map(|id| id as u32),
        ..settings
    });
    let made = made.unwrap();
    let theirs = Pair::new(name, &serde_json::to_vec(json).unwrap());
    // The file that was made is one that they read, too.
    tokenizers::Tokenizer::from_bytes(&made).unwrap();
    Pair { ours: Tokenizer::from_json(&made).unwrap(), ..theirs }
}

#[test]
fn unigram_and_wordpiece_from_gguf() {
    let json = |at: usize| serde_json::from_slice::<Value>(&OTHERS[at].1.json).unwrap();
    // Scores have the precision of GGUF.
    let single = |mut json: Value| {
        for entry in json["model"]["vocab"].as_array_mut().unwrap() {
            entry[1] = json!(f64::from(entry[1].as_f64().unwrap() as f32));
        }
        json
    };
    let rules = json(0)["normalizer"]["precompiled_charsmap"].as_str().unwrap().to_owned();
    let rules = base64::engine::general_purpose::STANDARD.decode(rules).unwrap();
    // The chain of transformers' converter, for models without a blank before the text.
    let mut unprefixed = single(json(0));
    unprefixed["normalizer"] = json!({"type": "Sequence", "normalizers": [
        unprefixed["normalizer"],
        {"type": "Strip", "strip_left": true, "strip_right": true},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    ]});
    unprefixed["pre_tokenizer"] =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": true});
    let mut cased = json(2);
    cased["model"]["max_input_chars_per_word"] = json!(100);
    let uncased = cased.clone();
    cased["normalizer"]["lowercase"] = json!(false);
    let mut accents = cased.clone();
    accents["normalizer"]["strip_accents"] = json!(true);
    let (t5, bert) = (|| GgufVocab::new("t5", &[]), || GgufVocab::new("bert", &[]));
    let words = || GgufVocab { charsmap: Some(&rules), remove_extra_whitespaces: true, ..t5() };
    let prefixed = |vocab| GgufVocab { add_space_prefix: true, ..vocab };
    let mixed = || GgufVocab { lowercase: false, ..bert() };
    let stripped = GgufVocab { strip_accents: Some(true), ..mixed() };
    let pairs = [
        from_lists("unigram", &single(json(0)), prefixed(words())),
        from_lists("unigram, no prefix", &unprefixed, words()),
        from_lists("unigram with bytes", &single(json(1)), prefixed(t5())),
        from_lists("wordpiece", &uncased, bert()),
        from_lists("wordpiece, cased", &cased, mixed()),
        from_lists("wordpiece, cased, without accents", &accents, stripped),
    ];
    for golden in &OTHERS[0].1.goldens {
        pairs.iter().for_each(|pair| pair.check(&golden.text));
    }
    run(2000, &pairs, |_, _| {});
}

#[test]
fn every_named_pre_tokenizer() {
    let pairs: Vec<Pair> = pre_tokenizer_names()
        .map(|names| {
            let pre = names[0];
            let json = tokenizer_json_from_gguf(&GgufVocab { pre, ..SMOL_GGUF.vocab() }).unwrap();
            Pair::new(pre, &json)
        })
        .collect();
    run(400, &pairs, |_, _| {});
}

/// Format variants of published models.
#[test]
fn every_json_variant() {
    let change = |json: &[u8], edit: &dyn Fn(&mut Value)| {
        let mut json: Value = serde_json::from_slice(json).unwrap();
        edit(&mut json);
        serde_json::to_vec(&json).unwrap()
    };
    let legacy = change(&LLAMA2_JSON, &|j| {
        j["pre_tokenizer"] = Value::Null;
        j["normalizer"] = json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]});
    });
    let words = change(&LLAMA2_JSON, &|j| {
        j["pre_tokenizer"] =
            json!({"type": "Metaspace", "replacement": "▁", "add_prefix_space": true});
        j["model"]["byte_fallback"] = json!(false);
        j["model"]["unk_token"] = json!("<unk>");
    });
    let gemma = change(&LLAMA2_JSON, &|j| {
        j["normalizer"] = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let split = json!({"type": "Split", "pattern": {"String": " "},
            "behavior": "MergedWithPrevious", "invert": false});
        j["pre_tokenizer"] = split;
    });
    let edges = change(&SMOL.json, &|j| {
        let tokens = j["added_tokens"].as_array_mut().unwrap();
        tokens[0]["rstrip"] = json!(true);
        tokens[1]["lstrip"] = json!(true);
        tokens[2]["normalized"] = json!(true);
        let word = json!({"id": 28120, "content": "hello", "single_word": true, "lstrip": false,
            "rstrip": false, "normalized": false, "special": false});
        tokens.push(word);
        j["normalizer"] = json!({"type": "NFKC"});
        j["model"]["ignore_merges"] = json!(true);
    });
    let falcon = change(&SMOL.json, &|j| {
        j["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Punctuation", "behavior": "Contiguous"},
            {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            {"type": "Digits", "individual_digits": false},
            {"type": "Split", "pattern": {"Regex": "[0-9][0-9][0-9]"}, "behavior": "Isolated",
                "invert": false},
        ]});
        // Leaves tokens that merging cannot produce.
        let merges = j["model"]["merges"].as_array_mut().unwrap();
        merges.truncate(20_000);
        j["model"]["ignore_merges"] = json!(true);
    });
    let cut = change(&SMOL.json, &|j| {
        j["normalizer"] = json!({"type": "Sequence", "normalizers": [
            {"type": "Lowercase"}, {"type": "NFD"},
            {"type": "Replace", "pattern": {"Regex": "[0-9]+"}, "content": "#"},
            {"type": "Strip", "strip_left": true, "strip_right": true},
        ]});
        j["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
            {"type": "WhitespaceSplit"},
            {"type": "Split", "pattern": {"Regex": "\\p{P}"}, "behavior": "MergedWithNext",
                "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": false},
        ]});
    });
    let names = ["legacy", "words", "gemma", "edges", "falcon", "cut"];
    let jsons = [legacy, words, gemma, edges, falcon, cut];
    let pairs: Vec<Pair> = names.iter().zip(&jsons).map(|(n, j)| Pair::new(n, j)).collect();
    // Word boundaries of added tokens, next to characters that resemble word characters.
    for text in ["\n\nhello½", "²hello", "hello٣", "e\u{301}hello", "hello\u{200d}", "hello‿"]
    {
        pairs.iter().for_each(|pair| pair.check(text));
    }
    run(700, &pairs, |_, _| {});
}

#[test]
fn plain_text_yields_no_control_tokens_and_round_trips() {
    let pairs = [Pair::new("smollm2", &SMOL.json), Pair::new("llama2", &LLAMA2.json)];
    run(500, &pairs, |pair, text| {
        let model = if pair.name == "smollm2" { &*SMOL } else { &*LLAMA2 };
        let vocab: Vocab<'_> = model.table.view(&model.section);
        let ids = pair.ours.encode(text, Specials::Plain);
        assert!(ids.iter().all(|id| !vocab.is_special(*id)), "{text:?}");
        if pair.name == "smollm2" {
            let bytes: Vec<u8> = ids.iter().flat_map(|id| vocab.bytes(*id)).copied().collect();
            // This vocabulary lacks six control characters and some rare lead bytes.
            let known = |b: &u8| (0..vocab.len() as u32).any(|id| vocab.bytes(id) == [*b]);
            let kept: Vec<u8> = text.bytes().filter(known).collect();
            assert_eq!(bytes, kept);
        }
    });
}

#[test]
fn long_unusual_text_has_the_same_ids() {
    let pairs = [Pair::new("smollm2", &SMOL.json), Pair::new("llama2", &LLAMA2.json)];
    for text in
        [" ".repeat(100_000), "ab".repeat(50_000), "\n \t".repeat(20_000), "é🙂 ".repeat(9_000)]
    {
        pairs.iter().for_each(|pair| pair.check(&text));
    }
}
