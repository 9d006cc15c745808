//! Compares the ids and text of every string with those of Hugging Face.

mod common;

use std::collections::BTreeSet;

use common::{Golden, LLAMA2, LLAMA2_JSON, Model, OTHERS, SMOL, SMOL_GGUF};
use nanoinfer_text::{
    ChatTemplate, GgufVocab, Message, Specials, TextStream, Tokenizer, build_vocab, encode_chat,
    tokenizer_json_from_gguf,
};
use serde_json::Value;

fn decode(model: &Model, ids: &[u32]) -> String {
    let vocab = model.table.view(&model.section);
    let mut stream = TextStream::new(&model.table, false);
    let mut text = String::new();
    ids.iter().for_each(|id| text.push_str(stream.push(&vocab, *id)));
    text + stream.finish()
}

fn check(model: &Model, tokenizer: &Tokenizer) {
    assert_eq!(model.goldens.len(), 40);
    check_all(&model.goldens, model, tokenizer);
}

fn check_all(goldens: &[Golden], model: &Model, tokenizer: &Tokenizer) {
    for golden in goldens {
        assert_eq!(
            tokenizer.encode(&golden.text, Specials::Parse),
            golden.ids,
            "{:?}",
            golden.text
        );
        assert_eq!(decode(model, &golden.ids), golden.decoded, "{:?}", golden.text);
    }
}

#[test]
fn smollm2_from_gguf() {
    check(&SMOL, &SMOL.tokenizer);
}

#[test]
fn llama2_from_json() {
    check(&LLAMA2, &LLAMA2.tokenizer);
    assert_eq!(LLAMA2.tokenizer.prompt_prefix(), [1]);
}

#[test]
fn unigram_and_wordpiece_from_json() {
    for (name, model) in &*OTHERS {
        check(model, &model.tokenizer);
        let [first, last] = if *name == "wordpiece" { ["[CLS]", "[SEP]"] } else { ["<s>", "</s>"] };
        let id = |text| model.tokenizer.added_token(text).unwrap();
        assert_eq!(model.tokenizer.prompt_prefix(), [id(first)], "{name}");
        assert_eq!(model.tokenizer.suffix(), [id(last)], "{name}");
        // They are built from the JSON.
        let native = model.tokenizer.to_native(&[7; 32]);
        check(model, &Tokenizer::load(&model.json, &[7; 32], Some(&native)).unwrap());
    }
}

#[test]
fn native_form_is_the_same_tokenizer() {
    for model in [&*SMOL, &*LLAMA2] {
        let hash = [7; 32];
        let native = model.tokenizer.to_native(&hash);
        // The JSON is empty, so the native form must have been used.
        check(model, &Tokenizer::load(b"", &hash, Some(&native)).unwrap());
        assert!(
            Tokenizer::load(b"", &[8; 32], Some(&native)).is_err(),
            "the native form belongs to another JSON"
        );
        check(model, &Tokenizer::load(&model.json, &[8; 32], Some(&native)).unwrap());
    }
}

#[test]
fn llama2_from_gguf_scores() {
    let json: Value = serde_json::from_slice(&LLAMA2_JSON).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut tokens = vec![String::new(); vocab.len()];
    for (text, id) in vocab {
        tokens[id.as_u64().unwrap() as usize] = text.clone();
    }
    // A token's score is the negated rank of the first merge that produces it.
    let mut scores = vec![-1e9f32; tokens.len()];
    for (rank, merge) in json["model"]["merges"].as_array().unwrap().iter().enumerate().rev() {
        let text = format!("{}{}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap());
        scores[vocab[&text].as_u64().unwrap() as usize] = -(rank as f32);
    }
    let types: Vec<i32> = (0..tokens.len())
        .map(|id| match id {
            0 => 2,
            1 | 2 => 3,
            3..=258 => 6,
            _ => 1,
        })
        .collect();
    let made = tokenizer_json_from_gguf(&GgufVocab {
        scores: Some(&scores),
        types: &types,
        bos: Some(1),
        unk: Some(0),
        ..GgufVocab::new("llama", &tokens)
    })
    .unwrap();
    let tokenizer = Tokenizer::from_json(&made).unwrap();
    // A GGUF file means the older rule for blanks.
    let goldens = include_str!("data/tokenizer-llama2-gguf.json");
    let goldens: Vec<Golden> = serde_json::from_str(goldens).unwrap();
    assert_eq!(goldens.len(), 47);
    check_all(&goldens, &LLAMA2, &tokenizer);
    assert_eq!(build_vocab(&made, tokens.len()).unwrap(), LLAMA2.section);
    assert_eq!(tokenizer.prompt_prefix(), [1]);
    // The merges equal those of Hugging Face's converter, except for the order among runs of spaces:
    // their real scores are equal, which scores derived from ranks cannot express.
    let made: Value = serde_json::from_slice(&made).unwrap();
    let set = |json: &Value| -> BTreeSet<String> {
        json["model"]["merges"].as_array().unwrap().iter().map(Value::to_string).collect()
    };
    assert!(set(&made) == set(&json));
}

#[test]
fn named_pre_tokenizers() {
    let goldens: Value = serde_json::from_str(include_str!("data/pre-tokenizers.json")).unwrap();
    let texts: Vec<String> = serde_json::from_value(goldens["texts"].clone()).unwrap();
    let by_name = goldens["ids"].as_object().unwrap();
    assert_eq!((texts.len(), by_name.len()), (54, 10));
    for (pre, ids) in by_name {
        let json = tokenizer_json_from_gguf(&GgufVocab { pre, ..SMOL_GGUF.vocab() }).unwrap();
        let tokenizer = Tokenizer::from_json(&json).unwrap();
        let ids: Vec<Vec<u32>> = serde_json::from_value(ids.clone()).unwrap();
        for (text, ids) in texts.iter().zip(ids) {
            assert_eq!(tokenizer.encode(text, Specials::Parse), ids, "{pre}: {text:?}");
        }
    }
}

#[test]
fn chat_renders_and_encodes() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("data/smollm2-chat.json")).unwrap();
    let template =
        ChatTemplate::new(&SMOL_GGUF.chat_template, "<|im_start|>", "<|im_end|>").unwrap();
    let mut chats = 0;
    for case in cases {
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        let text = case["text"].as_str().unwrap();
        assert_eq!(SMOL.tokenizer.encode(text, Specials::Parse), ids);
        let Some(messages) = case["messages"].as_array() else { continue };
        let word = |m: &Value, key: &str| m[key].as_str().unwrap().to_owned();
        let messages: Vec<Message> =
            messages.iter().map(|m| Message::new(word(m, "role"), word(m, "content"))).collect();
        assert_eq!(template.render(&messages, true).unwrap(), text);
        assert_eq!(encode_chat(&SMOL.tokenizer, &template, &messages, true).unwrap(), ids);
        chats += 1;
    }
    assert_eq!(chats, 2);
}
