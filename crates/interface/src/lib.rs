//! Conversations with a model in a terminal.
//!
//! [`chat`] is a full-screen conversation with live telemetry; [`mod@line`] works line by line,
//! through pipes and on plain terminals. [`terminal`] keeps model output from controlling the
//! terminal.
//!
//! This crate does not choose models or parse arguments (the binary does) and does not compute (the
//! engine does).

pub mod chat;
pub mod line;
pub mod terminal;
