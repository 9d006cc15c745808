//! Options of an answer, the events it yields, and its statistics.

use std::time::Duration;

use crate::{DraftStats, Drafting, Sampling};

/// Options of an answer.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// The most tokens to generate; `None` = until the model stops or the context is full.
    pub max_tokens: Option<usize>,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// The answer ends before the first of these strings.
    pub stop: Vec<String>,
    /// Do not stop at the model's end-of-answer tokens.
    pub ignore_eos: bool,
    /// Speculative decoding: affects speed, never the tokens.
    pub drafting: Drafting,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended it, or a stop string occurred.
    Stop,
    /// [`GenerateOptions::max_tokens`] was reached.
    Length,
    /// The context is full.
    Context,
    /// It was cancelled.
    Cancelled,
}

impl FinishReason {
    /// `stop`, `length`, `context` or `cancelled`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Context => "context",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The result of one [`crate::Session::next`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'s> {
    /// A part of the prompt was processed.
    Prefill {
        /// Tokens processed so far.
        done: usize,
        /// Tokens to process, cached ones excluded.
        total: usize,
    },
    /// A token was generated.
    Token {
        /// Its id.
        id: u32,
        /// Text that is now certain: whole characters, no prefix of a stop string. May be empty.
        text: &'s str,
        /// The same as exact bytes: partial characters without delay, invalid ones unchanged.
        bytes: &'s [u8],
    },
    /// The answer is complete.
    Finished {
        /// The reason.
        reason: FinishReason,
        /// Text that was held back.
        text: &'s str,
        /// The same as exact bytes, without those already emitted.
        bytes: &'s [u8],
    },
}

impl Event<'_> {
    /// New text of the answer; empty while the prompt is processed.
    pub fn text(&self) -> &str {
        match self {
            Self::Prefill { .. } => "",
            Self::Token { text, .. } | Self::Finished { text, .. } => text,
        }
    }
}

/// Counts and times of the current answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Tokens of the context when the answer began.
    pub prompt_tokens: usize,
    /// Those that were already cached.
    pub reused_tokens: usize,
    /// Tokens generated.
    pub generated: usize,
    /// Time from the start to the end of prefill.
    pub prefill: Duration,
    /// Time from the start to the first token.
    pub first_token: Duration,
    /// Time from the first token to the last.
    pub decode: Duration,
    /// Speculative decoding.
    pub drafts: DraftStats,
}

impl Stats {
    /// Prompt tokens processed per second.
    pub fn prefill_tps(&self) -> f64 {
        rate(self.prompt_tokens - self.reused_tokens, self.prefill)
    }

    /// Tokens per second after the first.
    pub fn decode_tps(&self) -> f64 {
        rate(self.generated.saturating_sub(1), self.decode)
    }
}

fn rate(n: usize, time: Duration) -> f64 {
    if n == 0 || time.is_zero() { 0.0 } else { n as f64 / time.as_secs_f64() }
}
