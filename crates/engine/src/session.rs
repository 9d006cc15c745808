//! A conversation with a model: prompt in, events out.

use std::time::Instant;

use nanoinfer_text::{Message, StopMatcher, StopStep, TextStream};

use crate::dialogue::Dialogue;
use crate::prefix::PrefixStore;
use crate::sample::Sampler;
use crate::speculate::{Speculator, draft_model};
use crate::{
    Canceller, Candidate, Engine, Error, Event, FinishReason, GenerateOptions, Overflow, PassStep,
    Script, SeqId, Stats, Step,
};

#[derive(Clone, Copy)]
enum State {
    /// Nothing asked for, or everything said.
    Idle,
    Prefill,
    Decode,
    Ending(FinishReason),
}

/// One sequence of an engine, with sampler and text stream.
///
/// ```no_run
/// use nanoinfer_engine::{Engine, EngineOptions, Event, GenerateOptions, Model, Session};
/// # fn main() -> Result<(), nanoinfer_engine::Error> {
/// let engine = Engine::new(Model::open("smollm2.nano")?, &EngineOptions::default())?;
/// let mut session = Session::new(engine)?;
/// session.prompt_text("The capital of France is")?;
/// session.start(GenerateOptions { max_tokens: Some(32), ..GenerateOptions::default() })?;
/// while let Some(event) = session.next()? {
///     if let Event::Token { text, .. } = event {
///         print!("{text}");
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Session {
    engine: Engine,
    seq: SeqId,
    /// The context: what is cached, then what is to be processed.
    tokens: Vec<u32>,
    sampler: Sampler,
    stream: Option<TextStream>,
    /// The context ends where an answer begins, not in the middle of a text.
    answer_follows: bool,
    stop: Option<StopMatcher>,
    options: GenerateOptions,
    state: State,
    stats: Stats,
    started: Instant,
    steps: Vec<Step>,
    dialogue: Dialogue,
    speculator: Speculator,
    store: Option<PrefixStore>,
    notes: Vec<String>,
}

/// A context that was put aside, see [`Session::fork`].
#[derive(Debug)]
#[must_use = "its cache is held until it is given to `Session::drop_branch`"]
pub struct Branch {
    seq: SeqId,
    tokens: Vec<u32>,
    answer_follows: bool,
    dialogue: Dialogue,
}

/// Tokens that a context can have. One that slides could go on for ever, but its tokens are kept:
/// four bytes each, and as many for looking them up.
fn limit(engine: &Engine) -> usize {
    match engine.overflow() {
        Overflow::Stop => engine.ctx(),
        Overflow::Slide => engine.ctx().max(1 << 20),
    }
}

impl Session {
    /// A session with an empty context. Opens a sequence of the engine.
    pub fn new(mut engine: Engine) -> Result<Self, Error> {
        let seq = engine.open()?;
        let vocab = engine.model().config().vocab_size as usize;
        let stream = engine.model().vocab_table().map(|v| TextStream::new(v, true));
        Ok(Self {
            seq,
            tokens: Vec::with_capacity(limit(&engine) + 1),
            sampler: Sampler::new(engine.kernels(), vocab),
            stream,
            answer_follows: false,
            stop: None,
            options: GenerateOptions::default(),
            state: State::Idle,
            stats: Stats::default(),
            started: Instant::now(),
            steps: Vec::with_capacity(engine.max_batch()),
            dialogue: Dialogue::default(),
            speculator: Speculator::new(limit(&engine) + 1, engine.model().generation()),
            store: None,
            notes: Vec::new(),
            engine,
        })
    }

    /// Looks for prompts in a store from now on, and keeps them there by [`Self::remember`].
    pub fn set_store(&mut self, store: Option<PrefixStore>) {
        self.store = store;
    }

    /// Keeps what is cached of the context in the store, if there is one and it does not hold it
    /// yet.
    pub fn remember(&mut self) {
        let cached = self.cached();
        if let Some(store) = &self.store {
            let kept = store.save(&mut self.engine, self.seq, &self.tokens[..cached]);
            self.notes.extend(kept.err());
        }
    }

    /// Why something that was stored could not be used, or not be stored, since the last call.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Lets a small model draft, with the same vocabulary and room for as many positions. Answers
    /// stay the same; [`Stats::drafts`] tells what came of it.
    pub fn set_draft_model(&mut self, engine: Engine) -> Result<(), Error> {
        self.speculator.model = Some(draft_model(engine, &self.engine)?);
        Ok(())
    }

    /// The draft model's engine.
    pub fn draft_engine(&self) -> Option<&Engine> {
        self.speculator.model.as_ref().map(|model| model.engine())
    }

    /// Says what the next answers are to be, see [`Script`]. For measurements only.
    pub fn set_script(&mut self, script: Option<Script>) {
        self.speculator.set_script(script);
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
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

    /// Tokens of the context whose keys and values are cached: all but what is to be processed.
    pub fn cached(&self) -> usize {
        // During a pass's draws the cache also holds drafts that may yet be rejected.
        self.engine.len(self.seq).min(self.tokens.len())
    }

    /// Measures the steps of passes from now on, in [`Engine::profile`], or stops.
    pub fn set_profiling(&mut self, enabled: bool) {
        self.engine.set_profiling(enabled);
    }

    /// What the last token was chosen from: the `n` most likely tokens with the probabilities that
    /// the model gave them, penalties applied, temperature and filters not. Empty before the
    /// answer's first token.
    pub fn candidates(&mut self, n: usize) -> Vec<Candidate> {
        match self.stats.generated {
            0 => Vec::new(),
            _ => self.sampler.top(self.engine.last_logits(), n),
        }
    }

    /// A handle that stops the answer from any thread, within a layer's time.
    pub fn canceller(&self) -> Canceller {
        self.engine.canceller()
    }

    /// Tokens of the context that have slid out of the model's sight, see [`Overflow::Slide`].
    pub fn evicted(&self) -> usize {
        self.engine.evicted(self.seq)
    }

    /// Makes `ids` the context. The longest common prefix with the present one stays cached, or
    /// that with another sequence of the engine, if it is longer.
    pub fn prompt_tokens(&mut self, ids: &[u32]) -> Result<(), Error> {
        self.set_context(ids, 0)?;
        self.dialogue = Dialogue::default();
        Ok(())
    }

    /// Puts the context aside, to be continued, and leaves a copy of it in its place: one prompt,
    /// several continuations. Nothing is computed again and nothing copied but the block of the
    /// cache in which they part. Takes one of [`crate::EngineOptions::sequences`].
    pub fn fork(&mut self) -> Result<Branch, Error> {
        self.end_draws();
        let seq = self.engine.fork(self.seq)?;
        self.state = State::Idle;
        Ok(Branch {
            seq: std::mem::replace(&mut self.seq, seq),
            tokens: self.tokens.clone(),
            answer_follows: self.answer_follows,
            dialogue: self.dialogue.clone(),
        })
    }

    /// Continues with a context that was put aside, and puts aside the present one instead.
    pub fn switch(&mut self, branch: &mut Branch) {
        self.end_draws();
        let common = self.tokens.iter().zip(&branch.tokens).take_while(|(a, b)| a == b).count();
        self.speculator.truncate(&self.tokens, common);
        std::mem::swap(&mut self.seq, &mut branch.seq);
        let aside = self.tokens.clone();
        self.tokens.clear(); // keeps its capacity
        self.tokens.extend_from_slice(&branch.tokens);
        branch.tokens = aside;
        std::mem::swap(&mut self.answer_follows, &mut branch.answer_follows);
        std::mem::swap(&mut self.dialogue, &mut branch.dialogue);
        self.state = State::Idle;
        self.stats = Stats::default();
    }

    /// Forgets a context that was put aside.
    pub fn drop_branch(&mut self, branch: Branch) {
        self.engine.close(branch.seq);
    }

    /// Makes `ids` the context, of which `pinned` stay in sight if it slides.
    fn set_context(&mut self, ids: &[u32], pinned: usize) -> Result<(), Error> {
        let vocab = self.engine.model().config().vocab_size;
        if let Some(&token) = ids.iter().find(|&&id| id >= vocab) {
            return Err(Error::Token { token, vocab });
        }
        let ctx = limit(&self.engine);
        if ids.len() > ctx {
            return Err(Error::Context { tokens: ids.len(), ctx });
        }
        let common = self.tokens.iter().zip(ids).take_while(|(a, b)| a == b).count();
        self.end_draws();
        self.engine.truncate(self.seq, common);
        self.engine.share(self.seq, ids);
        let baked = self.engine.use_baked(self.seq, ids);
        self.notes.extend(baked.err().filter(|note| !self.notes.contains(note)));
        if let Some(store) = &self.store {
            self.notes.extend(store.load(&mut self.engine, self.seq, ids));
        }
        self.engine.pin(self.seq, pinned);
        self.speculator.truncate(&self.tokens, common);
        self.speculator.pin(pinned);
        self.tokens.clear();
        self.tokens.extend_from_slice(ids);
        self.answer_follows = false;
        self.state = State::Idle;
        self.stats = Stats::default();
        Ok(())
    }

    /// Makes a raw text the context, to be continued.
    pub fn prompt_text(&mut self, text: &str) -> Result<(), Error> {
        let ids = self.engine.model().encode(text)?;
        self.prompt_tokens(&ids)
    }

    /// Makes a conversation the context, to be answered.
    ///
    /// If it goes on from the one in the context, the tokens of that stay as they are, those of
    /// answers too, and only what the template adds is tokenized. An error leaves the context as
    /// it was.
    pub fn prompt_chat(&mut self, messages: &[Message]) -> Result<(), Error> {
        let model = self.engine.model();
        let text = model.chat_text(messages)?;
        let (answer, end) = self.answer();
        let (kept, new) = self.dialogue.next(model.tokenizer()?, &text, &answer, end);
        let ids = [&self.tokens[..kept], &new].concat();
        let pinned = match self.engine.overflow() {
            Overflow::Stop => 0,
            Overflow::Slide => {
                let system = messages.iter().take_while(|m| m.role == "system").count();
                self.engine.model().before_conversation(&messages[..system])?.len()
            }
        };
        self.set_context(&ids, pinned)?;
        self.dialogue.advance(text, &answer, end, ids.len());
        self.answer_follows = true;
        Ok(())
    }

    /// The text of the present answer, and where in the context it ends: before the token that
    /// said so, which the template will write itself.
    fn answer(&self) -> (String, usize) {
        let (Some(table), Some(vocab)) =
            (self.engine.model().vocab_table(), self.engine.model().vocab())
        else {
            return (String::new(), self.tokens.len());
        };
        let eos = &self.engine.model().generation().eos;
        let ended = self.generated().last().is_some_and(|id| eos.contains(id));
        let mut stream = TextStream::new(table, true);
        let mut text = String::new();
        for id in self.generated() {
            text.push_str(stream.push(&vocab, *id));
        }
        text.push_str(stream.finish());
        (text, self.tokens.len() - usize::from(ended))
    }

    /// Begins an answer to the context; [`Self::next`] then gives its events.
    pub fn start(&mut self, options: GenerateOptions) -> Result<(), Error> {
        if self.tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        // The last token is always processed: its logits are what the answer begins with.
        self.end_draws();
        self.engine.truncate(self.seq, self.tokens.len() - 1);
        self.engine.clear_cancel();
        if let Some(stream) = &mut self.stream {
            stream.reset(self.answer_follows);
        }
        let longest = self.engine.model().vocab_table().map_or(0, |v| 3 * (v.longest() + 4));
        let stops = options.stop.iter().any(|s| !s.is_empty());
        self.stop = stops.then(|| StopMatcher::new(&options.stop, longest));
        self.sampler.sampling = options.sampling;
        self.sampler.restart(&self.tokens);
        self.speculator.start(options.drafting, options.sampling, &self.tokens);
        self.options = options;
        self.stats = Stats {
            prompt_tokens: self.tokens.len(),
            reused_tokens: self.engine.len(self.seq),
            ..Stats::default()
        };
        self.started = Instant::now();
        let none_wanted = self.options.max_tokens == Some(0);
        self.state = if none_wanted { State::Ending(FinishReason::Length) } else { State::Prefill };
        Ok(())
    }

    /// Does the next piece of work and says what came of it; `None` when the answer is complete.
    /// Allocates nothing after the first token.
    #[allow(clippy::should_implement_trait)] // it lends, which `Iterator` cannot
    pub fn next(&mut self) -> Result<Option<Event<'_>>, Error> {
        match self.state {
            State::Idle => Ok(None),
            State::Prefill => self.prefill().map(Some),
            State::Decode => self.decode().map(Some),
            State::Ending(reason) => {
                self.end_draws();
                self.state = State::Idle;
                Ok(Some(self.finish(reason)))
            }
        }
    }

    fn prefill(&mut self) -> Result<Event<'_>, Error> {
        let cached = self.engine.len(self.seq);
        let n = (self.tokens.len() - cached).min(self.engine.max_batch());
        if !self.process(n)? {
            return Ok(self.finish(FinishReason::Cancelled));
        }
        let (done, total) = (
            cached + n - self.stats.reused_tokens,
            self.stats.prompt_tokens - self.stats.reused_tokens,
        );
        if done == total {
            self.speculator.prompt_done(&self.tokens)?;
            self.stats.prefill = self.started.elapsed();
            self.state = State::Decode;
        }
        Ok(Event::Prefill { done, total })
    }

    /// Processes the next `n` tokens of the context and the draft for what may follow them; the
    /// last token and the draft with logits. False if cancelled.
    fn process(&mut self, n: usize) -> Result<bool, Error> {
        let cached = self.engine.len(self.seq);
        let last = self.tokens.len() - 1;
        let (seq, draft) = (self.seq, self.speculator.draft());
        self.steps.clear();
        self.steps.extend((cached..cached + n).map(|i| Step {
            seq,
            token: self.tokens[i],
            logits: i == last,
        }));
        self.steps.extend(draft.iter().map(|&token| Step { seq, token, logits: true }));
        match self.engine.forward(&self.steps) {
            Err(Error::Cancelled) => {
                self.engine.clear_cancel();
                self.state = State::Idle;
                Ok(false)
            }
            other => other.map(|()| true),
        }
    }

    /// A pass over the last token and a draft. False if cancelled.
    fn pass(&mut self) -> Result<bool, Error> {
        // A draft fits into the context, and of the tokens still wanted one is drawn anyway.
        let wanted = self.options.max_tokens.map_or(usize::MAX, |max| max - self.stats.generated);
        let room = (limit(&self.engine) - self.tokens.len()).min(wanted - 1);
        let room = room.min(self.engine.max_logits() - 1).min(self.engine.max_batch() - 1);
        self.speculator.propose(&mut self.tokens, room)?;
        let start = Instant::now();
        let done = self.process(1)?;
        if done {
            self.speculator.passed(start.elapsed().as_secs_f64());
        }
        Ok(done)
    }

    fn decode(&mut self) -> Result<Event<'_>, Error> {
        if self.engine.canceller().is_cancelled() {
            self.engine.clear_cancel();
            self.end_draws();
            self.state = State::Idle;
            return Ok(self.finish(FinishReason::Cancelled));
        }
        if self.speculator.row().is_none() && !self.pass()? {
            return Ok(self.finish(FinishReason::Cancelled));
        }
        let id = self.draw()?;
        self.stats.generated += 1;
        let elapsed = self.started.elapsed();
        if self.stats.generated == 1 {
            self.stats.first_token = elapsed;
        }
        self.stats.decode = elapsed - self.stats.first_token;
        if let Some(reason) = self.finish_reason(id) {
            self.state = State::Ending(reason);
        }
        Ok(self.token_event(id))
    }

    /// Draws the next token of the context.
    fn draw(&mut self) -> Result<u32, Error> {
        let (row, position) = (self.speculator.row().unwrap_or(0), self.tokens.len());
        let start = Instant::now();
        let drawn = self.sampler.draw(self.engine.logits(row)?, position);
        let elapsed = start.elapsed();
        self.engine.profile_mut().add(PassStep::Sampling, elapsed);
        let script = self.speculator.script.as_ref();
        let id = script.and_then(|script| script.token(position)).unwrap_or(drawn);
        self.tokens.push(id);
        self.sampler.push(id);
        if !self.speculator.drawn(&self.tokens, elapsed.as_secs_f64()) {
            self.engine.truncate(self.seq, position);
        }
        Ok(id)
    }

    /// No more is drawn from the last pass: what the cache holds beyond the last token goes.
    fn end_draws(&mut self) {
        if self.speculator.row().is_some() {
            let cached = self.tokens.len().saturating_sub(1);
            self.engine.truncate(self.seq, cached);
            self.speculator.end(cached);
        }
    }

    fn finish_reason(&self, id: u32) -> Option<FinishReason> {
        let generation = self.engine.model().generation();
        if !self.options.ignore_eos && generation.eos.contains(&id) {
            Some(FinishReason::Stop)
        } else if self.options.max_tokens == Some(self.stats.generated) {
            Some(FinishReason::Length)
        } else if self.tokens.len() > limit(&self.engine) {
            Some(FinishReason::Context)
        } else {
            None
        }
    }

    fn token_event(&mut self, id: u32) -> Event<'_> {
        let (Some(stream), Some(vocab)) = (&mut self.stream, self.engine.model().vocab()) else {
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

    fn finish(&mut self, reason: FinishReason) -> Event<'_> {
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
