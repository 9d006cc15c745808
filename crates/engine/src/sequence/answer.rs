//! What an answer should be, what is told while it comes, and what it took.

use std::time::Duration;

use crate::{DraftStats, Drafting, Sampling};

/// What an answer should be like.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// Tokens to generate at most; `None` = until the model ends or the context is full.
    pub max_tokens: Option<usize>,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// The answer ends before any of these strings.
    pub stop: Vec<String>,
    /// Do not stop at the model's end-of-answer tokens.
    pub ignore_eos: bool,
    /// What may be drafted: changes speed, never a token.
    pub drafting: Drafting,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended it, or a stop string came.
    Stop,
    /// `max_tokens` were generated.
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

/// What happened in one [`crate::Session::next`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'s> {
    /// A part of the prompt was processed.
    Prefill {
        /// Tokens processed so far.
        done: usize,
        /// Tokens to process; what was cached does not count.
        total: usize,
    },
    /// A token was generated.
    Token {
        /// Its id.
        id: u32,
        /// Text that is certain now: whole characters, no beginning of a stop string. May be empty.
        text: &'s str,
        /// The same as exact bytes: half characters at once, invalid ones as they are.
        bytes: &'s [u8],
    },
    /// The answer is complete.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Text that was held back.
        text: &'s str,
        /// The same as exact bytes, those given already left out.
        bytes: &'s [u8],
    },
}

/// Counts and times of the current answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Tokens of the context when the answer began.
    pub prompt_tokens: usize,
    /// Those of them that were cached already.
    pub reused_tokens: usize,
    /// Tokens generated.
    pub generated: usize,
    /// Time from the start to the end of the prompt.
    pub prefill: Duration,
    /// Time from the start to the first token.
    pub first_token: Duration,
    /// Time from the first token to the last.
    pub decode: Duration,
    /// What drafting did.
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
