//! Runs language models on CPUs, with the same tokens on every machine and startup in milliseconds.
//!
//! ```no_run
//! use nanoinfer::{GenerateOptions, Loader, Message};
//!
//! let mut session = Loader::new("smollm2.nano").session()?;
//! session.prompt_chat(&[Message::new("user", "What is the capital of France?")])?;
//! session.start(GenerateOptions::default())?;
//! while let Some(event) = session.next()? {
//!     print!("{}", event.text());
//! }
//! # Ok::<(), nanoinfer::Error>(())
//! ```
//!
//! | to | use |
//! |---|---|
//! | open a file, a cached model or a hub id | [`Loader`], or [`open`] for the defaults |
//! | run one conversation | [`Session`] |
//! | answer many requests that come and go | [`Batch`] |
//! | get logits and choose tokens yourself | [`Engine::forward`] |
//! | convert a published model to a `.nano` file | [`Store::convert`] |
//! | list or remove cached models | [`Store`] |
//!
//! Nothing is downloaded, and no program is started, unless the caller passes a [`Fetch`]. The feature
//! `fetch` provides two: `fetch::Hub` for the Hugging Face hub, and `fetch::Pip` for the default model.
//!
//! # Features
//!
//! - `cli` (default): the command `nanoinfer`. Libraries turn it off with `default-features = false`.
//! - `fetch` (part of `cli`): downloads.
//! - `local` (part of `cli`): models that many threads share, under [`local`], with an HTTP server.

#[cfg(feature = "cli")]
mod advice;
#[cfg(feature = "cli")]
mod args;
#[cfg(feature = "cli")]
mod clock;
#[cfg(feature = "cli")]
mod commands;
mod error;
#[cfg(feature = "cli")]
mod follow;
#[cfg(feature = "cli")]
mod input;
#[cfg(feature = "cli")]
mod limits;
mod loader;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "cli")]
mod model;
#[cfg(feature = "cli")]
mod output;
#[cfg(feature = "cli")]
mod parameters;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod program;
#[cfg(feature = "cli")]
mod prompt;
#[cfg(feature = "cli")]
mod smaller;
#[cfg(feature = "cli")]
mod status;
#[cfg(feature = "cli")]
mod template;

pub use error::Error;
pub use loader::{Loader, open};

pub use nanoinfer_engine::{
    Batch, BatchEvent, BatchLogprobs, BatchOptions, BatchToken, Canceller, Candidate, Class,
    Constraint, Cores, Difference, DraftStats, Drafted, Drafting, Engine, EngineOptions, Engines,
    Event, Events, FinishReason, GenerateOptions, Isa, KvType, Load, Logprobs, Message, Model,
    Overflow, PassId, Pooling, PrefixStore, Profile, PromptLogprobs, PromptOutput, PromptValues,
    Request, RequestId, Sampling, Seams, SeqId, Sequence, Session, Stage, Stats, TokenLogprob,
};
pub use nanoinfer_format::{Bits, Config, Generation, NanoFile, Precision, Quant, Recipe};
pub use nanoinfer_hub::calibrate;
pub use nanoinfer_hub::{
    ConvertOptions, Entry, Exceptions, Fetch, Fetched, HubId, Lora, ModelRef, Pinned, Published,
    Status, StatusFn, Store,
};
pub use nanoinfer_text::{
    Answer, AnswerEvent, AnswerFormat, AnswerParser, AnsweredCall, CallFormat, CallShape,
    ChatInput, ChatTemplate, Content, Part, Piece, Specials, Tokenizer, ToolCall, Tools, Vocab,
};

/// The error types of this crate's parts; [`Error`] wraps any of them.
pub mod errors {
    pub use nanoinfer_engine::Error as EngineError;
    pub use nanoinfer_format::Error as FormatError;
    pub use nanoinfer_hub::Error as HubError;
    pub use nanoinfer_packer::Error as ConvertError;
    pub use nanoinfer_text::Error as TextError;
}

/// Ways to download published models.
#[cfg(feature = "fetch")]
pub mod fetch {
    pub use nanoinfer_hub::{Hub, Online, Pip};
}
