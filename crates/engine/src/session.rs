//! A conversation with a model: prompt in, events out.

use nanoinfer_text::Message;

use crate::speculate::Script;
use crate::{
    Batch, Canceller, Candidate, Constraint, Engine, Engines, Error, Event, GenerateOptions,
    Logprobs, PrefixStore, Sequence, Stats,
};

/// A [`Batch`] with a single conversation, whose context stays from answer to answer.
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
    batch: Batch,
}

impl Session {
    /// Creates a session with an empty context, in a new sequence of the engine.
    pub fn new(engine: Engine) -> Result<Self, Error> {
        Ok(Self { batch: Batch::for_session(engine)? })
    }

    fn engines(&self) -> &Engines {
        self.batch.session().0
    }

    fn sequence(&self) -> &Sequence {
        self.batch.session().1
    }

    fn parts(&mut self) -> (&mut Engines, &mut Sequence) {
        self.batch.session_mut()
    }

    /// Does the next unit of work and returns its event; `None` once the answer is complete. Allocates
    /// nothing after the first token.
    #[allow(clippy::should_implement_trait)] // events borrow from `self`, which `Iterator` does not allow
    pub fn next(&mut self) -> Result<Option<Event<'_>>, Error> {
        // Repeats only if the answer is cancelled in the middle of a step.
        while self.sequence().needs_work() {
            self.batch.step_session()?;
        }
        self.parts().1.event()
    }

    /// Begins an answer to the context; [`Self::next`] returns its events.
    pub fn start(&mut self, options: GenerateOptions) -> Result<(), Error> {
        let (engines, sequence) = self.parts();
        sequence.start(engines, options)
    }

    /// See [`Sequence::prompt_tokens`].
    pub fn prompt_tokens(&mut self, ids: &[u32]) -> Result<(), Error> {
        let (engines, sequence) = self.parts();
        sequence.prompt_tokens(engines, ids)
    }

    /// See [`Sequence::prompt_text`].
    pub fn prompt_text(&mut self, text: &str) -> Result<(), Error> {
        let (engines, sequence) = self.parts();
        sequence.prompt_text(engines, text)
    }

    /// See [`Sequence::prompt_chat`].
    pub fn prompt_chat(&mut self, messages: &[Message]) -> Result<(), Error> {
        let (engines, sequence) = self.parts();
        sequence.prompt_chat(engines, messages)
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engines().target
    }

    /// See [`Engines::set_draft`]. Answers stay the same; [`Stats::drafts`] shows the effect.
    pub fn set_draft_model(&mut self, engine: impl Into<Option<Engine>>) -> Result<(), Error> {
        self.parts().0.set_draft(engine.into())
    }

    /// The draft model's engine.
    pub fn draft_engine(&self) -> Option<&Engine> {
        self.engines().draft()
    }

    /// Sets the store in which prompts are looked up, and saved by [`Self::remember`].
    pub fn set_store(&mut self, store: Option<PrefixStore>) {
        self.parts().0.store = store;
    }

    /// See [`Sequence::remember`].
    pub fn remember(&mut self) {
        let (engines, sequence) = self.parts();
        sequence.remember(engines);
    }

    /// See [`Sequence::take_notes`].
    pub fn take_notes(&mut self) -> Vec<String> {
        self.parts().1.take_notes()
    }

    /// See [`crate::bench::set_script`].
    pub(crate) fn set_script(&mut self, script: Option<Script>) {
        self.parts().1.set_script(script);
    }

    /// Starts or stops timing the stages of passes, see [`Engine::profile`].
    pub fn set_profiling(&mut self, enabled: bool) {
        self.parts().0.target.set_profiling(enabled);
    }

    /// All tokens of the context, including generated ones.
    pub fn tokens(&self) -> &[u32] {
        self.sequence().tokens()
    }

    /// Tokens generated for the current answer.
    pub fn generated(&self) -> &[u32] {
        self.sequence().generated()
    }

    /// Counts and timings of the current answer.
    pub fn stats(&self) -> Stats {
        self.sequence().stats()
    }

    /// Number of context tokens with usable cached keys and values; 0 if the engine has failed.
    pub fn cached(&self) -> usize {
        self.sequence().cached(self.engines()).unwrap_or(0)
    }

    /// Number of context tokens that were evicted, see [`crate::Overflow::Slide`].
    pub fn evicted(&self) -> usize {
        self.engines().target.evicted(self.sequence().id()).unwrap_or(0)
    }

    /// See [`Sequence::candidates`].
    pub fn candidates(&mut self, n: usize) -> Vec<Candidate> {
        let (engines, sequence) = self.parts();
        sequence.candidates(engines, n)
    }

    /// See [`Sequence::set_constraint`].
    pub fn set_constraint(&mut self, constraint: Box<dyn Constraint>) {
        self.parts().1.set_constraint(constraint);
    }

    /// See [`Sequence::logprobs`].
    pub fn logprobs(&self) -> Option<&Logprobs> {
        self.sequence().logprobs()
    }

    /// A handle that stops the answer from any thread, within one layer. It belongs to the current
    /// sequence, see [`Self::switch`].
    pub fn canceller(&self) -> Canceller {
        self.sequence().canceller()
    }

    /// Copies the context into a new sequence, see [`Sequence::fork`].
    pub fn fork(&mut self) -> Result<Sequence, Error> {
        let (engines, sequence) = self.parts();
        sequence.fork(engines)
    }

    /// Swaps the current sequence for another sequence of this session's engine.
    pub fn switch(&mut self, sequence: &mut Sequence) {
        std::mem::swap(self.parts().1, sequence);
    }

    /// Closes a sequence of this session's engine, see [`Sequence::close`].
    pub fn drop_branch(&mut self, sequence: Sequence) -> Result<(), Error> {
        sequence.close(self.parts().0)
    }
}
