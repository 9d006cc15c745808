//! engine

mod cache;
mod engine;
mod error;
mod forward;
mod machine;
mod model;
mod pool;
mod profile;
mod sample;
mod scratch;
mod session;
mod weights;

pub use cache::{KvType, SeqId};
pub use engine::{Canceller, Engine, EngineOptions, Step};
pub use error::Error;
pub use machine::{available_memory, default_threads};
pub use model::Model;
pub use nanoinfer_kernels::{Isa, UnknownIsa};
pub use nanoinfer_text::Message;
pub use profile::{PassStep, Profile};
pub use sample::Sampling;
pub use session::{Event, FinishReason, GenerateOptions, Session, Stats};
