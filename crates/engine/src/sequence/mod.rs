//! One conversation: from a prompt to the events of an answer. A sequence owns no engine and does not
//! schedule: it plans its tokens for the next pass, and turns its rows of logits into events.
//!
//! ```text
//! prompt_… ─► start ─► ┌► plan     tokens for the next pass, if one is needed
//!                      │  passed   the pass is done: which rows belong to this sequence
//!                      │  draw     a token from a row, alongside those of other sequences
//!                      └─ event    the result
//! ```
//!
//! This file has the state and the prompts; `generate` the loop above, `dialogue` what a prompt keeps
//! of the previous one, `answer` options, events and statistics. `engines` is what a sequence runs
//! on, `session` an engine with one sequence.

mod answer;
mod dialogue;
mod engines;
mod generate;
mod session;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nanoinfer_text::{Message, StopMatcher, TextStream};

use crate::sample::Sampler;
use crate::speculate::{Script, Speculator};
use crate::{Canceller, Candidate, Engine, Error, Model, Overflow, PassId, SeqId};
pub use answer::{Event, FinishReason, GenerateOptions, Stats};
use dialogue::Dialogue;
pub use engines::Engines;
pub use session::Session;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No answer requested, or all of it emitted.
    Idle,
    Prefill,
    Decode,
    Ending(FinishReason),
}

/// The next event.
#[derive(Clone, Copy)]
enum Pending {
    Prefill { done: usize, total: usize },
    Token(u32),
    Finished(FinishReason),
}

/// A sequence of an engine, with sampler, text stream and drafts. Its keys and values live in the
/// engine's cache; [`Self::close`] releases them.
#[must_use = "its cache is held until it is closed"]
pub struct Sequence {
    model: Arc<Model>,
    seq: SeqId,
    canceller: Canceller,
    /// The most tokens the context can have.
    limit: usize,
    /// The context: first the cached tokens, then those to be processed.
    tokens: Vec<u32>,
    /// Whether the context ends at the beginning of an answer rather than in the middle of text.
    answer_follows: bool,
    dialogue: Dialogue,
    notes: Vec<String>,
    options: GenerateOptions,
    state: State,
    pending: Option<Pending>,
    sampler: Sampler,
    speculator: Speculator,
    /// Rows of logits requested by the last plan.
    planned: Option<Range<usize>>,
    /// The pass to draw from, and this sequence's first row.
    rows: Option<(PassId, usize)>,
    /// The drawn token, `None` if its logits are not finite, and the time of the draw.
    drawn: Option<(Option<u32>, Duration)>,
    /// Why the answer cannot continue.
    failed: Option<Error>,
    /// The last token's row of logits, and whether the token was new to the context.
    last: Option<((PassId, usize), bool)>,
    stream: Option<TextStream>,
    stop_matcher: Option<StopMatcher>,
    stats: Stats,
    started: Instant,
    passed: Instant,
}

/// The most tokens of a context. A sliding one is unbounded in principle, but its tokens are kept, at
/// four bytes each and four more for lookup.
fn limit(engine: &Engine) -> usize {
    match engine.overflow() {
        Overflow::Stop => engine.ctx(),
        Overflow::Slide => engine.ctx().max(1 << 20),
    }
}

impl fmt::Debug for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sequence")
            .field("seq", &self.seq)
            .field("tokens", &self.tokens.len())
            .field("state", &self.state)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Sequence {
    /// A sequence with an empty context.
    ///
    /// # Errors
    /// All of [`crate::EngineOptions::sequences`] are open.
    pub fn open(engines: &mut Engines) -> Result<Self, Error> {
        let seq = engines.target.open()?;
        Self::with_id(engines, seq)
    }

    fn with_id(engines: &Engines, seq: SeqId) -> Result<Self, Error> {
        let engine = &engines.target;
        let (model, capacity) = (Arc::clone(engine.model()), limit(engine) + 1);
        Ok(Self {
            seq,
            canceller: engine.canceller(seq)?,
            limit: limit(engine),
            tokens: Vec::with_capacity(capacity),
            answer_follows: false,
            dialogue: Dialogue::default(),
            notes: Vec::new(),
            options: GenerateOptions::default(),
            state: State::Idle,
            pending: None,
            sampler: Sampler::new(model.config().vocab_size as usize, capacity),
            speculator: Speculator::new(capacity, model.generation()),
            planned: None,
            rows: None,
            drawn: None,
            failed: None,
            last: None,
            stream: model.vocab_table().map(|v| TextStream::new(v, true)),
            stop_matcher: None,
            stats: Stats::default(),
            started: Instant::now(),
            passed: Instant::now(),
            model,
        })
    }

    /// Copies the context, for several answers to one prompt. Nothing is recomputed, and of the cache
    /// only the block in which the two diverge is copied.
    ///
    /// # Errors
    /// All of [`crate::EngineOptions::sequences`] are open.
    pub fn fork(&mut self, engines: &mut Engines) -> Result<Self, Error> {
        self.end_draws(engines)?;
        let seq = engines.target.fork(self.seq)?;
        let mut fork = Self::with_id(engines, seq)?;
        fork.tokens.extend_from_slice(&self.tokens);
        (fork.answer_follows, fork.dialogue) = (self.answer_follows, self.dialogue.clone());
        fork.stats = self.stats; // marks the answer's tokens
        Ok(fork)
    }

    /// Releases its room in the cache. Full blocks stay available to sequences with the same prefix
    /// until the room is needed.
    ///
    /// # Errors
    /// The engine has failed.
    pub fn close(mut self, engines: &mut Engines) -> Result<(), Error> {
        self.speculator.close(engines.draft_mut());
        engines.target.close(self.seq)
    }

    /// Its id in the engine.
    pub(crate) fn id(&self) -> SeqId {
        self.seq
    }

    /// A handle that stops the answer from any thread: within one layer if no other sequence is in the
    /// pass.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// All tokens of the context, including generated ones.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens generated for the current answer.
    pub fn generated(&self) -> &[u32] {
        &self.tokens[self.tokens.len() - self.stats.generated..]
    }

    /// Counts and times of the current answer.
    pub fn stats(&self) -> Stats {
        Stats { drafts: self.speculator.stats(), ..self.stats }
    }

    /// Returns and clears the notes since the last call: why a stored prompt could not be used or
    /// written, or why the draft model is not drafting.
    pub fn take_notes(&mut self) -> Vec<String> {
        self.notes.extend(self.speculator.take_note());
        std::mem::take(&mut self.notes)
    }

    /// See [`crate::bench::set_script`].
    pub(crate) fn set_script(&mut self, script: Option<Script>) {
        self.speculator.set_script(script);
    }

    /// Tokens of the context with cached keys and values: all but those still to be processed.
    ///
    /// # Errors
    /// The engine is not the one it was opened in, or has failed.
    pub fn cached(&self, engines: &Engines) -> Result<usize, Error> {
        // Between the draws of a pass, the cache also holds drafts that may yet be rejected.
        Ok(engines.target.len(self.seq)?.min(self.tokens.len()))
    }

    /// Stores the cached part of the context, if there is a store that does not have it yet. Failures
    /// become notes.
    pub fn remember(&mut self, engines: &mut Engines) {
        let kept = match self.cached(engines) {
            Ok(cached) => engines.keep(self.seq, &self.tokens[..cached]),
            Err(e) => Err(e.to_string()),
        };
        self.notes.extend(kept.err());
    }

    /// The candidates for the last token: the `n` most likely ones with the model's probabilities,
    /// after penalties, before temperature and filters. Empty before the answer's first token and
    /// after another pass has begun.
    pub fn candidates(&mut self, engines: &mut Engines, n: usize) -> Vec<Candidate> {
        let (Some((row, new)), Some(&id)) = (self.last, self.tokens.last()) else {
            return Vec::new();
        };
        // The penalties at the time of the draw did not include the token itself.
        self.sampler.pop(id, new);
        let candidates = engines.target.top(row, &self.sampler, n);
        self.sampler.push(id);
        candidates
    }

    /// Makes `ids` the context. The longest prefix cached by this sequence, another one of the engine
    /// or a closed one is reused.
    ///
    /// # Errors
    /// A token is not in the vocabulary, or there are too many. The context is then unchanged.
    pub fn prompt_tokens(&mut self, engines: &mut Engines, ids: &[u32]) -> Result<(), Error> {
        self.set_context(engines, ids, 0)?;
        self.dialogue = Dialogue::default();
        Ok(())
    }

    /// Makes plain text the context, to be continued.
    ///
    /// # Errors
    /// The model has no tokenizer, or the text does not fit.
    pub fn prompt_text(&mut self, engines: &mut Engines, text: &str) -> Result<(), Error> {
        let ids = self.model.encode(text)?;
        self.prompt_tokens(engines, &ids)
    }

    /// Makes a conversation the context, to be answered.
    ///
    /// If it continues the conversation in the context, existing tokens are kept, including those of
    /// answers, and only the template's additions are tokenized.
    ///
    /// # Errors
    /// The model has no chat template, the template rejects the conversation, or it does not fit. The
    /// context is then unchanged.
    pub fn prompt_chat(
        &mut self,
        engines: &mut Engines,
        messages: &[Message],
    ) -> Result<(), Error> {
        let text = self.model.chat_text(messages)?;
        let (answer, end) = self.answer();
        let (kept, new) = self.dialogue.next(self.model.tokenizer()?, &text, &answer, end);
        let ids = [&self.tokens[..kept], &new].concat();
        let pinned = match engines.target.overflow() {
            Overflow::Stop => 0,
            Overflow::Slide => {
                let system = messages.iter().take_while(|m| m.role == "system").count();
                self.model.before_conversation(&messages[..system])?.len()
            }
        };
        self.set_context(engines, &ids, pinned)?;
        self.dialogue.advance(text, &answer, end, ids.len());
        self.answer_follows = true;
        Ok(())
    }

    /// Makes `ids` the context and pins the first `pinned` of them against sliding.
    fn set_context(
        &mut self,
        engines: &mut Engines,
        ids: &[u32],
        pinned: usize,
    ) -> Result<(), Error> {
        let vocab = self.model.config().vocab_size;
        if let Some(&token) = ids.iter().find(|&&id| id >= vocab) {
            return Err(Error::Token { token, vocab });
        }
        if ids.len() > self.limit {
            return Err(Error::Context { tokens: ids.len(), ctx: self.limit });
        }
        let common = self.tokens.iter().zip(ids).take_while(|(a, b)| a == b).count();
        self.end_draws(engines)?;
        engines.target.truncate(self.seq, common)?;
        engines.recall(self.seq, ids, &mut self.notes)?;
        engines.target.pin(self.seq, pinned)?;
        self.speculator.truncate(&self.tokens, common, engines.draft_mut());
        self.speculator.pin(pinned, engines.draft_mut());
        self.tokens.clear();
        self.tokens.extend_from_slice(ids);
        self.answer_follows = false;
        self.stop(None);
        (self.last, self.stats) = (None, Stats::default());
        Ok(())
    }

    /// The current answer's text and its end in the context: before the end-of-answer token, which
    /// the template renders itself.
    fn answer(&self) -> (String, usize) {
        let (Some(table), Some(vocab)) = (self.model.vocab_table(), self.model.vocab()) else {
            return (String::new(), self.tokens.len());
        };
        let eos = &self.model.generation().eos;
        let ended = self.generated().last().is_some_and(|id| eos.contains(id));
        let mut stream = TextStream::new(table, true);
        let mut text = String::new();
        for id in self.generated() {
            text.push_str(stream.push(&vocab, *id));
        }
        text.push_str(stream.finish());
        (text, self.tokens.len() - usize::from(ended))
    }

    /// Stops, with at most the reason left to report.
    fn stop(&mut self, reason: Option<FinishReason>) {
        self.state = State::Idle;
        self.pending = reason.map(Pending::Finished);
        (self.rows, self.drawn, self.failed) = (None, None, None);
    }

    /// Ends the draws from the last pass: drops drafts from the cache.
    fn end_draws(&mut self, engines: &mut Engines) -> Result<(), Error> {
        if self.speculator.row().is_some() {
            let cached = self.tokens.len().saturating_sub(1);
            engines.target.truncate(self.seq, cached)?;
            self.speculator.end(cached, engines.draft_mut());
        }
        Ok(())
    }
}
