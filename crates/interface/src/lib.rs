//! Talking with a model in a terminal.
//!
//! [`chat`] is the conversation on a whole screen, with live telemetry; [`mod@line`] the same through
//! pipes and plain terminals, line by line. [`terminal`] keeps a model's text from steering the
//! terminal it is shown on.
//!
//! What this crate is not: it does not choose models or parse arguments (the binary does), and it
//! computes nothing (the engine does).

pub mod chat;
pub mod line;
pub mod terminal;
