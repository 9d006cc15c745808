//! Runs a `.nano` model: mapped weights and token ids in, text out.
//!
//! ```text
//!  Model  mapped file, weights bound, tokenizer          opens in milliseconds, reads no weights
//!    └─ Engine  threads, KV cache, scratch                 allocates every buffer once
//!         ├─ forward(batch of (sequence, token)) → logits  prefill and decode are the same call
//!         └─ Sequence  sampler, text stream, stop strings  plans its share of a pass, yields events
//!              └─ Batch    schedules many sequences        requests in, their events out
//!                   └─ Session  one conversation           an answer as a stream of events
//! ```
//!
//! Most programs open a [`Model`], create an [`Engine`] and run a [`Session`], whose documentation has an
//! example. To serve several users at once, use a [`Batch`]. To do your own sampling, call [`Engine::forward`].
//!
//! Logits are bit-identical for any number of threads, batch size, prompt split and instruction set.
//! After the first token of an answer, nothing is allocated.
//!
//! Out of scope: converting models (the packer), arithmetic (the kernels), and terminals.
//!
//! The modules, lowest layer first; each imports only those listed above it:
//!
//! ```text
//! pool       threads, barriers, shared buffers
//! memory     the KV cache
//! model      the mapped file, weights, tokenizer
//! sample     from logits to a token
//! pass       one forward pass, as every worker runs it: start at `pass/forward.rs`
//! engine     a model with its threads and cache
//! selfcheck  results recorded when a model was packed
//! prefix     stored keys and values: on disk, or baked into a model
//! speculate  drafts and their verification
//! sequence   one context with its sampler, text stream and drafts
//! batch      many requests at once
//! session    one conversation: a batch with a single sequence
//! ```

mod batch;
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
mod session;
mod speculate;

#[doc(hidden)]
pub mod bench;

pub use batch::{
    Batch, BatchEvent, BatchLogprobs, BatchOptions, Class, Events, Load, Request, RequestId, Seams,
};
pub use cancel::Canceller;
pub use engine::{BatchToken, Engine, EngineOptions, PassId, buffer_bytes};
pub use error::Error;
pub use memory::{BlockUse, KvType, Namespace, Overflow, SeqId};
pub use model::Model;
pub use nanoinfer_kernels::{Isa, UnknownIsa};
pub use nanoinfer_platform::cpu::{Cores, default_threads};
pub use nanoinfer_platform::memory::available as available_memory;
pub use nanoinfer_text::{ChatInput, Content, Message, Part, ToolCall};
pub use pass::{Observed, Profile, Stage};
pub use prefix::{PrefixStore, bake};
pub use sample::{Candidate, Constraint, Logprobs, MAX_TOP_LOGPROBS, Sampling, TokenLogprob};
pub use selfcheck::{NUMERICS, Replay, SelfCheck};
pub use sequence::{
    Difference, Engines, Event, FinishReason, GenerateOptions, Pooling, PromptLogprobs,
    PromptOutput, PromptValues, Sequence, Stats,
};
pub use session::Session;
pub use speculate::{DraftStats, Drafted, Drafting};
