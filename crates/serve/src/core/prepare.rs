//! From what a client asks for to the engine's requests. Nothing else makes these, so a restriction of the
//! answer, such as a grammar, is set here.

use std::hash::{BuildHasher, RandomState};

use nanoinfer_engine::{Drafting, GenerateOptions, Request, Sampling};
use nanoinfer_text::Specials;

use super::ask::{Ask, AskOptions, Prompt};
use super::model::ServedModel;
use crate::problem::Problem;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    /// Whom to charge, see [`Request::key`].
    pub(crate) key: u64,
    /// The most urgent class that the caller may use.
    pub(crate) class: nanoinfer_engine::Class,
}

/// Requests to submit.
pub(crate) struct Prepared {
    pub(crate) requests: Vec<Request>,
    /// The length of each request's prompt.
    pub(crate) prompts: Vec<usize>,
    pub(crate) stops: Vec<String>,
    /// That of the first choice.
    pub(crate) seed: u64,
}

/// Makes the requests, choice by choice for each prompt.
pub(crate) fn prepare(served: &ServedModel, ask: Ask, caller: Caller) -> Result<Prepared, Problem> {
    let Ask { prompts, n, options } = ask;
    // A number that JavaScript can represent.
    let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one(()) >> 32);
    let (stops, class) = (options.stop.clone(), options.class);
    let generate = generate_options(served, options, seed);
    let mut requests = Vec::with_capacity(prompts.len() * n);
    for prompt in prompts {
        let mut request = encode(served, prompt)?;
        if request.prompt.len() > served.ctx {
            return Err(Problem::context(request.prompt.len(), served.ctx));
        }
        let ends = std::mem::take(&mut request.options.stop_tokens);
        request.options = generate.clone();
        request.options.stop_tokens.extend(ends);
        request.key = caller.key;
        request.class = class.unwrap_or_default().max(caller.class);
        for i in 0..n as u64 {
            let mut choice = request.clone();
            choice.options.sampling.seed = seed.wrapping_add(i);
            requests.push(choice);
        }
    }
    let prompts = requests.iter().map(|request| request.prompt.len()).collect();
    Ok(Prepared { requests, prompts, stops, seed })
}

/// A prompt's tokens, with the tokens that end its answer besides the model's own.
fn encode(served: &ServedModel, prompt: Prompt) -> Result<Request, Problem> {
    let model = &served.model;
    let tokens = |prompt| Request { prompt, ..Request::default() };
    match prompt {
        Prompt::Chat(messages) => {
            served.seams.request(model, &messages).map_err(|e| Problem::engine(&e))
        }
        Prompt::Text { text, specials } => served.encode(&text, true, specials).map(tokens),
        Prompt::Tokens(ids) => Ok(tokens(ids)),
        Prompt::Infill { prefix, suffix } => {
            let ids = model.encode_infill(&prefix, &suffix, Specials::Plain);
            let mut request = tokens(ids.map_err(|e| Problem::engine(&e))?);
            request.options.stop_tokens = model.infill_ends();
            Ok(request)
        }
    }
}

fn generate_options(served: &ServedModel, ask: AskOptions, seed: u64) -> GenerateOptions {
    let defaults = Sampling::of(served.model.generation());
    let named = |text: &String| served.model.tokenizer().ok()?.added_token(text);
    let named: Vec<u32> = ask.stop.iter().filter_map(named).collect();
    GenerateOptions {
        max_tokens: ask.max_tokens,
        sampling: Sampling {
            temperature: ask.temperature.unwrap_or(defaults.temperature),
            top_k: ask.top_k.unwrap_or(defaults.top_k),
            top_p: ask.top_p.unwrap_or(defaults.top_p),
            min_p: ask.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: ask.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            presence_penalty: ask.presence_penalty.unwrap_or(defaults.presence_penalty),
            frequency_penalty: ask.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            seed,
        },
        stop: ask.stop,
        stop_tokens: ask.stop_tokens.into_iter().chain(named).collect(),
        ignore_eos: ask.ignore_eos,
        logit_bias: ask.logit_bias,
        logprobs: ask.logprobs,
        drafting: Drafting::default(),
    }
}
