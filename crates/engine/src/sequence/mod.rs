//! One conversation: from a prompt to the events of an answer. It owns no engine and decides nothing
//! about others: it says which steps it wants in the next pass, and makes events of its rows.
//!
//! ```text
//! prompt_… ─► start ─► ┌► plan     steps for the next pass, if it needs one
//!                      │  passed   the pass is done: these rows are its own
//!                      │  draw     a token from a row, beside those of other sequences
//!                      └─ event    what came of it
//! ```

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
    /// Nothing asked for, or everything said.
    Idle,
    Prefill,
    Decode,
    Ending(FinishReason),
}

/// What is to be said next.
#[derive(Clone, Copy)]
enum Pending {
    Prefill { done: usize, total: usize },
    Token(u32),
    Finished(FinishReason),
}

/// A sequence of an engine, with sampler, text stream and drafts. Its keys and values live in the
/// engine: close it ([`Self::close`]) to give that room back.
#[must_use = "its cache is held until it is closed"]
pub struct Sequence {
    model: Arc<Model>,
    seq: SeqId,
    canceller: Canceller,
    /// The most tokens the context can have.
    limit: usize,
    /// The context: what is cached, then what is to be processed.
    tokens: Vec<u32>,
    /// The context ends where an answer begins, not in the middle of a text.
    answer_follows: bool,
    dialogue: Dialogue,
    notes: Vec<String>,
    options: GenerateOptions,
    state: State,
    pending: Option<Pending>,
    sampler: Sampler,
    speculator: Speculator,
    /// Of the steps that it planned last: the rows of logits that they want.
    planned: Range<usize>,
    /// The pass with the rows that tokens are drawn from, and the first of these.
    rows: Option<(PassId, usize)>,
    /// The token a worker drew, `None` if its logits are not finite, and how long that took.
    drawn: Option<(Option<u32>, Duration)>,
    /// Why it cannot go on.
    failed: Option<Error>,
    /// Where the last token came from, and whether it was new to the context.
    last: Option<((PassId, usize), bool)>,
    stream: Option<TextStream>,
    stop: Option<StopMatcher>,
    stats: Stats,
    started: Instant,
    passed: Instant,
}

/// Tokens that a context can have. One that slides could go on for ever, but its tokens are kept:
/// four bytes each, and as many for looking them up.
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
        Self::of(engines, seq)
    }

    fn of(engines: &Engines, seq: SeqId) -> Result<Self, Error> {
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
            planned: 0..0,
            rows: None,
            drawn: None,
            failed: None,
            last: None,
            stream: model.vocab_table().map(|v| TextStream::new(v, true)),
            stop: None,
            stats: Stats::default(),
            started: Instant::now(),
            passed: Instant::now(),
            model,
        })
    }

    /// A copy of the context, to be continued in another way: one prompt, several answers. Nothing is
    /// computed again, and nothing copied but the block of the cache in which they part.
    ///
    /// # Errors
    /// All of [`crate::EngineOptions::sequences`] are open.
    pub fn fork(&mut self, engines: &mut Engines) -> Result<Self, Error> {
        self.end_draws(engines)?;
        let seq = engines.target.fork(self.seq)?;
        let mut fork = Self::of(engines, seq)?;
        fork.tokens.extend_from_slice(&self.tokens);
        (fork.answer_follows, fork.dialogue) = (self.answer_follows, self.dialogue.clone());
        fork.stats = self.stats; // which of the tokens are an answer
        Ok(fork)
    }

    /// Gives its room in the cache back. What it computed is kept for sequences that begin alike,
    /// until the room is needed.
    ///
    /// # Errors
    /// The engine cannot be used any more.
    pub fn close(mut self, engines: &mut Engines) -> Result<(), Error> {
        self.speculator.close(engines.draft_mut());
        engines.target.close(self.seq)
    }

    /// Its sequence in the engine.
    pub(crate) fn id(&self) -> SeqId {
        self.seq
    }

    /// A handle that stops the answer from any thread, within a layer's time if no other sequence is
    /// in the pass.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// All tokens of the context, generated ones included.
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

    /// Why something that was stored could not be used, or not be stored, or why the draft model does
    /// not draft, since the last call.
    pub fn take_notes(&mut self) -> Vec<String> {
        self.notes.extend(self.speculator.take_note());
        std::mem::take(&mut self.notes)
    }

    /// See [`crate::bench::set_script`].
    pub(crate) fn set_script(&mut self, script: Option<Script>) {
        self.speculator.set_script(script);
    }

    /// Tokens of the context whose keys and values are cached: all but what is to be processed.
    ///
    /// # Errors
    /// The engine is not the one it was opened in, or cannot be used any more.
    pub fn cached(&self, engines: &Engines) -> Result<usize, Error> {
        // During a pass's draws the cache also holds drafts that may yet be rejected.
        Ok(engines.target.len(self.seq)?.min(self.tokens.len()))
    }

    /// Keeps what is cached of the context in the store, if there is one and it does not hold it
    /// yet. What goes wrong becomes a note.
    pub fn remember(&mut self, engines: &mut Engines) {
        let kept = match self.cached(engines) {
            Ok(cached) => engines.keep(self.seq, &self.tokens[..cached]),
            Err(e) => Err(e.to_string()),
        };
        self.notes.extend(kept.err());
    }

    /// What the last token was chosen from: the `n` most likely tokens with the probabilities that
    /// the model gave them, penalties applied, temperature and filters not. Empty before the
    /// answer's first token, and once another pass has begun.
    pub fn candidates(&mut self, engines: &mut Engines, n: usize) -> Vec<Candidate> {
        let (Some((row, new)), Some(&id)) = (self.last, self.tokens.last()) else {
            return Vec::new();
        };
        // Penalties as they were: without the token itself.
        self.sampler.pop(id, new);
        let candidates = engines.target.top(row, &self.sampler, n);
        self.sampler.push(id);
        candidates
    }

    /// Makes `ids` the context. The longest common prefix with the present one stays cached, or
    /// what another sequence of the engine has, or a closed one had, if that is more.
    ///
    /// # Errors
    /// A token is not in the vocabulary, or there are too many. The context is as before then.
    pub fn prompt_tokens(&mut self, engines: &mut Engines, ids: &[u32]) -> Result<(), Error> {
        self.set_context(engines, ids, 0)?;
        self.dialogue = Dialogue::default();
        Ok(())
    }

    /// Makes a raw text the context, to be continued.
    ///
    /// # Errors
    /// The model has no tokenizer, or the text does not fit.
    pub fn prompt_text(&mut self, engines: &mut Engines, text: &str) -> Result<(), Error> {
        let ids = self.model.encode(text)?;
        self.prompt_tokens(engines, &ids)
    }

    /// Makes a conversation the context, to be answered.
    ///
    /// If it goes on from the one in the context, the tokens of that stay as they are, those of
    /// answers too, and only what the template adds is tokenized.
    ///
    /// # Errors
    /// The model has no chat template, the template refuses the conversation, or it does not fit.
    /// The context is as before then.
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

    /// Makes `ids` the context, of which `pinned` stay in sight if it slides.
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
        self.rest(None);
        (self.last, self.stats) = (None, Stats::default());
        Ok(())
    }

    /// The text of the present answer, and where in the context it ends: before the token that
    /// said so, which the template will write itself.
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

    /// Stops; only the reason, if any, is left to report.
    fn rest(&mut self, reason: Option<FinishReason>) {
        self.state = State::Idle;
        self.pending = reason.map(Pending::Finished);
        (self.rows, self.drawn, self.failed) = (None, None, None);
    }

    /// No more is drawn from the last pass: what the cache holds beyond the last token goes.
    fn end_draws(&mut self, engines: &mut Engines) -> Result<(), Error> {
        if self.speculator.row().is_some() {
            let cached = self.tokens.len().saturating_sub(1);
            engines.target.truncate(self.seq, cached)?;
            self.speculator.end(cached, engines.draft_mut());
        }
        Ok(())
    }
}
