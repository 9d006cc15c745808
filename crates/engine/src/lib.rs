//! Runs a `.nano` model: mapped weights and token ids in, text out.
//!
//! ```text
//!  Model  mapped file, weights bound, tokenizer          opened in milliseconds, nothing is read
//!    └─ Engine  threads, KV cache, scratch                 every buffer allocated once
//!         ├─ forward(batch of (sequence, token)) → logits  prefill and decode are the same call
//!         └─ Sequence  sampler, text stream, stop strings  what it wants in a pass, what came of it
//!              └─ Session  an engine and one sequence      an answer as a stream of events
//! ```
//!
//! A program opens a [`Model`], makes an [`Engine`] of it and starts a [`Session`], whose
//! documentation has an example; one that serves several conversations at once puts the steps of
//! several [`Sequence`]s into a pass; one that samples by itself calls [`Engine::forward`].
//!
//! Logits are the same bits for any number of threads, size of a batch, division of a prompt and
//! instruction set. After the first token of an answer nothing is allocated.
//!
//! What this crate is not: it converts no models (the packer does), has no arithmetic of its own
//! (the kernels have), and knows no terminal.

mod cancel;
mod engine;
mod error;
mod memory;
mod model;
mod pass;
mod pool;
mod prefix;
mod sample;
mod selfcheck;
mod sequence;
mod speculate;

#[doc(hidden)]
pub mod bench;

pub use cancel::Canceller;
pub use engine::{BatchToken, Engine, EngineOptions, PassId, buffer_bytes};
pub use error::Error;
pub use memory::{KvType, Overflow, SeqId};
pub use model::Model;
pub use nanoinfer_kernels::{Isa, UnknownIsa};
pub use nanoinfer_platform::cpu::{Cores, default_threads};
pub use nanoinfer_platform::memory::available as available_memory;
pub use nanoinfer_text::Message;
pub use pass::{Profile, Stage};
pub use prefix::{PrefixStore, bake};
pub use sample::{Candidate, Sampling};
pub use selfcheck::{NUMERICS, Replay, SelfCheck};
pub use sequence::{Engines, Event, FinishReason, GenerateOptions, Sequence, Session, Stats};
pub use speculate::{DraftStats, Drafted, Drafting};
