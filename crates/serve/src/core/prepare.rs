//! From what a client asks for to the engine's requests. Nothing else makes these, so a restriction of the
//! answer, such as a grammar, is set here.

use std::hash::{BuildHasher, RandomState};

use nanoinfer_engine::{Drafting, GenerateOptions, Namespace, PromptOutput, Request, Sampling};
use nanoinfer_text::{AnswerParser, ChatInput, Specials, Tools};

use super::ask::{Ask, AskOptions, Chat, Prompt, Structure};
use super::model::ServedModel;
use super::parts::Splitter;
use super::restrict;
use crate::problem::Problem;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    /// Whom to charge, see [`Request::key`].
    pub(crate) key: u64,
    /// Whose contexts may be reused.
    pub(crate) namespace: Namespace,
    /// The most urgent class that the caller may use.
    pub(crate) class: nanoinfer_engine::Class,
}

/// Requests to submit.
pub(crate) struct Prepared {
    pub(crate) requests: Vec<Request>,
    /// The length of each request's prompt.
    pub(crate) prompts: Vec<usize>,
    /// What splits each answer into parts.
    pub(crate) splitters: Vec<Splitter>,
    pub(crate) stops: Vec<String>,
    /// That of the first choice.
    pub(crate) seed: u64,
}

/// Makes the requests, choice by choice for each prompt.
pub(crate) fn prepare(served: &ServedModel, ask: Ask, caller: Caller) -> Result<Prepared, Problem> {
    let Ask { prompts, n, mut options } = ask;
    // A number that JavaScript can represent.
    let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one(()) >> 32);
    let (stops, class, structure) = (options.stop.clone(), options.class, options.structure.take());
    let output = options.logprobs.filter(|_| options.prompt_logprobs);
    let output = output.map(PromptOutput::Logprobs);
    let generate = generate_options(served, options, seed);
    let mut requests = Vec::with_capacity(prompts.len() * n);
    let mut splitters = Vec::with_capacity(prompts.len() * n);
    for prompt in prompts {
        let context = (structure.as_ref(), caller.namespace);
        let (mut request, conversation) = encode(served, prompt, context)?;
        if request.prompt.len() > served.ctx {
            return Err(Problem::context(request.prompt.len(), served.ctx));
        }
        let ends = std::mem::take(&mut request.options.stop_tokens);
        request.options = generate.clone();
        request.options.stop_tokens.extend(ends);
        request.output.clone_from(&output);
        (request.key, request.namespace) = (caller.key, caller.namespace);
        request.class = class.unwrap_or_default().max(caller.class);
        for i in 0..n as u64 {
            let mut choice = request.clone();
            choice.options.sampling.seed = seed.wrapping_add(i);
            splitters.push(splitter(served, &choice, conversation.as_ref()));
            requests.push(choice);
        }
    }
    let prompts = requests.iter().map(|request| request.prompt.len()).collect();
    Ok(Prepared { requests, prompts, splitters, stops, seed })
}

/// What the parts of an answer to a conversation depend on, besides its end.
struct Conversation {
    tools: Option<Tools>,
}

/// A prompt's tokens, with what its answer must follow, and the tokens that end it besides the model's own.
fn encode(
    served: &ServedModel,
    prompt: Prompt,
    (structure, namespace): (Option<&Structure>, Namespace),
) -> Result<(Request, Option<Conversation>), Problem> {
    let model = &served.model;
    let tokens = |prompt| Request { prompt, ..Request::default() };
    let mut request = match prompt {
        Prompt::Chat(chat) => {
            let (request, conversation) = converse(served, *chat, (structure, namespace))?;
            return Ok((request, Some(conversation)));
        }
        Prompt::Text { text, specials } => tokens(served.encode(&text, true, specials)?),
        Prompt::Tokens(ids) => tokens(ids),
        Prompt::Infill { prefix, suffix } => {
            let ids = model.encode_infill(&prefix, &suffix, Specials::Plain);
            let mut request = tokens(ids.map_err(|e| Problem::engine(&e))?);
            request.options.stop_tokens = model.infill_ends();
            request
        }
    };
    if let Some(structure) = structure {
        request.constraint = Some(restrict::structured(served, structure, None)?);
    }
    Ok((request, None))
}

/// A conversation as its template renders it.
pub(crate) fn input(served: &ServedModel, chat: &Chat) -> Result<ChatInput, Problem> {
    let mut input = ChatInput::from_messages(&chat.messages, true);
    if let Some(toolbox) = &chat.toolbox {
        if served.format().calls().is_none() {
            let what = "this model's chat template has no tools, or in a format that is not known; \
                        leave them out";
            return Err(Problem::field("tools", what).code("unsupported_parameter"));
        }
        let with = input.with_tools(&toolbox.tools);
        input = with.map_err(|e| Problem::field("tools", e.to_string()))?;
    }
    for (name, value) in &chat.variables {
        let with = input.with_variable(name, value);
        input = with.map_err(|e| Problem::field("chat_template_kwargs", e.to_string()))?;
    }
    Ok(input)
}

/// The tokens of a conversation.
pub(crate) fn encode_chat(
    served: &ServedModel,
    chat: &Chat,
    caller: Caller,
) -> Result<Vec<u32>, Problem> {
    let seams = served.seams.of(caller.namespace);
    let request = seams.request_chat(&served.model, &input(served, chat)?);
    request.map(|request| request.prompt).map_err(|e| Problem::engine(&e))
}

fn converse(
    served: &ServedModel,
    chat: Chat,
    (structure, namespace): (Option<&Structure>, Namespace),
) -> Result<(Request, Conversation), Problem> {
    let input = input(served, &chat)?;
    let request = served.seams.of(namespace).request_chat(&served.model, &input);
    let mut request = request.map_err(|e| Problem::engine(&e))?;
    let prompt = request.chat.as_ref().map(|chat| chat.text()).unwrap_or_default();
    let tools = chat.toolbox.as_ref().map(|toolbox| Tools::from_json(&toolbox.tools));
    let tools = tools.transpose().map_err(|e| Problem::field("tools", e.to_string()))?;
    request.constraint = match (structure, &chat.toolbox, &tools) {
        (Some(structure), None, _) => Some(restrict::structured(served, structure, Some(prompt))?),
        (Some(structure), Some(_), _) => {
            let what = "cannot be combined with tools; set tool_choice to none";
            return Err(Problem::field(structure.field, what));
        }
        (None, Some(toolbox), Some(tools)) => restrict::called(served, toolbox, tools, prompt)?,
        _ => None,
    };
    Ok((request, Conversation { tools }))
}

fn splitter(
    served: &ServedModel,
    request: &Request,
    conversation: Option<&Conversation>,
) -> Splitter {
    let format = served.format();
    let has_parts = |c: &&Conversation| format.has_reasoning() || c.tools.is_some();
    let parser = conversation.filter(has_parts).map(|conversation| {
        let prompt = request.chat.as_ref().map(|chat| chat.text()).unwrap_or_default();
        AnswerParser::new(format, prompt, conversation.tools.clone())
    });
    let mut hasher = blake3::Hasher::new();
    hasher.update(&request.options.sampling.seed.to_le_bytes());
    request.prompt.iter().for_each(|id| {
        hasher.update(&id.to_le_bytes());
    });
    Splitter { parser, seed: hasher.finalize(), has_called: false }
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
        max_reasoning: ask.max_reasoning,
        drafting: Drafting::default(),
    }
}
