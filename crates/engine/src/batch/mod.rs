//! Many requests in one engine: admission, the plan of each pass, preemption.
//!
//! ```text
//! submit ─► waiting ─► prefilling ─► decoding ─► done          a step:
//!              ▲  admit     │            │                       admit   who runs (admit)
//!              └── preempt ─┴────────────┘                       plan    rows of each (plan)
//!                  and compute again                             pass, draws, events (step)
//! ```
//!
//! A [`Batch`] never changes an answer: tokens have the same bits in any company, with any part of the
//! prompt cached, and after a preemption. So all of its decisions are about time alone, and a sequence
//! that gives up its cache loses nothing but time.
//!
//! This file has the state and the requests. `admit`, `plan`, `drafts` and `step` are a step of the batch; `cost`
//! predicts the time of a pass, `fair` accounts for it, `events` holds the results. `seams` keeps the tokens
//! of answers for the next turn of a conversation; `disk` writes contexts to a store and reads them.

mod admit;
mod cost;
mod disk;
mod drafts;
mod events;
mod fair;
mod plan;
mod request;
mod seams;
mod step;

use std::fmt;

use nanoinfer_kernels::BLOCK;

use crate::prefix::Disk;
use crate::sequence::check_bias;
use crate::speculate::Experience;
use crate::{
    BatchToken, Canceller, Engine, Engines, Error, Namespace, Overflow, PromptOutput, Sequence,
};
use cost::CostModel;
pub use cost::PassCosts;
use events::EventBuffer;
pub use events::{BatchEvent, BatchLogprobs, Events};
use fair::Accounts;
pub use request::{Class, Request, RequestId};
use request::{Job, Work};
pub use seams::Seams;

/// Options of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchOptions {
    /// Time of a pass while answers are being generated, in milliseconds: prompts are read in parts that take about as
    /// long, and at most a fifth longer as far as predicted. Shorter passes make answers flow more evenly, longer ones
    /// read prompts faster.
    pub pass_ms: f64,
    /// Maximum number of requests that wait.
    pub queue: usize,
    /// Maximum number of requests with the same [`Request::key`] that wait, besides as many as could run
    /// beside the running ones.
    pub queue_per_key: usize,
    /// Milliseconds without a pass that make a [`Class`] as urgent as the next one.
    pub aging_ms: f64,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self { pass_ms: 150.0, queue: 256, queue_per_key: 256, aging_ms: 10_000.0 }
    }
}

/// Number of requests in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Load {
    /// Waiting for admission.
    pub waiting: usize,
    /// Preempted, and waiting to continue.
    pub preempted: usize,
    /// Reading their prompts, including those that follow another request with the same prompt.
    pub prefilling: usize,
    /// Generating answers.
    pub decoding: usize,
    /// Rows of the last pass.
    pub rows: usize,
    /// Milliseconds of the last pass, without the draws from its logits.
    pub forward_ms: f64,
    /// Admissions since the start, including those after a preemption.
    pub admissions: u64,
    /// Preemptions since the start.
    pub preemptions: u64,
}

/// An engine that answers many requests at once, each with the same tokens as on its own.
///
/// ```no_run
/// use nanoinfer_engine::{Batch, BatchOptions, Engine, EngineOptions, Model, Request};
/// # fn main() -> Result<(), nanoinfer_engine::Error> {
/// let options = EngineOptions { sequences: 8, ..EngineOptions::default() };
/// let model = std::sync::Arc::new(Model::open("smollm2.nano")?);
/// let mut batch = Batch::new(Engine::new(model.clone(), &options)?, BatchOptions::default());
/// for prompt in ["The capital of France is", "2 + 2 ="] {
///     batch.submit(Request { prompt: model.encode(prompt)?, ..Request::default() })?;
/// }
/// while !batch.is_idle() {
///     for event in batch.step()? {
///         if let Ok(event) = event.event {
///             print!("{}", event.text());
///         }
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Batch {
    engines: Engines,
    options: BatchOptions,
    /// Maximum number of running requests.
    slots: usize,
    /// See [`Self::for_session`].
    is_session: bool,
    /// Number of blocks in the cache, and the maximum that a sequence can hold.
    blocks: (usize, usize),
    next_id: u64,
    /// Milliseconds of passes so far.
    clock: f64,
    /// When each class last took part in a pass or had no requests.
    served: [f64; Class::COUNT],
    costs: CostModel,
    accounts: Accounts,
    waiting: Vec<(Job, Work)>,
    /// The running requests, and the sequence of each.
    running: Vec<Job>,
    sequences: Vec<Sequence>,
    /// The tokens of the pass, and the order in which prompts are read.
    batch: Vec<BatchToken>,
    order: Vec<usize>,
    /// Milliseconds of the last pass.
    forward_ms: f64,
    events: EventBuffer,
    seams: Seams,
    /// What its requests have learned about drafts.
    drafts: Experience,
    disk: Option<Disk>,
    notes: Vec<String>,
    admissions: u64,
    preemptions: u64,
}

impl Batch {
    /// A batch for up to [`EngineOptions::sequences`](crate::EngineOptions::sequences) running requests,
    /// but no more than a pass can have rows of logits
    /// ([`EngineOptions::logits_rows`](crate::EngineOptions::logits_rows)).
    pub fn new(engines: impl Into<Engines>, options: BatchOptions) -> Self {
        let engines = engines.into();
        let engine = &engines.target;
        let slots = engine.max_sequences().min(engine.max_logits());
        Self {
            slots,
            is_session: false,
            blocks: (engine.kv_blocks().0, engine.max_blocks()),
            next_id: 0,
            clock: 0.0,
            served: [0.0; Class::COUNT],
            costs: CostModel::new(None, engine.at_once()),
            accounts: Accounts::new(options.queue + 2 * slots),
            waiting: Vec::with_capacity(options.queue + slots),
            running: Vec::with_capacity(slots),
            sequences: Vec::with_capacity(slots),
            batch: Vec::with_capacity(engine.max_batch()),
            order: Vec::with_capacity(slots),
            events: EventBuffer::new(
                3 * slots + engine.max_logits(),
                engine.max_logits() * engine.model().longest_text(),
            ),
            forward_ms: 0.0,
            seams: Seams::default(),
            drafts: Experience::default(),
            disk: None,
            notes: Vec::new(),
            admissions: 0,
            preemptions: 0,
            engines,
            options,
        }
    }

    /// A batch for a session: its one sequence stays when an answer ends, see [`Self::step_session`].
    pub(crate) fn for_session(engine: Engine) -> Result<Self, Error> {
        let mut batch = Self::new(engine, BatchOptions { queue: 0, ..BatchOptions::default() });
        batch.is_session = true;
        batch.sequences.push(Sequence::open(&mut batch.engines)?);
        batch.running.push(Job::new(RequestId(0), Class::default(), 0, Namespace::COMMON));
        Ok(batch)
    }

    /// The parts of a session.
    pub(crate) fn session(&self) -> (&Engines, &Sequence) {
        (&self.engines, &self.sequences[0])
    }

    /// The parts of a session.
    pub(crate) fn session_mut(&mut self) -> (&mut Engines, &mut Sequence) {
        (&mut self.engines, &mut self.sequences[0])
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engines.target
    }

    /// The answers to conversations so far, with which clients' conversations are tokenized.
    pub fn seams(&self) -> Seams {
        self.seams.clone()
    }

    /// Takes over the answers of another batch for the same model.
    pub fn set_seams(&mut self, seams: Seams) {
        self.seams = seams;
    }

    /// Bytes that the last pass read: the weights once, and the keys and values of the sequences that took part.
    ///
    /// # Errors
    /// The engine has failed.
    pub fn pass_bytes(&self) -> Result<u64, Error> {
        if self.batch.is_empty() {
            return Ok(0);
        }
        let (engine, mut tokens, mut contexts) = (self.engine(), 0, 0);
        let jobs = self.running.iter().zip(&self.sequences);
        for (job, sequence) in jobs.filter(|(job, _)| job.rows > 0) {
            tokens += job.rows;
            contexts += engine.context_bytes(engine.len(sequence.id())?);
        }
        Ok(engine.weight_bytes(tokens) + contexts)
    }

    /// Returns and clears the notes since the last call: why a stored prompt could not be used, or a context
    /// not be stored.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// See [`crate::bench::set_costs`].
    pub(crate) fn set_costs(&mut self, costs: Option<PassCosts>) {
        self.costs = CostModel::new(costs, self.engine().at_once());
    }

    /// Maximum number of tokens in a context, including the answer.
    pub fn limit(&self) -> usize {
        match self.engine().overflow() {
            Overflow::Stop => self.engine().ctx().min(self.blocks.0 * BLOCK),
            Overflow::Slide => self.engine().ctx().max(1 << 20),
        }
    }

    /// Adds a request, which begins as soon as there is room for it.
    ///
    /// # Errors
    /// The prompt is empty, does not fit into the context or the cache, or has a token outside the
    /// vocabulary; or too many requests are waiting, in all or of this key.
    pub fn submit(&mut self, mut request: Request) -> Result<RequestId, Error> {
        let config = self.engine().model().config();
        let (vocab, trained) = (config.vocab_size, config.context_length as usize);
        let (tokens, ctx) = (request.prompt.len(), self.limit());
        if tokens == 0 {
            return Err(Error::EmptyPrompt);
        }
        if let Some(&token) = request.prompt.iter().find(|&&id| id >= vocab) {
            return Err(Error::Token { token, vocab });
        }
        check_bias(self.engine().model(), &request.options)?;
        if let Some(PromptOutput::Next(ids)) = &request.output
            && let Some(&token) = ids.iter().find(|&&id| id >= vocab)
        {
            return Err(Error::Token { token, vocab });
        }
        if request.output.as_ref().is_some_and(|output| !output.has_answer()) {
            request.options.max_tokens = Some(0);
        }
        if tokens > ctx {
            return Err(Error::Prompt { tokens, ctx, trained });
        }
        self.check_queue(request.key)?;
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.accounts.join(request.key);
        if !self.jobs().any(|job| job.class == request.class) {
            self.served[request.class as usize] = self.clock;
        }
        self.events.reserve(request.options.stop.iter().map(String::len).sum());
        let chat = request.chat.take();
        let job = Job::new(id, request.class, request.key, request.namespace);
        let job = Job { chat, ..job };
        self.waiting.push((job, Work::New(request)));
        Ok(id)
    }

    fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.waiting.iter().map(|(job, _)| job).chain(&self.running)
    }

    /// A handle that cancels a request from any thread; `None` if the request has ended. It leaves before
    /// the next pass, or within a layer if the current one has no other request. What was computed for it
    /// stays in the cache until the space is needed.
    pub fn canceller(&self, id: RequestId) -> Option<Canceller> {
        self.jobs().find(|job| job.id == id).map(|job| job.canceller.clone())
    }

    /// Cancels a request, which ends in the next step. Does nothing if it has ended.
    pub fn cancel(&mut self, id: RequestId) {
        if let Some(job) = self.jobs().find(|job| job.id == id) {
            job.canceller.cancel();
        }
    }

    /// Leaves a request out of passes, because its reader does not keep up, or takes it in again. It
    /// keeps its place in the cache as long as nobody else needs it.
    pub fn pause(&mut self, id: RequestId, paused: bool) {
        let waiting = self.waiting.iter_mut().map(|(job, _)| job);
        if let Some(job) = waiting.chain(&mut self.running).find(|job| job.id == id) {
            job.paused = paused;
        }
    }

    /// Whether a running request takes part in the next pass with a token of its answer.
    fn decodes(&self, i: usize) -> bool {
        self.sequences[i].is_decoding() && !self.running[i].paused
    }

    /// Whether a running request has a prompt to process.
    fn prefills(&self, i: usize) -> bool {
        self.sequences[i].is_prefilling() && !self.running[i].paused
    }

    /// Whether there is nothing to do, for requests or with the store.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty() && !self.is_exchanging()
    }

    /// Whether contexts are being read from the store or written to it.
    pub fn is_exchanging(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| !disk.is_idle())
    }

    /// What the batch is doing.
    pub fn load(&self) -> Load {
        let parked = |(_, work): &&(Job, Work)| matches!(work, Work::Parked(_));
        let preempted = self.waiting.iter().filter(parked).count();
        let decoding = self.sequences.iter().filter(|s| s.is_decoding()).count();
        Load {
            waiting: self.waiting.len() - preempted,
            preempted,
            prefilling: self.sequences.len() - decoding,
            decoding,
            rows: self.batch.len(),
            forward_ms: self.forward_ms,
            admissions: self.admissions,
            preemptions: self.preemptions,
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("engines", &self.engines)
            .field("options", &self.options)
            .field("load", &self.load())
            .finish_non_exhaustive()
    }
}
