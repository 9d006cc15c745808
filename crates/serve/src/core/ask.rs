//! What a client asks for.

use nanoinfer_engine::{Class, Message};
use nanoinfer_grammar::Source;

/// A request for one or more answers.
#[derive(Debug, Default)]
pub(crate) struct Ask {
    /// Each is answered [`Self::n`] times.
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) n: usize,
    pub(crate) options: AskOptions,
}

/// What to answer or continue.
#[derive(Debug)]
pub(crate) enum Prompt {
    /// Answer a conversation.
    Chat(Box<Chat>),
    /// Continue a text. If `specials`, names of control tokens in it are control tokens.
    Text { text: String, specials: bool },
    /// Continue tokens.
    Tokens(Vec<u32>),
    /// Fill the gap between two texts.
    Infill { prefix: String, suffix: String },
}

/// A conversation, and what its template gets besides.
#[derive(Debug, Default)]
pub(crate) struct Chat {
    pub(crate) messages: Vec<Message>,
    pub(crate) toolbox: Option<Toolbox>,
    /// Variables of the template, as JSON.
    pub(crate) variables: Vec<(String, String)>,
}

/// Tools that the model may call.
#[derive(Clone, Debug)]
pub(crate) struct Toolbox {
    /// A JSON list in OpenAI's form.
    pub(crate) tools: String,
    pub(crate) choice: ToolChoice,
    /// Whether an answer may have several calls.
    pub(crate) parallel: bool,
}

/// Which calls an answer has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    Auto,
    /// At least one.
    Required,
    /// Calls of this tool.
    Named(String),
}

/// What an answer must follow.
#[derive(Clone, Debug)]
pub(crate) struct Structure {
    pub(crate) source: Source,
    /// The field of the request that demands it.
    pub(crate) field: &'static str,
}

/// How to answer. What is absent has the model's default.
#[derive(Clone, Debug, Default)]
pub(crate) struct AskOptions {
    pub(crate) max_tokens: Option<usize>,
    pub(crate) temperature: Option<f32>,
    pub(crate) top_k: Option<usize>,
    pub(crate) top_p: Option<f32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    /// That of the first choice; the others have the following numbers.
    pub(crate) seed: Option<u64>,
    pub(crate) stop: Vec<String>,
    pub(crate) stop_tokens: Vec<u32>,
    pub(crate) ignore_eos: bool,
    pub(crate) logit_bias: Vec<(u32, f32)>,
    /// Number of most likely tokens to report besides the chosen one.
    pub(crate) logprobs: Option<usize>,
    /// Whether to report them for the prompt too.
    pub(crate) prompt_logprobs: bool,
    /// Maximum number of tokens of reasoning.
    pub(crate) max_reasoning: Option<usize>,
    pub(crate) class: Option<Class>,
    pub(crate) structure: Option<Structure>,
}
