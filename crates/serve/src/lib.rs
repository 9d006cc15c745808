//! NanoInfer's HTTP server: the APIs that clients know, over one engine.
//!
//! ```text
//!  http thread (tokio, current_thread)                engine thread
//!  http      limits, keys, routes                     runner   loops `Batch::step`
//!  dialect   JSON of OpenAI, Anthropic, Ollama …        ▲ │
//!  core      options → engine requests ── submit ───────┘ │
//!            events → updates of an answer ◄── one wake-up per pass ──┘
//! ```
//!
//! The engine has no async code and the HTTP thread never computes: it waits for events, and everything that
//! takes longer than a moment (templates, tokenizing) runs on a blocking thread. A request is cancelled by
//! dropping its answer, which hyper does when the client goes away.
//!
//! No request opens a path, downloads, converts, or brings a template: models are opened before listening, and
//! a request's `model` is only compared with their names.
//!
//! The modules, lowest layer first; each imports only those listed above it:
//!
//! ```text
//! keys      who may send requests
//! options   what a server is told at its start
//! problem   what is wrong with a request, independent of a dialect
//! metrics   figures for Prometheus
//! inside    what the page shows of an engine
//! room      which engines are loaded
//! runner    the engine's thread
//! stream    from the engine's thread to the answers: back-pressure, cancellation
//! core      one request, independent of a dialect
//! dialect   requests and answers in the JSON of an API
//! http      limits, keys, routes, connections
//! server    start, run, drain
//! local     the same for callers in this process: any thread, any event loop, with or without HTTP
//! ```

mod core;
mod dialect;
mod http;
mod inside;
mod keys;
mod local;
mod metrics;
mod options;
mod problem;
mod room;
mod runner;
mod server;
mod stream;
#[doc(hidden)]
pub mod testing;

pub use crate::core::answer::{Chunk, End, Reason, Update};
pub use crate::core::parts::Part;
pub use keys::{Key, Keys, KeysError};
pub use local::{Answers, Api, Exchange, Head, Local, Opened, Pending, wait};
pub use options::{Bandwidth, Error, Limits, Listen, Load, Log, Options, Served};
pub use problem::{Kind, Problem};
pub use runner::Logprobs;
pub use server::{Handle, Listening, Server};
