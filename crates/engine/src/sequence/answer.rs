//! Options of an answer, the events it yields, and its statistics.

use std::time::Duration;

use super::readout::PromptValues;
use crate::{DraftStats, Drafting, Sampling};

/// Options of an answer.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// Maximum number of tokens to generate; `None` = until the model stops or the context is full.
    pub max_tokens: Option<usize>,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// The answer ends before the first occurrence of any of these strings.
    pub stop: Vec<String>,
    /// The answer also ends at any of these tokens, which yield no text.
    pub stop_tokens: Vec<u32>,
    /// Do not stop at the model's end-of-answer tokens.
    pub ignore_eos: bool,
    /// Added to the logits of these tokens before penalties and temperature, at most ±10⁶: −100 practically
    /// bans a token, 100 practically forces it.
    pub logit_bias: Vec<(u32, f32)>,
    /// Whether to determine the log-probability of each token, and of this many most likely tokens, at
    /// most [`crate::MAX_TOP_LOGPROBS`].
    pub logprobs: Option<usize>,
    /// Maximum number of tokens of reasoning, after which only its end can follow, if the model has tokens for both
    /// ends. It has no effect if a constraint on the answer does not allow that end.
    pub max_reasoning: Option<usize>,
    /// Speculative decoding: affects speed, never the tokens.
    pub drafting: Drafting,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended the answer, or a stop string or stop token occurred.
    Stop,
    /// [`GenerateOptions::max_tokens`] was reached.
    Length,
    /// The context is full.
    Context,
    /// The answer was cancelled.
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
    /// Part of the prompt was processed.
    Prefill {
        /// Tokens processed so far.
        done: usize,
        /// Tokens to process, excluding cached ones.
        total: usize,
    },
    /// What was determined of the prompt. Only requests of a [`crate::Batch`] have this event.
    Prompt {
        /// See [`crate::PromptOutput`].
        values: &'s PromptValues,
    },
    /// A token was generated.
    Token {
        /// Its id.
        id: u32,
        /// Text that is now final: whole characters, and no possible beginning of a stop string. May be
        /// empty.
        text: &'s str,
        /// The same as raw bytes: partial characters are not delayed, and invalid ones are unchanged.
        bytes: &'s [u8],
    },
    /// The answer is complete.
    Finished {
        /// The reason.
        reason: FinishReason,
        /// Text held back until now.
        text: &'s str,
        /// The same as raw bytes, excluding those already emitted.
        bytes: &'s [u8],
    },
}

impl Event<'_> {
    /// New text of the answer; empty while the prompt is being processed.
    pub fn text(&self) -> &str {
        match self {
            Self::Prefill { .. } | Self::Prompt { .. } => "",
            Self::Token { text, .. } | Self::Finished { text, .. } => text,
        }
    }
}

/// Where a prompt differs from the most similar one in the cache, so that it could reuse no more of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Number of equal tokens before it.
    pub at: usize,
    /// The token of the cached prompt.
    pub cached: u32,
    /// The token of this prompt.
    pub token: u32,
}

/// Counts and timings of the current answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Tokens in the context when the answer began.
    pub prompt_tokens: usize,
    /// Prompt tokens that were already cached.
    pub reused_tokens: usize,
    /// Where the prompt differs from the most similar one in the cache; `None` if nothing in the cache
    /// begins alike and then differs.
    pub differs: Option<Difference>,
    /// Tokens generated.
    pub generated: usize,
    /// Time from the start to the end of prefill.
    pub prefill: Duration,
    /// Time from the start to the first token.
    pub first_token: Duration,
    /// Time from the first token to the last.
    pub decode: Duration,
    /// Speculative decoding statistics.
    pub drafts: DraftStats,
}

impl Stats {
    /// Prompt tokens processed per second.
    pub fn prefill_tps(&self) -> f64 {
        rate(self.prompt_tokens - self.reused_tokens, self.prefill)
    }

    /// Tokens generated per second, after the first one.
    pub fn decode_tps(&self) -> f64 {
        rate(self.generated.saturating_sub(1), self.decode)
    }
}

fn rate(n: usize, time: Duration) -> f64 {
    if n == 0 || time.is_zero() { 0.0 } else { n as f64 / time.as_secs_f64() }
}
