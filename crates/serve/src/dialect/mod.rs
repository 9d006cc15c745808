//! Requests and answers in the JSON of an API.
//!
//! ```text
//! call      a parsed request, and how its answer is written
//! fields    the options that the APIs have in common
//! unsupported   fields that would change the answer, but are not implemented
//! messages  conversations
//! usage     counts
//! openai_…, anthropic, ollama, llama_cpp   one API each
//! problems  errors in the form of each API
//! ```

pub(crate) mod call;
pub(crate) mod completions;
pub(crate) mod fields;
pub(crate) mod messages;
pub(crate) mod openai_chat;
pub(crate) mod problems;
mod unsupported;
mod usage;
