//! What is determined of a prompt besides the answer to it: pooled hidden states, log-probabilities, or logits.
//!
//! All need rows of a pass that are gone when the next one begins, so they are read after every pass, in the
//! order of their positions. What has been read is kept when a request is preempted: such rows may be taken from
//! the cache then, or computed again, but are not read twice. Rows that were not read are always computed, whatever
//! the cache has. Rows of logits are few, so what comes from them is determined in portions.

use std::ops::Range;

use crate::sample::{Logprobs, TokenLogprob};
use crate::{Canceller, Engine, Error, PassId};

/// How the hidden states of a prompt become one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// That of the last token, which is the only one that has seen the whole prompt.
    #[default]
    Last,
    /// The mean over all tokens, summed in f64 in the order of the prompt.
    Mean,
}

/// What to determine of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PromptOutput {
    /// The hidden states after the final norm, as one vector. Nothing is generated.
    Hidden(Pooling),
    /// The log-probability of every token given those before it, and of this many most likely tokens, at most
    /// [`crate::MAX_TOP_LOGPROBS`]. They precede the answer.
    Logprobs(usize),
    /// The log-probabilities of these tokens after the prompt. Nothing is generated.
    Next(Vec<u32>),
    /// The logits after every token: four bytes for each token of the prompt and of the vocabulary. Nothing is
    /// generated.
    Logits,
}

/// What was determined of a prompt. It has the same bits however the prompt was divided into passes, in any
/// company, with any part of it in the cache.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum PromptValues {
    /// See [`PromptOutput::Hidden`]: `d_model` values.
    Hidden(Vec<f32>),
    /// See [`PromptOutput::Logprobs`].
    Logprobs(PromptLogprobs),
    /// See [`PromptOutput::Next`], in the order of the ids.
    Next(Vec<f32>),
    /// See [`PromptOutput::Logits`]: `vocab_size` values for each token.
    Logits(Vec<f32>),
}

/// Log-probabilities of the tokens of a prompt but the first, which nothing precedes: log-softmax of the raw
/// logits, as for answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptLogprobs {
    tokens: Vec<f32>,
    /// As many for each token.
    top: Vec<TokenLogprob>,
}

impl PromptLogprobs {
    /// The log-probability of each token, with the most likely tokens at its place, most likely first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (f32, &[TokenLogprob])> {
        let n = self.top.len() / self.tokens.len().max(1);
        self.tokens.iter().enumerate().map(move |(i, &token)| (token, &self.top[i * n..][..n]))
    }
}

impl PromptOutput {
    /// Positions of the rows from which it is determined.
    fn rows(&self, prompt: usize) -> Range<usize> {
        let last = prompt.saturating_sub(1);
        match self {
            Self::Hidden(Pooling::Mean) | Self::Logits => 0..prompt,
            Self::Hidden(Pooling::Last) | Self::Next(_) => last..prompt,
            Self::Logprobs(_) => 0..last,
        }
    }

    /// Number of tokens of a prompt that need not be computed if they are in the cache.
    pub(crate) fn reusable(&self, prompt: usize) -> usize {
        self.rows(prompt).start
    }

    /// Whether a request for it generates an answer too.
    pub(crate) fn has_answer(&self) -> bool {
        matches!(self, Self::Logprobs(_))
    }
}

/// A row of logits that is read.
struct Task {
    row: usize,
    token: u32,
    logprobs: Logprobs,
    finite: bool,
}

/// Reads what was requested of a prompt. Allocates when it is made.
pub(super) struct Reader {
    output: PromptOutput,
    /// Positions of the rows that remain to be read.
    rows: Range<usize>,
    sums: Vec<f64>,   // [d_model], for the mean
    tasks: Vec<Task>, // one for each row of a portion
    values: PromptValues,
}

impl Reader {
    pub(super) fn new(output: PromptOutput, prompt: usize, engine: &Engine) -> Self {
        let (rows, config) = (output.rows(prompt), engine.model().config());
        let d = config.d_model as usize;
        let (mut sums, mut tasks) = (Vec::new(), Vec::new());
        let mut prepare = |n, top| {
            let task = || Task { row: 0, token: 0, logprobs: Logprobs::new(top), finite: true };
            tasks.extend(std::iter::repeat_with(task).take(n));
        };
        let values = match &output {
            PromptOutput::Hidden(pooling) => {
                sums = if *pooling == Pooling::Mean { vec![0.0; d] } else { Vec::new() };
                PromptValues::Hidden(Vec::with_capacity(d))
            }
            PromptOutput::Logprobs(top) => {
                let top = (*top).min(crate::MAX_TOP_LOGPROBS);
                prepare(rows.len().min(engine.max_logits()), top);
                let (tokens, top) = (rows.len(), top * rows.len());
                let (tokens, top) = (Vec::with_capacity(tokens), Vec::with_capacity(top));
                PromptValues::Logprobs(PromptLogprobs { tokens, top })
            }
            PromptOutput::Next(ids) => {
                prepare(1, 0);
                PromptValues::Next(Vec::with_capacity(ids.len()))
            }
            PromptOutput::Logits => {
                PromptValues::Logits(Vec::with_capacity(rows.len() * config.vocab_size as usize))
            }
        };
        Self { output, rows, sums, tasks, values }
    }

    /// Number of positions that may be taken from the cache: those before the rows that remain to be read.
    pub(super) fn reusable(&self) -> usize {
        self.rows.start
    }

    /// Number of the context's `tokens` that are worth looking for in the cache: with all but the last, its whole
    /// blocks may include that too.
    pub(super) fn recallable(&self, tokens: usize) -> usize {
        if self.rows.start + 1 >= tokens { tokens } else { self.rows.start }
    }

    /// Whether all rows have been read.
    pub(super) fn is_complete(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn into_values(self) -> PromptValues {
        self.values
    }

    /// Reads the rows of a pass. `placed` are the sequence's tokens in the batch, the last of which is that before
    /// position `end`.
    pub(super) fn read(
        &mut self,
        engine: &mut Engine,
        (pass, placed, end): (PassId, &Range<usize>, usize),
        (tokens, canceller): (&[u32], &Canceller),
    ) -> Result<(), Error> {
        let end_row = self.rows.end.min(end);
        while self.rows.start < end_row && !canceller.is_cancelled() {
            let at = self.rows.start;
            let row = placed.end - (end - at);
            let n = match self.output {
                PromptOutput::Hidden(_) => {
                    self.pool(engine.hidden(pass, row)?);
                    1
                }
                PromptOutput::Logprobs(_) => {
                    let n = self.tasks.len().min(end_row - at);
                    self.score(engine, (pass, row..row + n), &tokens[at + 1..][..n])?;
                    n
                }
                PromptOutput::Next(_) => {
                    self.score_next(engine, (pass, row))?;
                    1
                }
                PromptOutput::Logits => {
                    let n = engine.max_logits().min(end_row - at);
                    self.copy(engine, (pass, row..row + n))?;
                    n
                }
            };
            self.rows.start = at + n;
        }
        Ok(())
    }

    /// Adds a hidden state.
    fn pool(&mut self, hidden: &[f32]) {
        let PromptValues::Hidden(values) = &mut self.values else { return };
        if self.sums.is_empty() {
            values.extend_from_slice(hidden);
            return;
        }
        self.sums.iter_mut().zip(hidden).for_each(|(sum, x)| *sum += f64::from(*x));
        if self.rows.len() == 1 {
            let n = self.rows.end as f64;
            values.extend(self.sums.iter().map(|sum| (sum / n) as f32));
        }
    }

    /// Adds the log-probabilities of the tokens that follow these rows.
    fn score(
        &mut self,
        engine: &mut Engine,
        (pass, rows): (PassId, Range<usize>),
        tokens: &[u32],
    ) -> Result<(), Error> {
        let PromptValues::Logprobs(values) = &mut self.values else { return Ok(()) };
        let tasks = &mut self.tasks[..rows.len()];
        for (row, (task, &token)) in tasks.iter_mut().zip(tokens).enumerate() {
            (task.row, task.token) = (row, token);
        }
        engine.score(pass, rows, tasks, |task, rows, scratch| {
            let Task { row, token, logprobs, finite } = task;
            let mut chosen = 0.0;
            *finite = logprobs.score((rows, *row), &[*token], scratch, |x| chosen = x);
            logprobs.token = chosen;
        })?;
        for task in tasks {
            if !task.finite {
                return Err(engine.not_finite());
            }
            values.tokens.push(task.logprobs.token);
            values.top.extend_from_slice(&task.logprobs.top);
        }
        Ok(())
    }

    /// Adds the logits of these rows.
    fn copy(
        &mut self,
        engine: &mut Engine,
        (pass, rows): (PassId, Range<usize>),
    ) -> Result<(), Error> {
        let PromptValues::Logits(values) = &mut self.values else { return Ok(()) };
        let vocab = engine.model().config().vocab_size as usize;
        let mut tasks = [(values, true)];
        engine.score(pass, rows, &mut tasks, |(values, finite), rows, _| {
            for row in 0..rows.rows {
                let at = values.len();
                values.resize(at + vocab, 0.0); // within its capacity
                *finite &= rows.copy(row, &mut values[at..]).is_some();
            }
        })?;
        if tasks[0].1 { Ok(()) } else { Err(engine.not_finite()) }
    }

    /// Determines the log-probabilities of the requested tokens after a row.
    fn score_next(
        &mut self,
        engine: &mut Engine,
        (pass, row): (PassId, usize),
    ) -> Result<(), Error> {
        let (PromptValues::Next(values), PromptOutput::Next(ids), Some(task)) =
            (&mut self.values, &self.output, self.tasks.first_mut())
        else {
            return Ok(());
        };
        let mut tasks = [(task, values)];
        engine.score(pass, row..row + 1, &mut tasks, |(task, values), rows, scratch| {
            let each = |x| values.push(x);
            task.finite = task.logprobs.score((rows, task.row), ids, scratch, each);
        })?;
        if tasks[0].0.finite { Ok(()) } else { Err(engine.not_finite()) }
    }
}
