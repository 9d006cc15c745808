//! Requests and answers in the JSON of an API.
//!
//! ```text
//! call      a parsed request, and how its answer is written
//! fields    the options that the APIs have in common
//! inputs    texts or tokens, one or several
//! unsupported   fields that would change the answer, but are not implemented
//! messages  conversations
//! tools     tools that the model may call
//! items     the input of responses
//! structure what the answer must follow
//! usage     counts
//! openai_chat, completions, responses, anthropic, ollama, infill   one API each
//! embeddings, rerank   the same for prompts that are read, but not answered
//! problems  errors in the form of each API
//! ```

pub(crate) mod anthropic;
pub(crate) mod call;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod fields;
pub(crate) mod infill;
mod inputs;
mod items;
pub(crate) mod messages;
pub(crate) mod ollama;
pub(crate) mod openai_chat;
pub(crate) mod problems;
pub(crate) mod rerank;
pub(crate) mod responses;
mod structure;
mod tools;
mod unsupported;
mod usage;
