//! Runs a `.nano` model: mapped weights and token ids in, text out.
//!
//! ```text
//!  Model  mapped file, weights bound, tokenizer          opened in milliseconds, nothing is read
//!    └─ Engine  threads, KV cache, scratch                 every buffer allocated once
//!         ├─ forward(batch of (sequence, token)) → logits  prefill and decode are the same call
//!         └─ Session  sampler, text stream, stop strings   an answer as a stream of events
//! ```
//!
//! A program opens a [`Model`], makes an [`Engine`] of it and starts a [`Session`], whose
//! documentation has an example; one that samples by itself calls [`Engine::forward`].
//!
//! Logits are the same bits for any number of threads, size of a batch, division of a prompt and
//! instruction set. After the first token of an answer nothing is allocated.
//!
//! What this crate is not: it converts no models (the packer does), has no arithmetic of its own
//! (the kernels have), and knows no terminal.

mod answer;
mod attend;
mod cache;
mod dialogue;
mod engine;
mod error;
mod experts;
mod forward;
mod inputs;
mod machine;
mod model;
mod pool;
mod prefix;
mod profile;
mod sample;
mod scratch;
mod selfcheck;
mod session;
mod speculate;
mod weights;

pub use answer::{Event, FinishReason, GenerateOptions, Stats};
pub use cache::{KvType, Overflow, SeqId};
pub use engine::{Canceller, Engine, EngineOptions, Step, buffer_bytes};
pub use error::Error;
pub use machine::{Cores, available_memory, default_threads};
pub use model::Model;
pub use nanoinfer_kernels::{Isa, UnknownIsa};
pub use nanoinfer_text::Message;
pub use prefix::{PrefixStore, bake};
pub use profile::{PassStep, Profile};
pub use sample::{Candidate, Sampling};
pub use selfcheck::{NUMERICS, Replay, SelfCheck};
pub use session::{Branch, Session};
pub use speculate::{DraftCosts, DraftStats, Drafted, Drafting, Script};
