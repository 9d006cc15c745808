//! A conversation with a model: prompt in, events out.

use std::slice;

use nanoinfer_text::Message;

use super::{Engines, Event, GenerateOptions, Sequence, Stats};
use crate::speculate::Script;
use crate::{BatchToken, Canceller, Candidate, Engine, Error, PrefixStore};

/// An engine and one sequence of it, for programs that have one conversation at a time.
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
#[derive(Debug)]
pub struct Session {
    engines: Engines,
    sequence: Sequence,
    steps: Vec<BatchToken>,
}

impl Session {
    /// A session with an empty context. Opens a sequence of the engine.
    pub fn new(engine: Engine) -> Result<Self, Error> {
        let steps = Vec::with_capacity(engine.max_batch());
        let mut engines = Engines::from(engine);
        Ok(Self { sequence: Sequence::open(&mut engines)?, engines, steps })
    }

    /// Does the next piece of work and says what came of it; `None` when the answer is complete.
    /// Allocates nothing after the first token.
    #[allow(clippy::should_implement_trait)] // it lends, which `Iterator` cannot
    pub fn next(&mut self) -> Result<Option<Event<'_>>, Error> {
        // More than one step only if the answer is cancelled in the middle of one.
        while self.sequence.is_silent() {
            self.step()?;
        }
        self.sequence.event()
    }

    /// A pass if the sequence needs one, and a draw if it has a row then.
    fn step(&mut self) -> Result<(), Error> {
        let Self { engines, sequence, steps } = self;
        steps.clear();
        sequence.plan(engines, engines.target.max_batch(), steps)?;
        if !steps.is_empty() {
            match engines.target.forward(steps) {
                Ok(pass) => sequence.passed(engines, pass)?,
                Err(Error::Cancelled) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        engines.draw(slice::from_mut(sequence))
    }

    /// Begins an answer to the context; [`Self::next`] then gives its events.
    pub fn start(&mut self, options: GenerateOptions) -> Result<(), Error> {
        self.sequence.start(&mut self.engines, options)
    }

    /// See [`Sequence::prompt_tokens`].
    pub fn prompt_tokens(&mut self, ids: &[u32]) -> Result<(), Error> {
        self.sequence.prompt_tokens(&mut self.engines, ids)
    }

    /// See [`Sequence::prompt_text`].
    pub fn prompt_text(&mut self, text: &str) -> Result<(), Error> {
        self.sequence.prompt_text(&mut self.engines, text)
    }

    /// See [`Sequence::prompt_chat`].
    pub fn prompt_chat(&mut self, messages: &[Message]) -> Result<(), Error> {
        self.sequence.prompt_chat(&mut self.engines, messages)
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engines.target
    }

    /// See [`Engines::set_draft`]. Answers stay the same; [`Stats::drafts`] tells what came of it.
    pub fn set_draft_model(&mut self, engine: impl Into<Option<Engine>>) -> Result<(), Error> {
        self.engines.set_draft(engine.into())
    }

    /// The draft model's engine.
    pub fn draft_engine(&self) -> Option<&Engine> {
        self.engines.draft()
    }

    /// Looks for prompts in a store from now on, and keeps them there by [`Self::remember`].
    pub fn set_store(&mut self, store: Option<PrefixStore>) {
        self.engines.store = store;
    }

    /// See [`Sequence::remember`].
    pub fn remember(&mut self) {
        self.sequence.remember(&mut self.engines);
    }

    /// See [`Sequence::take_notes`].
    pub fn take_notes(&mut self) -> Vec<String> {
        self.sequence.take_notes()
    }

    /// See [`crate::bench::set_script`].
    pub(crate) fn set_script(&mut self, script: Option<Script>) {
        self.sequence.set_script(script);
    }

    /// Measures the steps of passes from now on, in [`Engine::profile`], or stops.
    pub fn set_profiling(&mut self, enabled: bool) {
        self.engines.target.set_profiling(enabled);
    }

    /// All tokens of the context, generated ones included.
    pub fn tokens(&self) -> &[u32] {
        self.sequence.tokens()
    }

    /// Tokens generated for the current answer.
    pub fn generated(&self) -> &[u32] {
        self.sequence.generated()
    }

    /// Counts and times of the current answer.
    pub fn stats(&self) -> Stats {
        self.sequence.stats()
    }

    /// Tokens of the context whose keys and values are cached and of use: none of an engine that
    /// cannot be used any more.
    pub fn cached(&self) -> usize {
        self.sequence.cached(&self.engines).unwrap_or(0)
    }

    /// Tokens of the context that have slid out of the model's sight, see [`crate::Overflow::Slide`].
    pub fn evicted(&self) -> usize {
        self.engines.target.evicted(self.sequence.id()).unwrap_or(0)
    }

    /// See [`Sequence::candidates`].
    pub fn candidates(&mut self, n: usize) -> Vec<Candidate> {
        self.sequence.candidates(&mut self.engines, n)
    }

    /// A handle that stops the answer from any thread, within a layer's time. It is of the present
    /// sequence, see [`Self::switch`].
    pub fn canceller(&self) -> Canceller {
        self.sequence.canceller()
    }

    /// A copy of the context, to be continued in another way, see [`Sequence::fork`].
    pub fn fork(&mut self) -> Result<Sequence, Error> {
        self.sequence.fork(&mut self.engines)
    }

    /// Continues with a sequence of this session's engine, and puts aside the present one instead.
    pub fn switch(&mut self, sequence: &mut Sequence) {
        std::mem::swap(&mut self.sequence, sequence);
    }

    /// Closes a sequence of this session's engine, see [`Sequence::close`].
    pub fn drop_branch(&mut self, sequence: Sequence) -> Result<(), Error> {
        sequence.close(&mut self.engines)
    }
}
