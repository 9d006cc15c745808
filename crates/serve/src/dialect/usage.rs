//! Counts of tokens, and what the cache had of a prompt.

use nanoinfer_engine::Stats;
use serde::Serialize;
use serde_json::{Value, json};

use super::call::Meta;
use crate::core::answer::{Answer, Reason};
use crate::core::model::ServedModel;

/// The sums over the choices of a request. The prompt of choices with the same prompt counts once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) prompt: usize,
    pub(crate) cached: usize,
    pub(crate) generated: usize,
}

impl Totals {
    /// Adds a choice, of `n` for its prompt.
    pub(crate) fn add(&mut self, choice: usize, n: usize, stats: &Stats) {
        self.generated += stats.generated;
        if choice.is_multiple_of(n) {
            self.prompt += stats.prompt_tokens;
            self.cached += stats.reused_tokens;
        }
    }

    /// The sums of whole answers.
    pub(crate) fn of(answers: &[Answer], n: usize) -> Self {
        let mut totals = Self::default();
        answers.iter().enumerate().for_each(|(i, answer)| totals.add(i, n, &answer.stats));
        totals
    }

    /// In OpenAI's form.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt,
            completion_tokens: self.generated,
            total_tokens: self.prompt + self.generated,
            prompt_tokens_details: Details { cached_tokens: self.cached },
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: Details,
}

#[derive(Debug, Serialize)]
struct Details {
    cached_tokens: usize,
}

/// What only this server says about an answer: how much of the prompt was computed, where it differs from the
/// most similar one in the cache, and why the answer ended.
pub(crate) fn remarks(served: &ServedModel, meta: &Meta, stats: &Stats, reason: Reason) -> Value {
    let mut remarks = json!({
        "seed": meta.seed,
        "computed": stats.prompt_tokens - stats.reused_tokens,
        "cached": stats.reused_tokens,
    });
    if let Some(differs) = stats.differs.filter(|_| meta.shows_cache) {
        remarks["differs_at"] = differs.at.into();
        remarks["was"] = served.token(differs.cached).0.into();
        remarks["is"] = served.token(differs.token).0.into();
    }
    if let Some(note) = reason.note() {
        remarks["ended"] = note.into();
    }
    remarks
}
