//! Answers of whole models: they follow their schemas, and drafts change their speed only.

mod common;

use std::sync::Arc;

use common::validate::errors;
use common::{answer, byte_level, sentence_piece, session, smollm2};
use nanoinfer_engine::{
    Batch, BatchOptions, Drafting, Engine, EngineOptions, Event, FinishReason, GenerateOptions,
    Message, Model, Request, Sampling,
};
use nanoinfer_grammar::{Grammars, Source};
use serde_json::{Value, json};

/// Schemas of the kinds that applications use.
fn schemas() -> Vec<Value> {
    let person = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "email": {"type": "string", "format": "email", "maxLength": 40},
        },
        "required": ["name", "age"],
        "additionalProperties": false,
    });
    let tree = json!({
        "type": "object",
        "properties": {"v": {"type": "integer", "minimum": 0, "maximum": 9}, "next": {"$ref": "#/$defs/tree"}},
        "required": ["v"],
        "additionalProperties": false,
    });
    vec![
        json!({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": false}),
        person.clone(),
        json!({"type": "array", "items": person, "minItems": 1, "maxItems": 2}),
        json!({"type": "string", "minLength": 3, "maxLength": 12}),
        json!({"type": "string", "pattern": "^[A-Z][a-z]{2,8}$"}),
        json!({"type": "integer", "minimum": -20, "exclusiveMaximum": 300}),
        json!({"type": "number", "minimum": 0.5, "maximum": 2.25}),
        json!({"enum": ["red", "green", {"mixed": [1, 2]}, null, 7]}),
        json!({"const": {"kind": "fixed", "list": [true, "é"]}}),
        json!({"type": ["boolean", "null"]}),
        json!({"anyOf": [{"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100}, {"type": "string", "maxLength": 4}]}),
        json!({"oneOf": [
            {"type": "object", "properties": {"t": {"const": "a"}, "x": {"type": "boolean"}}, "required": ["t", "x"], "additionalProperties": false},
            {"type": "object", "properties": {"t": {"const": "b"}, "y": {"type": "null"}}, "required": ["t", "y"], "additionalProperties": false},
        ]}),
        json!({"allOf": [{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}, {"properties": {"b": {"type": "null"}}, "required": ["b"]}], "additionalProperties": false, "properties": {"a": true, "b": true}}),
        json!({"type": "array", "prefixItems": [{"type": "boolean"}, {"enum": [1, 2]}], "items": false, "minItems": 2}),
        json!({"$ref": "#/$defs/tree", "$defs": {"tree": tree}}),
        json!({"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 2, "minProperties": 1}),
        json!({"type": "object", "patternProperties": {"^k[0-9]$": {"type": "integer", "minimum": 0, "maximum": 9}}, "additionalProperties": false, "maxProperties": 3}),
        json!({"type": "string", "format": "date"}),
        json!({"type": "array", "items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}, "minItems": 1, "maxItems": 3}),
        json!({"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "array", "items": {"type": "string", "format": "date"}, "minItems": 1, "maxItems": 2}, "note": {"type": ["string", "null"], "maxLength": 15}}, "required": ["city", "days", "note"], "additionalProperties": false}),
    ]
}

fn options(temperature: f32, seed: u64, max_tokens: usize) -> GenerateOptions {
    let sampling = Sampling { temperature, seed, ..Sampling::default() };
    GenerateOptions { max_tokens: Some(max_tokens), sampling, ..GenerateOptions::default() }
}

/// Answers all schemas at several temperatures; returns the number of answers, and of those that were cut
/// off.
fn follow_schemas(
    model: &Arc<Model>,
    prompt: &[u32],
    follows: bool,
    max_tokens: usize,
) -> (usize, usize) {
    let grammars = Grammars::new(Arc::clone(model));
    let mut session = session(model);
    let (mut answers, mut cut) = (0, 0);
    for (i, schema) in schemas().iter().enumerate() {
        let grammar = grammars.compile(&Source::JsonSchema(schema.clone())).unwrap();
        for temperature in [0.0, 0.7, 1.5] {
            let options = options(temperature, i as u64, max_tokens);
            let answer = answer(&mut session, prompt, options, grammar.constraint(follows));
            answers += 1;
            if answer.reason == FinishReason::Length {
                println!("cut off: {schema} at {temperature}: {:?}", answer.text);
                cut += 1;
                continue;
            }
            assert_eq!(answer.reason, FinishReason::Stop);
            let value: Value = serde_json::from_str(&answer.text)
                .unwrap_or_else(|e| panic!("{schema}: {e} in {:?}", answer.text));
            assert_eq!(errors(schema, schema, &value), Vec::<String>::new(), "{schema}: {value}");
        }
    }
    (answers, cut)
}

#[test]
fn answers_of_random_models_follow_their_schemas() {
    for model in [byte_level(), sentence_piece()] {
        for follows in [false, true] {
            let (answers, cut) = follow_schemas(&model, &[1, 2, 3], follows, 400);
            assert!(answers == 60 && cut <= 3, "{cut} of {answers} were cut off");
        }
    }
}

#[test]
fn answers_of_smollm2_follow_their_schemas() {
    let model = smollm2();
    let message = Message::new("user", "Invent a person who travels, and describe them in JSON.");
    let prompt = model.encode_chat(&[message]).unwrap();
    let (answers, cut) = follow_schemas(&model, &prompt, true, 200);
    // Numbers have any number of digits, and trees any depth: the model decides when they end.
    assert!(answers == 60 && cut <= 6, "{cut} of {answers} were cut off");
}

#[test]
fn drafts_of_forced_text_change_no_token() {
    for (model, prompt) in [(byte_level(), vec![1, 2, 3]), (sentence_piece(), vec![7])] {
        let grammars = Grammars::new(Arc::clone(&model));
        let mut session = session(&model);
        let mut forced = 0;
        for (i, schema) in schemas().into_iter().enumerate() {
            let grammar = grammars.compile(&Source::JsonSchema(schema)).unwrap();
            for temperature in [0.0, 1.0] {
                let run = |session: &mut _, drafting| {
                    let options =
                        GenerateOptions { drafting, ..options(temperature, i as u64, 120) };
                    answer(session, &prompt, options, grammar.constraint(true))
                };
                let plain = run(&mut session, Drafting::OFF);
                for fixed in [Some(1), Some(4), Some(15), None] {
                    let drafted = run(&mut session, Drafting { fixed, ..Drafting::default() });
                    assert_eq!(drafted.tokens, plain.tokens, "{fixed:?}");
                    assert_eq!((drafted.text, drafted.reason), (plain.text.clone(), plain.reason));
                    forced += drafted.stats.drafts.forced.accepted;
                }
            }
        }
        assert!(forced > 500, "only {forced} tokens of forced drafts were accepted");
    }
}

#[test]
fn a_batch_answers_as_a_session_does() {
    let model = byte_level();
    let grammars = Grammars::new(Arc::clone(&model));
    let mut alone = session(&model);
    let engine = EngineOptions {
        threads: Some(2),
        sequences: 4,
        ctx: Some(512),
        ..EngineOptions::default()
    };
    let engine = Engine::new(Arc::clone(&model), &engine).unwrap();
    let mut batch = Batch::new(engine, BatchOptions::default());
    let mut want = Vec::new();
    for (i, schema) in schemas().into_iter().enumerate() {
        let grammar = grammars.compile(&Source::JsonSchema(schema)).unwrap();
        let options = options(1.0, i as u64, 100);
        let answer = answer(&mut alone, &[1, 2, 3], options.clone(), grammar.constraint(true));
        let constraint = Some(grammar.constraint(true));
        let request = Request {
            prompt: vec![1, 2, 3],
            answer_follows: true,
            options,
            constraint,
            ..Request::default()
        };
        want.push((batch.submit(request).unwrap(), answer, Vec::new()));
    }
    while !batch.is_idle() {
        for event in batch.step().unwrap() {
            let (_, answer, tokens) = want.iter_mut().find(|(id, ..)| *id == event.id).unwrap();
            match event.event.unwrap() {
                Event::Token { id, .. } => tokens.push(id),
                Event::Finished { reason, .. } => assert_eq!(reason, answer.reason),
                _ => {}
            }
        }
    }
    for (_, answer, tokens) in want {
        assert_eq!(tokens, answer.tokens);
    }
}
