//! Conversations with a model in a terminal.
//!
//! [`chat`] is a full-screen conversation with live telemetry; [`mod@line`] is a line-by-line
//! conversation, for pipes and plain terminals. [`terminal`] keeps model output from controlling the
//! terminal.
//!
//! Choosing models and parsing arguments are left to the binary, and computing to the engine.

pub mod chat;
pub mod line;
mod seed;
mod shorten;
pub mod terminal;

pub use seed::random_seed;
