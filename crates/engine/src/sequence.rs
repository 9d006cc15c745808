//! One conversation: from a prompt to the events of an answer. It owns no engine and decides nothing
//! about others: it says which steps it wants in the next pass, and makes events of its rows.
//!
//! ```text
//! prompt_… ─► start ─► ┌► plan     steps for the next pass, if it needs one
//!                      │  passed   the pass is done: these rows are its own
//!                      │  draw     a token from a row, beside those of other sequences
//!                      └─ event    what came of it
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use nanoinfer_text::{Message, StopMatcher, StopStep, TextStream};

use crate::dialogue::Dialogue;
use crate::sample::{DrawScratch, LogitRows, Sampler};
use crate::speculate::Speculator;
use crate::{
    Canceller, Candidate, Engine, Engines, Error, Event, FinishReason, GenerateOptions, Model,
    Overflow, PassId, PassStep, Script, SeqId, Stats, Step,
};

#[derive(Clone, Copy, PartialEq, Eq)]
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

/// A sequence of an engine, with sampler, text stream and drafts. Its keys and values are in the
/// engine, so it is to be closed ([`Self::close`]) before the engine can use their room otherwise.
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
    /// The pass with the rows that tokens are drawn from, and the first of these.
    rows: Option<(PassId, usize)>,
    /// The token a worker drew, `None` if its logits are not finite, and how long that took.
    drawn: Option<(Option<u32>, Duration)>,
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

impl Engines {
    /// Draws the next token of each sequence that has a row of the last pass to draw from and no
    /// event left to take; each draw is an item of work for a worker. Where a draft was right there is
    /// another row after that: the next pass is due when no sequence has one ([`Sequence::has_row`]).
    ///
    /// # Errors
    /// Logits are not finite, or of an earlier pass; the engine cannot be used any more.
    pub fn draw(&mut self, sequences: &mut [Sequence]) -> Result<(), Error> {
        let mut passes = sequences.iter().filter_map(Sequence::row).map(|(pass, _)| pass);
        let Some(pass) = passes.next() else { return Ok(()) };
        if passes.any(|other| other != pass) {
            return Err(Error::LogitsGone);
        }
        self.target.draw(pass, sequences, Sequence::draw)?;
        sequences.iter_mut().try_for_each(|sequence| sequence.drawn(self))
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
            rows: None,
            drawn: None,
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
        Ok(fork)
    }

    /// Gives its room in the cache back. What it computed is kept for sequences that begin alike,
    /// until the room is needed.
    ///
    /// # Errors
    /// The engine cannot be used any more.
    pub fn close(mut self, engines: &mut Engines) -> Result<(), Error> {
        self.speculator.close(engines.draft_mut())?;
        engines.target.close(self.seq)
    }

    /// Its sequence in the engine.
    pub fn id(&self) -> SeqId {
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

    /// Why something that was stored could not be used, or not be stored, since the last call.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Says what the next answers are to be, see [`Script`]. For measurements only.
    pub fn set_script(&mut self, script: Option<Script>) {
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
    /// answer's first token, and after the next pass has begun.
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
        self.speculator.truncate(&self.tokens, common, engines.draft_mut())?;
        self.speculator.pin(pinned, engines.draft_mut())?;
        self.tokens.clear();
        self.tokens.extend_from_slice(ids);
        self.answer_follows = false;
        self.rest(None);
        self.stats = Stats::default();
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

    /// Begins an answer to the context. An earlier cancellation does not concern it.
    ///
    /// # Errors
    /// The context is empty.
    pub fn start(&mut self, engines: &mut Engines, options: GenerateOptions) -> Result<(), Error> {
        if self.tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        // The last token is always processed: its logits are what the answer begins with.
        self.end_draws(engines)?;
        let reused = engines.target.truncate(self.seq, self.tokens.len() - 1)?;
        self.canceller.clear();
        if let Some(stream) = &mut self.stream {
            stream.reset(self.answer_follows);
        }
        let longest = self.model.vocab_table().map_or(0, |v| 3 * (v.longest() + 4));
        let stops = options.stop.iter().any(|s| !s.is_empty());
        self.stop = stops.then(|| StopMatcher::new(&options.stop, longest));
        self.sampler.sampling = options.sampling;
        self.sampler.restart(&self.tokens);
        let (drafting, sampling) = (options.drafting, options.sampling);
        self.speculator.start(drafting, sampling, &self.tokens, engines.draft_mut())?;
        self.stats =
            Stats { prompt_tokens: self.tokens.len(), reused_tokens: reused, ..Stats::default() };
        self.started = Instant::now();
        self.rest(None);
        let nothing_wanted = options.max_tokens == Some(0);
        self.state =
            if nothing_wanted { State::Ending(FinishReason::Length) } else { State::Prefill };
        self.options = options;
        Ok(())
    }

    /// Nothing more is to be done; what is left to say is why.
    fn rest(&mut self, reason: Option<FinishReason>) {
        self.state = State::Idle;
        self.pending = reason.map(Pending::Finished);
        (self.rows, self.drawn, self.last) = (None, None, None);
    }

    /// Appends the steps that it wants in the next pass, at most `room`: the next tokens of the
    /// prompt, or the last token and a draft of what may follow. None, if there is something to draw
    /// or to say first, or nothing to do.
    ///
    /// # Errors
    /// The draft model's engine failed, or `engines` are not those it was opened in.
    pub fn plan(
        &mut self,
        engines: &mut Engines,
        room: usize,
        steps: &mut Vec<Step>,
    ) -> Result<(), Error> {
        let working = matches!(self.state, State::Prefill | State::Decode);
        if working && self.canceller.is_cancelled() {
            return self.cancelled(engines);
        }
        match self.state {
            State::Prefill => {
                let left = self.tokens.len() - engines.target.len(self.seq)?;
                self.append_steps(engines, left.min(room), steps)
            }
            State::Decode if self.speculator.row().is_none() => {
                // A draft fits into the context, and of the tokens still wanted one is drawn anyway.
                let wanted =
                    self.options.max_tokens.map_or(usize::MAX, |max| max - self.stats.generated);
                let room = room.min(engines.target.max_logits()) - 1;
                let room = room.min(self.limit - self.tokens.len()).min(wanted - 1);
                self.speculator.propose(&mut self.tokens, room, engines.draft_mut())?;
                self.append_steps(engines, 1, steps)
            }
            State::Ending(reason) => {
                self.end_draws(engines)?;
                self.rest(Some(reason));
                Ok(())
            }
            State::Decode | State::Idle => Ok(()),
        }
    }

    /// The next `n` tokens of the context and the draft for what may follow them; the last token and
    /// the draft with logits.
    fn append_steps(
        &mut self,
        engines: &Engines,
        n: usize,
        steps: &mut Vec<Step>,
    ) -> Result<(), Error> {
        let (seq, last) = (self.seq, self.tokens.len() - 1);
        let cached = engines.target.len(seq)?;
        let tokens = self.tokens[cached..cached + n].iter().zip(cached..);
        steps.extend(tokens.map(|(&token, i)| Step { seq, token, logits: i == last }));
        let draft = self.speculator.draft().iter();
        steps.extend(draft.map(|&token| Step { seq, token, logits: true }));
        self.passed = Instant::now();
        Ok(())
    }

    /// The pass with its steps is done; its logits begin at `row` among those of the pass.
    ///
    /// # Errors
    /// As for [`Self::plan`].
    pub fn passed(&mut self, engines: &mut Engines, pass: PassId, row: usize) -> Result<(), Error> {
        self.rows = Some((pass, row));
        if self.state == State::Decode {
            self.speculator.passed(self.passed.elapsed().as_secs_f64());
            return Ok(());
        }
        let reused = self.stats.reused_tokens;
        let done = engines.target.len(self.seq)? - reused;
        let total = self.stats.prompt_tokens - reused;
        if done == total {
            self.speculator.prompt_done(&self.tokens, engines.draft_mut())?;
            self.stats.prefill = self.started.elapsed();
            self.state = State::Decode;
        }
        self.pending = Some(Pending::Prefill { done, total });
        Ok(())
    }

    /// Ends the answer because somebody cancelled it, before or in a pass.
    ///
    /// # Errors
    /// As for [`Self::plan`].
    pub fn cancelled(&mut self, engines: &mut Engines) -> Result<(), Error> {
        self.canceller.clear();
        self.end_draws(engines)?;
        self.rest(Some(FinishReason::Cancelled));
        Ok(())
    }

    /// Whether a row of the last pass is left to draw from: its logits are gone with the next pass.
    pub fn has_row(&self) -> bool {
        self.state == State::Decode && self.speculator.row().is_some()
    }

    /// The pass with a row that its next token is to be drawn from now, if there is one.
    fn row(&self) -> Option<(PassId, usize)> {
        if self.pending.is_some() || self.state != State::Decode {
            return None;
        }
        let (pass, first) = self.rows?;
        Some((pass, first + self.speculator.row()?))
    }

    /// Draws its next token, on whatever thread; [`Self::drawn`] makes it part of the context.
    fn draw(&mut self, rows: LogitRows<'_>, scratch: &mut DrawScratch) {
        let Some((_, row)) = self.row() else { return };
        let start = Instant::now();
        let id = self.sampler.draw(rows, row, self.tokens.len(), scratch);
        self.drawn = Some((id, start.elapsed()));
    }

    /// Makes the token that was drawn the last of the context.
    fn drawn(&mut self, engines: &mut Engines) -> Result<(), Error> {
        let (Some((drawn, time)), Some(row)) = (self.drawn.take(), self.row()) else {
            return Ok(());
        };
        let drawn = drawn.ok_or_else(|| engines.target.not_finite())?;
        engines.target.profile_mut().add(PassStep::Sampling, time);
        let position = self.tokens.len();
        let script = self.speculator.script.as_ref();
        let id = script.and_then(|script| script.token(position)).unwrap_or(drawn);
        self.tokens.push(id);
        self.last = Some((row, self.sampler.push(id)));
        let seconds = time.as_secs_f64();
        if !self.speculator.drawn(&self.tokens, seconds, engines.draft_mut())? {
            engines.target.truncate(self.seq, position)?;
        }
        self.stats.generated += 1;
        let elapsed = self.started.elapsed();
        if self.stats.generated == 1 {
            self.stats.first_token = elapsed;
        }
        self.stats.decode = elapsed - self.stats.first_token;
        if let Some(reason) = self.finish_reason(id) {
            self.state = State::Ending(reason);
        }
        self.pending = Some(Pending::Token(id));
        Ok(())
    }

    /// No more is drawn from the last pass: what the cache holds beyond the last token goes.
    fn end_draws(&mut self, engines: &mut Engines) -> Result<(), Error> {
        if self.speculator.row().is_some() {
            let cached = self.tokens.len().saturating_sub(1);
            engines.target.truncate(self.seq, cached)?;
            self.speculator.end(cached, engines.draft_mut())?;
        }
        Ok(())
    }

    fn finish_reason(&self, id: u32) -> Option<FinishReason> {
        if !self.options.ignore_eos && self.model.generation().eos.contains(&id) {
            Some(FinishReason::Stop)
        } else if self.options.max_tokens == Some(self.stats.generated) {
            Some(FinishReason::Length)
        } else if self.tokens.len() > self.limit {
            Some(FinishReason::Context)
        } else {
            None
        }
    }

    /// What there is to say, if there is anything. Allocates nothing.
    pub fn event(&mut self) -> Option<Event<'_>> {
        match self.pending.take()? {
            Pending::Prefill { done, total } => Some(Event::Prefill { done, total }),
            Pending::Token(id) => Some(self.token_event(id)),
            Pending::Finished(reason) => Some(self.finished_event(reason)),
        }
    }

    fn token_event(&mut self, id: u32) -> Event<'_> {
        let (Some(stream), Some(vocab)) = (&mut self.stream, self.model.vocab()) else {
            return Event::Token { id, text: "", bytes: &[] };
        };
        let Some(stop) = &mut self.stop else {
            stream.push(&vocab, id);
            return Event::Token { id, text: stream.text(), bytes: stream.raw() };
        };
        let text = match stop.push(stream.push(&vocab, id)) {
            StopStep::Text(text) => text,
            StopStep::Stop { before, .. } => {
                self.state = State::Ending(FinishReason::Stop);
                stream.reset(false); // half a character after the stop string is dropped
                before
            }
        };
        Event::Token { id, text, bytes: text.as_bytes() }
    }

    fn finished_event(&mut self, reason: FinishReason) -> Event<'_> {
        match (&mut self.stream, &mut self.stop) {
            (Some(stream), Some(stop)) => {
                let text = stop.finish_with(stream.finish());
                Event::Finished { reason, text, bytes: text.as_bytes() }
            }
            (Some(stream), None) => Event::Finished { reason, text: stream.finish(), bytes: &[] },
            (None, _) => Event::Finished { reason, text: "", bytes: &[] },
        }
    }
}
