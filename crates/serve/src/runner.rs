//! The engine's thread: takes requests, loops [`Batch::step`], and passes events on, once per pass. `settle`
//! loads and unloads the engine.

mod loading;
mod settle;

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nanoinfer_engine::{
    Batch, BatchEvent, Canceller, Constraint, Error, Event, FinishReason, PromptValues, Request,
    RequestId, Stats, TokenLogprob,
};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::inside::Inside;
use crate::metrics::EngineMetrics;
use crate::options::Log;
use crate::problem::Problem;
pub(crate) use loading::{Loading, batch};

/// Longest wait for a command, so that an idle thread still shows that it lives.
const IDLE: Duration = Duration::from_secs(1);

/// What the HTTP thread asks of the engine's.
pub(crate) enum Command {
    Submit(Submission),
    /// Leaves the requests of a ticket out of passes, or takes them in again.
    Pause {
        ticket: u64,
        paused: bool,
    },
    /// A flag has changed.
    Wake,
    /// Runs this many more steps, then only takes commands; `None` = without limit. For tests.
    Steps(Option<u64>),
    /// Replaces the constraints of all further requests, if given. For tests.
    Constrain(Option<Box<dyn Constraint>>),
    /// Unloads the engine as soon as it has no answers to generate. For tests.
    Unload,
    /// Ends the thread as if the engine had failed. For tests.
    Fail,
    /// Ends the thread.
    Stop,
}

/// The requests of one client's request, which are accepted together.
pub(crate) struct Submission {
    pub(crate) ticket: u64,
    pub(crate) cancel: Arc<Cancel>,
    pub(crate) requests: Vec<Request>,
    /// Who waits for the answer whether they are; later problems are events.
    pub(crate) accepted: Option<oneshot::Sender<Result<(), Problem>>>,
}

/// Cancels the requests of a ticket, from any thread.
#[derive(Default)]
pub(crate) struct Cancel(Mutex<(bool, Vec<Canceller>)>);

impl Cancel {
    pub(crate) fn cancel(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = true;
        state.1.iter().for_each(Canceller::cancel);
    }

    fn is_cancelled(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn add(&self, canceller: Canceller) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 {
            canceller.cancel();
        }
        state.1.push(canceller);
    }
}

/// What happened to a choice of a ticket.
pub(crate) struct Delivery {
    pub(crate) ticket: u64,
    pub(crate) choice: usize,
    pub(crate) what: Happened,
}

pub(crate) enum Happened {
    Prefill { done: usize, total: usize },
    Prompt(PromptValues),
    Token(Token),
    Finished { reason: FinishReason, text: String, stats: Box<Stats> },
    Failed(Problem),
}

/// A token of an answer.
pub(crate) struct Token {
    pub(crate) id: u32,
    /// Text that is now final.
    pub(crate) text: String,
    /// Number of tokens up to and including this one.
    pub(crate) count: usize,
    pub(crate) logprobs: Option<Logprobs>,
}

/// The log-probabilities of a token, and of the most likely ones.
#[derive(Debug)]
pub struct Logprobs {
    /// That of the token.
    pub token: f32,
    /// The most likely tokens, most likely first.
    pub top: Vec<TokenLogprob>,
}

pub(crate) struct Runner {
    /// Requests and their engine, while it is loaded.
    batch: Option<Batch>,
    loading: Loading,
    /// Requests that wait for the engine to be loaded.
    held: VecDeque<Submission>,
    commands: Receiver<Command>,
    passes: UnboundedSender<Vec<Delivery>>,
    /// The ticket and choice of each request, and its start.
    routes: HashMap<RequestId, (u64, usize, Instant)>,
    metrics: Arc<EngineMetrics>,
    inside: Arc<Inside>,
    /// Number of steps that may run, if limited.
    steps: Option<u64>,
    constraint: Option<Box<dyn Constraint>>,
    /// Number of steps since the last command that did nothing, although there are requests. After the first,
    /// which may have ended the reading of a stored prompt, all requests are paused.
    empty: u32,
    log: Log,
    /// Mean time of an answer in seconds.
    mean: f64,
    preemptions: u64,
}

/// Marks the engine as dead when the thread ends, even by a panic.
struct Ending(Arc<EngineMetrics>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.die();
    }
}

impl Runner {
    pub(crate) fn new(
        (batch, loading): (Batch, Loading),
        commands: Receiver<Command>,
        passes: UnboundedSender<Vec<Delivery>>,
        (metrics, inside, log): (Arc<EngineMetrics>, Arc<Inside>, Log),
    ) -> Self {
        let (routes, mean) = (HashMap::new(), 1.0);
        Self {
            batch: Some(batch),
            loading,
            held: VecDeque::new(),
            commands,
            passes,
            routes,
            metrics,
            inside,
            steps: None,
            constraint: None,
            empty: 0,
            log,
            mean,
            preemptions: 0,
        }
    }

    /// Runs until the server ends or the engine fails.
    pub(crate) fn run(mut self) {
        let _ending = Ending(Arc::clone(&self.metrics));
        loop {
            self.metrics.beat();
            if !self.take_commands() {
                return;
            }
            self.settle();
            if self.is_idle() {
                self.report();
                continue;
            }
            if let Err(error) = self.step() {
                self.fail(&Problem { message: error.to_string(), ..Problem::engine_gone() });
                return;
            }
            self.report();
        }
    }

    /// Whether there is nothing to do until a command arrives.
    fn is_idle(&self) -> bool {
        let has_nothing = self.batch.as_ref().is_none_or(Batch::is_idle);
        self.empty > 1 || self.steps == Some(0) || has_nothing
    }

    /// Takes all commands, after waiting for one if there is nothing else to do. Returns whether to go on.
    fn take_commands(&mut self) -> bool {
        let mut wait = self.is_idle();
        loop {
            let command = if wait {
                self.commands
                    .recv_timeout(self.patience())
                    .map_err(|e| e == RecvTimeoutError::Timeout)
            } else {
                self.commands.try_recv().map_err(|e| e == TryRecvError::Empty)
            };
            match command {
                Ok(command) => {
                    (wait, self.empty) = (false, 0);
                    if !self.take(command) {
                        return false;
                    }
                }
                Err(go_on) => {
                    if wait && go_on {
                        self.measure();
                    }
                    return go_on;
                }
            }
        }
    }

    fn take(&mut self, command: Command) -> bool {
        match command {
            Command::Submit(submission) => self.receive(submission),
            Command::Pause { ticket, paused } => {
                let of_ticket = self.routes.iter().filter(|(_, route)| route.0 == ticket);
                if let Some(batch) = &mut self.batch {
                    of_ticket.for_each(|(&id, _)| batch.pause(id, paused));
                }
            }
            Command::Steps(steps) => self.steps = steps,
            Command::Constrain(constraint) => self.constraint = constraint,
            Command::Wake => {}
            Command::Unload => self.loading.is_unwanted = true,
            Command::Fail => {
                self.fail(&Problem::engine_gone());
                return false;
            }
            Command::Stop => return false,
        }
        true
    }

    fn submit(&mut self, submission: Submission) {
        let Submission { ticket, cancel, requests, accepted } = submission;
        let Some(batch) = self.batch.as_mut().filter(|_| !cancel.is_cancelled()) else { return };
        self.loading.begin();
        let mut ids = Vec::with_capacity(requests.len());
        for mut request in requests {
            if self.constraint.is_some() {
                request.constraint.clone_from(&self.constraint);
            }
            match batch.submit(request) {
                Ok(id) => ids.push(id),
                Err(error) => {
                    ids.into_iter().for_each(|id| batch.cancel(id));
                    let mut problem = Problem::engine(&error);
                    if let Error::QueueFull { waiting } | Error::KeyQueueFull { waiting } = error {
                        problem.retry_after = Some(self.wait(waiting));
                    }
                    self.refuse(ticket, accepted, problem);
                    return;
                }
            }
        }
        for (&id, choice) in ids.iter().zip(0..) {
            self.routes.insert(id, (ticket, choice, Instant::now()));
            cancel.add(batch.canceller(id).unwrap_or_default());
        }
        if let Some(accepted) = accepted {
            let _ = accepted.send(Ok(())); // fails if the client has gone
        }
    }

    /// Estimated seconds until a request that finds so many waiting would be admitted.
    fn wait(&self, waiting: usize) -> u64 {
        let load = self.batch.as_ref().map(Batch::load).unwrap_or_default();
        let running = (load.prefilling + load.decoding).max(1);
        (waiting as f64 / running as f64 * self.mean).ceil().clamp(1.0, 120.0) as u64
    }

    /// Measures what the page compares with, while nobody is kept waiting.
    fn measure(&self) {
        if let Some(batch) = self.batch.as_ref().filter(|batch| batch.is_idle()) {
            self.inside.measure(batch.engine().threads());
        }
    }

    fn step(&mut self) -> Result<(), Error> {
        let Some(batch) = &mut self.batch else { return Ok(()) };
        self.steps = self.steps.map(|n| n - 1);
        let start = Instant::now();
        let (routes, metrics) = (&mut self.routes, &self.metrics);
        let mut deliveries = Vec::new();
        for event in batch.step()? {
            let Some(&(ticket, choice, since)) = routes.get(&event.id) else { continue };
            let (id, stats, ended) = (event.id, event.stats, ends(&event));
            deliveries.push(Delivery { ticket, choice, what: happened(event) });
            if ended {
                routes.remove(&id);
                metrics.computed.inc_by((stats.prompt_tokens - stats.reused_tokens) as u64);
                metrics.cached.inc_by(stats.reused_tokens as u64);
                metrics.generated.inc_by(stats.generated as u64);
                metrics.drafted.inc_by(stats.drafts.all().drafted as u64);
                metrics.accepted.inc_by(stats.drafts.all().accepted as u64);
                self.mean += 0.1 * (since.elapsed().as_secs_f64() - self.mean);
            }
        }
        let load = batch.load();
        let did_nothing = deliveries.is_empty() && load.rows == 0 && !batch.is_exchanging();
        self.empty = if did_nothing { self.empty.saturating_add(1) } else { 0 };
        if load.rows > 0 {
            self.metrics.pass.observe(start.elapsed().as_secs_f64());
            self.metrics.rows_per_pass.observe(load.rows as f64);
        }
        if !deliveries.is_empty() {
            let _ = self.passes.send(deliveries); // fails only while the server ends
        }
        Ok(())
    }

    /// Updates the figures, and logs what the store could not do.
    fn report(&mut self) {
        let m = &self.metrics;
        m.loaded.set(self.batch.is_some().into());
        let Some(batch) = &mut self.batch else {
            m.clear();
            m.waiting.set(self.held.len() as i64);
            self.inside.clear();
            return;
        };
        batch.take_notes().iter().for_each(|note| self.log.line(note));
        let load = batch.load();
        m.waiting.set((load.waiting + self.held.len()) as i64);
        m.preempted.set(load.preempted as i64);
        m.running.set((load.prefilling + load.decoding) as i64);
        m.pass_ms.set(load.forward_ms);
        m.rows.set(if batch.is_idle() { 0 } else { load.rows as i64 });
        m.set_blocks(batch.engine().kv_blocks());
        self.inside.update(batch, Instant::now());
        m.preemptions.inc_by(load.preemptions - self.preemptions);
        self.preemptions = load.preemptions;
    }

    /// Tells all clients that their answers end.
    fn fail(&mut self, problem: &Problem) {
        let failed = self.routes.drain().map(|(_, (ticket, choice, _))| Delivery {
            ticket,
            choice,
            what: Happened::Failed(problem.clone()),
        });
        let held = self.held.drain(..).map(|held| Delivery {
            ticket: held.ticket,
            choice: 0,
            what: Happened::Failed(problem.clone()),
        });
        let _ = self.passes.send(failed.chain(held).collect());
    }
}

fn ends(event: &BatchEvent<'_>) -> bool {
    matches!(event.event, Ok(Event::Finished { .. }) | Err(_))
}

fn happened(event: BatchEvent<'_>) -> Happened {
    let stats = event.stats;
    match event.event {
        Ok(Event::Prefill { done, total }) => Happened::Prefill { done, total },
        Ok(Event::Prompt { values }) => Happened::Prompt(values.clone()),
        Ok(Event::Token { id, text, .. }) => {
            let logprobs = event.logprobs.map(|l| Logprobs { token: l.token, top: l.top.to_vec() });
            let (text, count) = (text.to_owned(), stats.generated);
            Happened::Token(Token { id, text, count, logprobs })
        }
        Ok(Event::Finished { reason, text, .. }) => {
            Happened::Finished { reason, text: text.to_owned(), stats: Box::new(*stats) }
        }
        Ok(_) => Happened::Failed(Problem::engine_gone()), // no such event exists
        Err(error) => Happened::Failed(Problem::engine(error)),
    }
}
