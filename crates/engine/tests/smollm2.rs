//! Compares SmolLM2-135M-Instruct with transformers (see tests/data/README.md for how those results were
//! computed). The model is fetched and packed once, into the user's cache.

mod common;

use common::{argmax, data, engine, log_softmax, logits};
use nanoinfer_engine::{Event, GenerateOptions, Message, Model, Session};
use nanoinfer_format::Quant;
use nanoinfer_hub::{ModelRef, Pip, Status, Store};
use serde_json::Value;

fn smollm2(quant: Quant) -> Model {
    let mut status = |status: Status<'_>| {
        if let Status::Message(message) = status {
            println!("{message}");
        }
    };
    let model = ModelRef::parse("smollm2").unwrap();
    let path = Store::open().unwrap().resolve(&model, quant, Some(&Pip), &mut status).unwrap();
    Model::open(path).unwrap()
}

fn cases() -> Vec<Value> {
    let json = std::fs::read(data("smollm2-golden.json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    json["cases"].as_array().unwrap().clone()
}

fn ids(v: &Value) -> Vec<u32> {
    serde_json::from_value(v.clone()).unwrap()
}

fn messages(case: &Value) -> Option<Vec<Message>> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let list = case["messages"].as_array()?;
    Some(list.iter().map(|m| Message::new(text(&m["role"]), text(&m["content"]))).collect())
}

#[test]
fn prompts_have_the_same_ids_and_templates_the_same_text() {
    let model = smollm2(Quant::Q8);
    for case in cases() {
        let text = case["text"].as_str().unwrap();
        match messages(&case) {
            Some(messages) => {
                let rendered = model.template().unwrap().render(&messages, true).unwrap();
                assert_eq!(rendered, text);
                assert_eq!(model.encode_chat(&messages).unwrap(), ids(&case["ids"]));
            }
            None => assert_eq!(model.encode(text).unwrap(), ids(&case["ids"]), "{text}"),
        }
    }
}

/// Feeds the prompt and the golden continuation; the argmax must be the golden token wherever the gap
/// between the reference's first and second choices exceeds the encoding's tolerance.
fn follow_greedy(quant: Quant, gap: f64) {
    let mut engine = engine(smollm2(quant), 2);
    let (mut compared, mut agreed) = (0, 0);
    for case in cases() {
        let (prompt, greedy) = (ids(&case["ids"]), ids(&case["greedy"]));
        let all: Vec<u32> = prompt.iter().chain(&greedy).copied().collect();
        let rows = logits(&mut engine, &all[..all.len() - 1], 16);
        for (step, want) in greedy.iter().enumerate() {
            let got = argmax(&rows[prompt.len() - 1 + step]);
            agreed += usize::from(got == *want);
            compared += 1;
            if case["greedy_margin"][step].as_f64().unwrap() > gap {
                assert_eq!(got, *want, "step {step} of {}", case["greedy_text"]);
            }
        }
        if quant == Quant::F32 {
            let nll: f64 = (1..prompt.len())
                .map(|i| -log_softmax(&rows[i - 1])[prompt[i] as usize])
                .sum::<f64>()
                / (prompt.len() - 1) as f64;
            assert!((nll - case["mean_nll"].as_f64().unwrap()).abs() < 1e-3, "mean NLL {nll}");
            for (position, top) in case["top10"].as_object().unwrap() {
                let ours = log_softmax(&rows[position.parse::<usize>().unwrap()]);
                let want: Vec<f64> = serde_json::from_value(top["logprobs"].clone()).unwrap();
                for (id, want) in ids(&top["ids"]).into_iter().zip(want) {
                    let got = ours[id as usize];
                    assert!(
                        (got - want).abs() <= 2e-3,
                        "position {position} id {id}: {got} {want}"
                    );
                }
            }
        }
    }
    println!("{quant:?}: {agreed} of {compared} greedy tokens equal");
}

#[test]
fn f32_follows_the_greedy_continuations_and_log_probabilities() {
    follow_greedy(Quant::F32, 0.01);
}

#[test]
fn q8_follows_the_greedy_continuations() {
    follow_greedy(Quant::Q8, 0.4);
}

#[test]
fn the_first_answer_is_the_golden_text() {
    for quant in [Quant::F32, Quant::Q8] {
        let case = &cases()[0];
        let mut session = Session::new(engine(smollm2(quant), 2)).unwrap();
        session.prompt_chat(&messages(case).unwrap()).unwrap();
        session.start(GenerateOptions::default()).unwrap();
        let (mut text, mut out) = (String::new(), Vec::new());
        while let Some(event) = session.next().unwrap() {
            match event {
                Event::Token { id, text: piece, .. } => {
                    out.push(id);
                    text.push_str(piece);
                }
                Event::Finished { text: rest, .. } => text.push_str(rest),
                _ => {}
            }
        }
        assert_eq!(out, ids(&case["greedy"]), "{quant:?}");
        assert_eq!(format!("{text}<|im_end|>"), case["greedy_text"].as_str().unwrap());
    }
}
