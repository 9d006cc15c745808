//! The limit on the tokens of reasoning.

mod common;

use common::{data, with_text};
use nanoinfer_engine::{Engine, EngineOptions, GenerateOptions, Message, Model, Sampling, Session};
use nanoinfer_format::{Generation, NanoFile, Quant};
use nanoinfer_packer::{Input, Options, convert};
use nanoinfer_text::build_vocab;
use serde_json::{Map, Value, json};

const BEGIN: u32 = 256;
const END: u32 = 257;

/// A tiny random model whose vocabulary is bytes and the two ends of reasoning.
fn model(template: &str) -> Model {
    let rows = 320;
    let tokens = (0..rows).map(|id| match id {
        0..=255 => format!("<0x{id:02X}>"),
        BEGIN => "<think>".to_owned(),
        END => "</think>".to_owned(),
        _ => format!("unused{id}"),
    });
    let vocab: Map<String, Value> = tokens.zip(0u32..).map(|(t, id)| (t, json!(id))).collect();
    let added = |id, content| json!({"id": id, "content": content, "special": true});
    let json = json!({
        "added_tokens": [added(BEGIN, "<think>"), added(END, "</think>")],
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true},
    });
    let json = serde_json::to_vec(&json).unwrap();
    let vocabulary = build_vocab(&json, rows as usize).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (plain, file) = (folder.path().join("plain.nano"), folder.path().join("m.nano"));
    convert(&Input::Folder(data("tiny/llama-gqa")), &plain, Options::new(Quant::Q8)).unwrap();
    let from = NanoFile::open(&plain).unwrap();
    with_text(&from, &file, json, vocabulary, &Generation::default());
    let mut model = Model::open(file).unwrap();
    model.set_template(template, true).unwrap();
    model
}

/// The tokens of an answer in which the model would never end its reasoning, and begins it at once.
fn answer(template: &str, max_reasoning: Option<usize>) -> Vec<u32> {
    let engine = Engine::new(model(template), &EngineOptions::default()).unwrap();
    let mut session = Session::new(engine).unwrap();
    session.prompt_chat(&[Message::new("user", "Why?")]).unwrap();
    let options = GenerateOptions {
        max_tokens: Some(20),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        logit_bias: vec![(END, -100.0), (BEGIN, 100.0)],
        max_reasoning,
        ..GenerateOptions::default()
    };
    session.start(options).unwrap();
    while session.next().unwrap().is_some() {}
    session.generated().to_vec()
}

#[test]
fn reasoning_ends_when_it_reaches_its_limit() {
    // Whether the template or the model begins it; the bias repeats the token that does.
    let begun = "{# </think> #}{{ messages[0].content }}<think>";
    let (template, model) = (begun, "{{ messages[0].content }}</think>");
    assert!(!answer(template, None).contains(&END));
    assert!(!answer(model, None).contains(&END));
    assert_eq!(answer(template, Some(5)).iter().position(|id| *id == END), Some(5));
    assert_eq!(answer(model, Some(5)).iter().position(|id| *id == END), Some(6));
    // It does not begin again.
    let all = answer(template, Some(0));
    assert_eq!((all[0], all.len()), (END, 20));
    assert!(!all[1..].iter().any(|id| [BEGIN, END].contains(id)), "{all:?}");
    assert_eq!(answer(template, Some(100)), answer(template, None));
}
