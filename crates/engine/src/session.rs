//! A conversation with a model: prompt in, events out.

use std::time::{Duration, Instant};

use nanoinfer_text::{Message, StopMatcher, StopStep, TextStream};

use crate::dialogue::Dialogue;
use crate::sample::Sampler;
use crate::{Canceller, Candidate, Engine, Error, PassStep, Sampling, SeqId, Step};

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
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// What happened in one [`Session::next`].
#[derive(Debug)]
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
}

impl Session {
    /// A session with an empty context. Opens a sequence of the engine.
    pub fn new(mut engine: Engine) -> Result<Self, Error> {
        let seq = engine.open()?;
        let vocab = engine.model().config().vocab_size as usize;
        let stream = engine.model().vocab_table().map(|v| TextStream::new(v, true));
        Ok(Self {
            seq,
            tokens: Vec::with_capacity(engine.ctx() + 1),
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
            engine,
        })
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
        self.stats
    }

    /// Tokens of the context whose keys and values are cached: all but what is to be processed.
    pub fn cached(&self) -> usize {
        self.engine.len(self.seq)
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

    /// Makes `ids` the context. The longest common prefix with the present one stays cached.
    pub fn prompt_tokens(&mut self, ids: &[u32]) -> Result<(), Error> {
        self.set_context(ids)?;
        self.dialogue = Dialogue::default();
        Ok(())
    }

    fn set_context(&mut self, ids: &[u32]) -> Result<(), Error> {
        let vocab = self.engine.model().config().vocab_size;
        if let Some(&token) = ids.iter().find(|&&id| id >= vocab) {
            return Err(Error::Token { token, vocab });
        }
        let ctx = self.engine.ctx();
        if ids.len() > ctx {
            return Err(Error::Context { tokens: ids.len(), ctx });
        }
        let common = self.tokens.iter().zip(ids).take_while(|(a, b)| a == b).count();
        self.engine.truncate(self.seq, common);
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
        self.set_context(&ids)?;
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
            self.stats.prefill = self.started.elapsed();
            self.state = State::Decode;
        }
        Ok(Event::Prefill { done, total })
    }

    /// Processes the next `n` tokens of the context, the very last one with logits. False if
    /// cancelled.
    fn process(&mut self, n: usize) -> Result<bool, Error> {
        let cached = self.engine.len(self.seq);
        let last = self.tokens.len() - 1;
        self.steps.clear();
        self.steps.extend((cached..cached + n).map(|i| Step {
            seq: self.seq,
            token: self.tokens[i],
            logits: i == last,
        }));
        match self.engine.forward(&self.steps) {
            Err(Error::Cancelled) => {
                self.engine.clear_cancel();
                self.state = State::Idle;
                Ok(false)
            }
            other => other.map(|()| true),
        }
    }

    fn decode(&mut self) -> Result<Event<'_>, Error> {
        if self.engine.len(self.seq) < self.tokens.len() && !self.process(1)? {
            return Ok(self.finish(FinishReason::Cancelled));
        }
        let position = self.tokens.len();
        let sampling = Instant::now();
        let id = self.sampler.draw(self.engine.logits(0)?, position);
        self.engine.profile_mut().add(PassStep::Sampling, sampling.elapsed());
        self.tokens.push(id);
        self.sampler.push(id);
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

    fn finish_reason(&self, id: u32) -> Option<FinishReason> {
        let generation = self.engine.model().generation();
        if !self.options.ignore_eos && generation.eos.contains(&id) {
            Some(FinishReason::Stop)
        } else if self.options.max_tokens == Some(self.stats.generated) {
            Some(FinishReason::Length)
        } else if self.tokens.len() > self.engine.ctx() {
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
