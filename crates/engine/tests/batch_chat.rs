//! Clients that send whole conversations as text, answers included.

mod common;

use std::sync::Arc;

use nanoinfer_engine::{
    Batch, BatchOptions, Engine, EngineOptions, Event, GenerateOptions, Message, Model, Namespace,
    Sampling, Stats,
};
use nanoinfer_format::Quant;
use nanoinfer_hub::{ModelRef, Pip, Store};

const BLOCK: usize = 64;

/// Answers all `conversations` at once, and appends the answers. Returns the statistics of each.
fn turn(batch: &mut Batch, model: &Model, conversations: &mut [Vec<Message>]) -> Vec<Stats> {
    let mut answers = Vec::new();
    for (conversation, seed) in conversations.iter().zip(0..) {
        let mut request = batch.seams().request(model, conversation).unwrap();
        // A high temperature, so that the tokens of answers differ from the tokenization of their text.
        let sampling = Sampling { temperature: 2.5, seed, ..Sampling::default() };
        let max_tokens = Some(20);
        request.options = GenerateOptions { max_tokens, sampling, ..GenerateOptions::default() };
        answers.push((batch.submit(request).unwrap(), String::new(), Stats::default()));
    }
    while !batch.is_idle() {
        for event in batch.step().unwrap() {
            let answer = answers.iter_mut().find(|(id, ..)| *id == event.id).unwrap();
            if let Ok(Event::Token { text, .. } | Event::Finished { text, .. }) = event.event {
                answer.1.push_str(text);
            }
            answer.2 = *event.stats;
        }
    }
    let appended = conversations.iter_mut().zip(answers);
    appended
        .map(|(conversation, (_, text, stats))| {
            conversation.push(Message::new("assistant", text));
            stats
        })
        .collect()
}

#[test]
fn each_turn_finds_the_tokens_of_the_turns_before_it() {
    let model = ModelRef::parse("smollm2").unwrap();
    let path = Store::open().unwrap().resolve(&model, Quant::Q8, Some(&Pip), &mut |_| {}).unwrap();
    let model = Arc::new(Model::open(path).unwrap());
    let options = EngineOptions {
        threads: Some(2),
        ctx: Some(512),
        sequences: 2,
        ..EngineOptions::default()
    };
    let engine = Engine::new(Arc::clone(&model), &options).unwrap();
    let mut batch = Batch::new(engine, BatchOptions::default());
    let mut conversations = vec![Vec::new(), Vec::new()];
    let (mut before, mut retokenized) = (vec![Stats::default(); 2], 0);
    for round in ["Hi!", "Why? Tell me <|im_end|> more.", "Go on.", "Thanks 👋"] {
        for (conversation, name) in conversations.iter_mut().zip(["Ann", "Bob"]) {
            conversation.push(Message::new("user", format!("{round} I am {name}.")));
        }
        let stats = turn(&mut batch, &model, &mut conversations);
        for ((now, before), conversation) in stats.iter().zip(&before).zip(&conversations) {
            // All of the previous turn but its last token, in whole blocks.
            let known = (before.prompt_tokens + before.generated).saturating_sub(1);
            assert!(now.reused_tokens >= known / BLOCK * BLOCK, "{now:?} after {before:?}");
            let (_, prompt) = conversation.split_last().unwrap();
            let plain = model.encode_chat(prompt).unwrap();
            retokenized += usize::from(plain.len() != now.prompt_tokens);
            let elsewhere = batch.seams().of(Namespace(1)).request(&model, prompt).unwrap();
            assert_eq!(elsewhere.prompt, plain, "the answers of another namespace");
        }
        before = stats;
    }
    assert!(retokenized > 0, "no answer has other tokens than its text: this proves nothing");
}
