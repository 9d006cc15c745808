//! One conversation: from a prompt to the events of an answer. A sequence neither owns an engine nor
//! schedules passes: it plans its tokens for the next pass and turns its rows of logits into events.
//!
//! ```text
//! prompt_… ─► start ─► ┌► plan     tokens for the next pass, if one is needed
//!                      │  passed   the pass is done: which rows belong to this sequence
//!                      │  draw     a token from a row, alongside those of other sequences
//!                      └─ event    the result
//! ```
//!
//! This file contains the state and the prompts, and `generate` contains the loop above. `dialogue`
//! determines which tokens a prompt keeps from the previous one. `answer` has options, events and
//! statistics. `readout` is what can be determined of a prompt besides. `schedule` has what a [`crate::Batch`] requires. `engines` is what a sequence runs on; `session` is an engine with one sequence.

mod answer;
mod dialogue;
mod engines;
mod generate;
mod readout;
mod reasoning;
mod schedule;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nanoinfer_text::{Message, StopMatcher, TextStream};

use crate::sample::{Constraint, Drawn, Logprobs, Sampler};
use crate::speculate::{Script, Speculator};
use crate::{Canceller, Candidate, Engine, Error, Model, Namespace, Overflow, PassId, SeqId};
pub use answer::{Difference, Event, FinishReason, GenerateOptions, Stats};
use dialogue::Dialogue;
pub use engines::Engines;
pub(crate) use generate::check_bias;
use readout::Reader;
pub use readout::{Pooling, PromptLogprobs, PromptOutput, PromptValues};
use reasoning::ReasoningLimit;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No answer was requested, or all of it was emitted.
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

/// A sequence of an engine, with a sampler, a text stream and drafts. Its keys and values live in the
/// engine's cache; [`Self::close`] releases them.
#[must_use = "a sequence holds its cache until it is closed"]
pub struct Sequence {
    model: Arc<Model>,
    seq: SeqId,
    namespace: Namespace,
    canceller: Canceller,
    /// Maximum number of tokens in the context.
    limit: usize,
    /// The context: first the cached tokens, then the unprocessed ones.
    tokens: Vec<u32>,
    /// Whether the context ends at the beginning of an answer rather than in the middle of text.
    answer_follows: bool,
    dialogue: Dialogue,
    notes: Vec<String>,
    /// Whether a note has said that the template has no system role.
    said_system_moved: bool,
    options: GenerateOptions,
    state: State,
    pending: Option<Pending>,
    sampler: Sampler,
    /// Those of the last token, if requested.
    logprobs: Option<Logprobs>,
    constraint: Option<Box<dyn Constraint>>,
    /// What remains to be determined of the prompt.
    reader: Option<Reader>,
    speculator: Speculator,
    /// The tokens in the batch of the last plan.
    placed: Range<usize>,
    /// Rows of logits requested by the last plan.
    planned: Option<Range<usize>>,
    /// The pass to draw from, and this sequence's first row.
    rows: Option<(PassId, usize)>,
    /// The result of the draw, and the time it took.
    drawn: Option<(Drawn, Duration)>,
    /// Why the answer cannot continue.
    failed: Option<Error>,
    /// The last token's row of logits, and whether the token was new to the context.
    last: Option<((PassId, usize), bool)>,
    stream: Option<TextStream>,
    stop_matcher: Option<StopMatcher>,
    stats: Stats,
    /// Number of tokens cached when the prefill in progress began.
    prefilled_from: usize,
    started: Instant,
    passed: Instant,
}

/// The note on a chat template without a system role.
const SYSTEM_MOVED: &str = "the chat template has no system role: the system message was put before the first user message";

/// Maximum number of tokens in a context. A sliding context is unbounded in principle, but all of its
/// tokens are kept: four bytes each, and four more for lookup.
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
    /// Opens a sequence with an empty context.
    ///
    /// # Errors
    /// [`crate::EngineOptions::sequences`] sequences are already open.
    pub fn open(engines: &mut Engines) -> Result<Self, Error> {
        let seq = engines.target.open()?;
        Self::with_id(engines, seq, usize::MAX)
    }

    /// Wraps an open sequence of the engine, with buffers for up to `tokens` tokens, or for a full
    /// context if that is less.
    fn with_id(engines: &Engines, seq: SeqId, tokens: usize) -> Result<Self, Error> {
        let engine = &engines.target;
        let (model, limit) = (Arc::clone(engine.model()), limit(engine));
        let capacity = limit.min(tokens) + 1;
        Ok(Self {
            seq,
            namespace: engine.namespace(seq)?,
            canceller: engine.canceller(seq)?,
            limit,
            tokens: Vec::with_capacity(capacity),
            answer_follows: false,
            dialogue: Dialogue::default(),
            notes: Vec::new(),
            said_system_moved: false,
            options: GenerateOptions::default(),
            state: State::Idle,
            pending: None,
            sampler: Sampler::new(model.config().vocab_size as usize, capacity),
            logprobs: None,
            constraint: None,
            reader: None,
            speculator: Speculator::new(capacity, model.generation()),
            placed: 0..0,
            planned: None,
            rows: None,
            drawn: None,
            failed: None,
            last: None,
            stream: model.vocab_table().map(|v| TextStream::new(v, true)),
            stop_matcher: None,
            stats: Stats::default(),
            prefilled_from: 0,
            started: Instant::now(),
            passed: Instant::now(),
            model,
        })
    }

    /// Copies the context, to allow several answers to one prompt. Nothing is recomputed, and the only
    /// cache block copied is the one in which the two sequences diverge.
    ///
    /// # Errors
    /// [`crate::EngineOptions::sequences`] sequences are already open.
    pub fn fork(&mut self, engines: &mut Engines) -> Result<Self, Error> {
        self.end_draws(engines)?;
        let seq = engines.target.fork(self.seq)?;
        let mut fork = Self::with_id(engines, seq, usize::MAX)?;
        fork.tokens.extend_from_slice(&self.tokens);
        (fork.answer_follows, fork.dialogue) = (self.answer_follows, self.dialogue.clone());
        fork.stats = self.stats; // locates the answer's tokens
        Ok(fork)
    }

    /// Releases the sequence's space in the cache. Full blocks stay available to sequences with the same
    /// prefix until the space is needed.
    ///
    /// # Errors
    /// The engine has failed.
    pub fn close(mut self, engines: &mut Engines) -> Result<(), Error> {
        self.speculator.close(engines.draft_mut());
        engines.target.close(self.seq)
    }

    /// The sequence's id in the engine.
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

    /// Counts and timings of the current answer.
    pub fn stats(&self) -> Stats {
        Stats { drafts: self.speculator.stats(), ..self.stats }
    }

    /// Returns and clears the notes since the last call: why a stored prompt could not be used or
    /// written, why the draft model is not drafting, or where the system message is if the chat template
    /// has no place for it.
    pub fn take_notes(&mut self) -> Vec<String> {
        self.notes.extend(self.speculator.take_note());
        std::mem::take(&mut self.notes)
    }

    /// See [`crate::bench::set_script`].
    pub(crate) fn set_script(&mut self, script: Option<Script>) {
        self.speculator.set_script(script);
    }

    /// Number of context tokens with cached keys and values: all but the unprocessed ones.
    ///
    /// # Errors
    /// The sequence was not opened in this engine, or the engine has failed.
    pub fn cached(&self, engines: &Engines) -> Result<usize, Error> {
        // Between the draws of a pass, the cache also holds drafts that may yet be rejected.
        Ok(engines.target.len(self.seq)?.min(self.tokens.len()))
    }

    /// Saves the cached part of the context, if a store is set and does not contain it yet. Failures
    /// become notes.
    pub fn remember(&mut self, engines: &mut Engines) {
        let kept = match self.cached(engines) {
            Ok(cached) => engines.keep(self.seq, &self.tokens[..cached]),
            Err(e) => Err(e.to_string()),
        };
        self.notes.extend(kept.err());
    }

    /// The `n` most likely candidates for the last token, with the model's probabilities after penalties
    /// but before temperature and filters. Empty before the answer's first token and after another pass
    /// has begun.
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

    /// Restricts the tokens of the current answer, besides [`GenerateOptions::max_reasoning`]. Call this after
    /// [`Self::start`], before a token is drawn.
    pub fn set_constraint(&mut self, constraint: Box<dyn Constraint>) {
        self.constraint = Some(match self.reasoning_limit() {
            Some(limit) => Box::new(limit.with(constraint)),
            None => constraint,
        });
    }

    /// The limit on the reasoning of an answer that has no token yet.
    fn reasoning_limit(&self) -> Option<ReasoningLimit> {
        let most = self.options.max_reasoning?;
        ReasoningLimit::new(&self.model.answer_format(), &self.tokens, most)
    }

    /// The log-probabilities of the last token, if [`GenerateOptions::logprobs`] requests them. They have
    /// the same bits however the token was computed.
    pub fn logprobs(&self) -> Option<&Logprobs> {
        self.logprobs.as_ref().filter(|_| self.stats.generated > 0)
    }

    /// Sets the context to `ids`. The longest prefix cached by this sequence, another open one or a
    /// closed one is reused.
    ///
    /// # Errors
    /// A token is not in the vocabulary, or there are too many tokens. The context is then unchanged.
    pub fn prompt_tokens(&mut self, engines: &mut Engines, ids: &[u32]) -> Result<(), Error> {
        self.set_context(engines, ids, 0)?;
        self.dialogue = Dialogue::default();
        Ok(())
    }

    /// Sets the context to plain text, to be continued.
    ///
    /// # Errors
    /// The model has no tokenizer, or the text does not fit.
    pub fn prompt_text(&mut self, engines: &mut Engines, text: &str) -> Result<(), Error> {
        let ids = self.model.encode(text)?;
        self.prompt_tokens(engines, &ids)
    }

    /// Sets the context to a conversation, to be answered.
    ///
    /// If it continues the conversation already in the context, existing tokens are kept, including those
    /// of answers, and only the text after them is tokenized.
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
        if text.system_moved() && !std::mem::replace(&mut self.said_system_moved, true) {
            self.notes.push(SYSTEM_MOVED.to_owned());
        }
        self.dialogue.advance(text, &answer, end, ids.len());
        self.answer_follows = true;
        Ok(())
    }

    /// Sets the context to `ids` and pins the first `pinned` of them, so that they remain when it slides.
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
            let trained = self.model.config().context_length as usize;
            return Err(Error::Prompt { tokens: ids.len(), ctx: self.limit, trained });
        }
        let common = self.tokens.iter().zip(ids).take_while(|(a, b)| a == b).count();
        self.end_draws(engines)?;
        engines.target.truncate(self.seq, common)?;
        let differs = engines.target.difference(self.seq, ids)?;
        self.recall(engines, ids)?;
        engines.target.pin(self.seq, pinned)?;
        self.speculator.truncate(&self.tokens, common, engines.draft_mut());
        self.speculator.pin(pinned, engines.draft_mut());
        self.tokens.clear();
        self.tokens.extend_from_slice(ids);
        self.answer_follows = false;
        self.stop(None);
        let differs = differs.map(|(at, cached)| Difference { at, cached, token: ids[at] });
        (self.last, self.stats) = (None, Stats { differs, ..Stats::default() });
        Ok(())
    }

    /// Extends the cached part of the context, of which `ids` are the tokens, with what was computed earlier.
    fn recall(&mut self, engines: &mut Engines, ids: &[u32]) -> Result<(), Error> {
        match self.reader.as_ref().map_or(ids.len(), |reader| reader.recallable(ids.len())) {
            0 => Ok(()),
            n => engines.recall(self.seq, &ids[..n], &mut self.notes),
        }
    }

    /// The current answer's text and the index in the context at which it ends: before the end-of-answer
    /// token, which is rendered by the template, or a stop token.
    fn answer(&self) -> (String, usize) {
        let (Some(table), Some(vocab)) = (self.model.vocab_table(), self.model.vocab()) else {
            return (String::new(), self.tokens.len());
        };
        let (eos, stops) = (&self.model.generation().eos, &self.options.stop_tokens);
        let ends = |id: &u32| eos.contains(id) || stops.contains(id);
        let ended = self.generated().last().is_some_and(ends);
        let said = self.stats.generated - usize::from(ended);
        let mut stream = TextStream::new(table, true);
        let mut text = String::new();
        for id in &self.generated()[..said] {
            text.push_str(stream.push(&vocab, *id));
        }
        text.push_str(stream.finish());
        (text, self.tokens.len() - usize::from(ended))
    }

    /// Stops; only the `reason`, if any, remains to be reported.
    fn stop(&mut self, reason: Option<FinishReason>) {
        self.state = State::Idle;
        self.pending = reason.map(Pending::Finished);
        (self.rows, self.drawn, self.failed) = (None, None, None);
    }

    /// Ends the draws from the last pass, and removes the draft from the cache.
    fn end_draws(&mut self, engines: &mut Engines) -> Result<(), Error> {
        if self.speculator.row().is_some() {
            let cached = self.tokens.len().saturating_sub(1);
            engines.target.truncate(self.seq, cached)?;
            self.speculator.end(cached, engines.draft_mut());
        }
        Ok(())
    }
}
