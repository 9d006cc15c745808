//! The engine's own thread: it takes [`Command`]s and tells what happens as [`Report`]s.
//!
//! While it answers it says little: what was generated is gathered for as long as drawing asks for
//! (see [`Controls::drawn_in`]), so that the thread that draws is woken for a frame and not for a
//! token.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use nanoinfer_engine::{
    Canceller, Error, Event, FinishReason, GenerateOptions, Message, Session, Stage, Stats,
};
use nanoinfer_text::terminal_safe;

/// Time between two reports: between 20 a second and 6.
const REPORT_EVERY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(150));
/// The share of the time that drawing may take: one part in so many.
const DRAWING: u32 = 100;
/// Time between two looks inside, which cost the engine a pass over the vocabulary.
const INSIDE_EVERY: Duration = Duration::from_millis(250);
/// Idle time after which the memory's bandwidth is measured, once.
const IDLE: Duration = Duration::from_millis(700);
/// Candidates shown for the last token.
const CANDIDATES: usize = 8;

/// What the worker is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Answer a conversation.
    Ask { messages: Vec<Message>, options: GenerateOptions },
    /// Say what is in the cache.
    Context,
    /// Take the oldest exchanges away until a quarter of the context is free.
    Shorten(Vec<Message>),
    /// Continue with another model.
    Open(String),
    /// Panic, to see that the terminal survives it. Not in releases.
    #[cfg(debug_assertions)]
    Panic,
}

/// What the worker tells.
#[derive(Debug)]
pub(crate) enum Report {
    /// Another model is ready.
    Opened(Box<ModelInfo>),
    /// A step of something that takes long.
    Doing(String),
    /// The answer goes on.
    Progress(Progress),
    /// The answer is complete.
    Finished { reason: FinishReason, last: Progress },
    /// The conversation does not fit.
    TooLong { tokens: usize, ctx: usize },
    /// What was asked for failed.
    Failed(String),
    /// What is in the cache.
    Context(Context),
    /// The conversation without its oldest exchanges.
    Shortened(Vec<Message>),
    /// Bytes per second that memory can deliver.
    Bandwidth(f64),
    /// The worker is gone; nothing follows.
    Gone,
}

/// The facts about a model and how it is run.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModelInfo {
    pub name: String,
    pub quant: &'static str,
    pub kv: &'static str,
    pub file_bytes: u64,
    pub isa: &'static str,
    pub threads: usize,
    pub ctx: usize,
    pub layers: u32,
    pub vocab: u32,
}

/// What happened since the last report.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// New text.
    pub text: String,
    /// For each new token, the time since the one before; of the first there is none.
    pub token_times: Vec<Duration>,
    /// Tokens of the prompt processed so far, and to be processed.
    pub prefill: (usize, usize),
    pub stats: Stats,
    /// Positions in the cache that the model sees, and those that slid out of its sight.
    pub cached: usize,
    pub slid: usize,
    /// Tokens the engine processed since the answer began, as it counts them.
    pub processed: u64,
    /// Bytes read for a token: what a pass reads, divided by the tokens that come of one.
    pub token_bytes: u64,
    /// The inside, if somebody looks and it is time for another look.
    pub inside: Option<Inside>,
}

/// Where the time goes and what could have been said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inside {
    /// Time of each step, in the order of [`Stage::ALL`], and of how many passes.
    pub steps: Vec<Duration>,
    pub passes: usize,
    /// Text, probability and whether it was chosen, the likeliest first.
    pub candidates: Vec<(String, f32, bool)>,
}

/// The tokens of the context.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    pub tokens: Vec<ContextToken>,
    pub cached: usize,
    pub reused: usize,
    pub ctx: usize,
}

/// A token of the context.
#[derive(Clone, Debug)]
pub(crate) struct ContextToken {
    pub id: u32,
    pub text: String,
    pub is_control: bool,
}

/// What reaches the worker in the middle of its work.
#[derive(Debug, Default)]
pub(crate) struct Controls {
    stop: AtomicBool,
    inside: AtomicBool,
    /// What a frame takes, in nanoseconds, averaged over the last few.
    frame: AtomicU64,
    canceller: std::sync::Mutex<Canceller>,
}

impl Controls {
    /// Ends the answer in progress, or the one that was asked for and has not begun.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Ok(canceller) = self.canceller.lock() {
            canceller.cancel();
        }
    }

    /// To be called before an answer is asked for: earlier stops do not mean it.
    pub(crate) fn rearm(&self) {
        self.stop.store(false, Ordering::SeqCst);
    }

    /// Whether the steps are to be measured.
    pub(crate) fn show_inside(&self, on: bool) {
        self.inside.store(on, Ordering::Relaxed);
    }

    /// Tells how long a frame took. Drawing takes its time from the engine's threads, so the longer
    /// frames take, the rarer reports become, up to a limit.
    pub(crate) fn drawn_in(&self, time: Duration) {
        let (before, now) = (self.frame.load(Ordering::Relaxed), time.as_nanos() as u64);
        let mean = if before == 0 { now } else { before - before / 4 + now / 4 };
        self.frame.store(mean, Ordering::Relaxed);
    }

    /// Time between two reports.
    pub(crate) fn report_every(&self) -> Duration {
        let frame = Duration::from_nanos(self.frame.load(Ordering::Relaxed));
        frame.saturating_mul(DRAWING).clamp(REPORT_EVERY.0, REPORT_EVERY.1)
    }
}

/// Opens the model of a name; what it does meanwhile is told to the second argument.
pub type OpenModel = Box<dyn Fn(&str, &dyn Fn(String)) -> Result<Session, String> + Send>;
/// Measures how many bytes per second memory delivers to this many threads.
pub type MeasureBandwidth = Box<dyn Fn(usize) -> Option<f64> + Send>;

/// The thread's state.
pub(crate) struct Worker {
    pub session: Session,
    pub name: String,
    pub open: OpenModel,
    pub bandwidth: Option<MeasureBandwidth>,
    pub controls: Arc<Controls>,
    pub reports: Box<dyn Fn(Report) + Send>,
}

impl Worker {
    /// Works until nobody asks any more.
    pub(crate) fn run(mut self, commands: &Receiver<Command>) {
        self.connect();
        while let Some(command) = self.next(commands) {
            match command {
                Command::Ask { messages, options } => self.ask(&messages, options),
                Command::Context => (self.reports)(Report::Context(self.context())),
                Command::Shorten(messages) => self.shorten(messages),
                Command::Open(name) => self.open(name),
                #[cfg(debug_assertions)]
                Command::Panic => panic!("asked for"),
            }
        }
    }

    /// Waits for the next command; the first longer wait goes to measuring.
    fn next(&mut self, commands: &Receiver<Command>) -> Option<Command> {
        if self.bandwidth.is_some() {
            match commands.recv_timeout(IDLE) {
                Err(RecvTimeoutError::Timeout) => {
                    let threads = self.session.engine().threads();
                    let measured = self.bandwidth.take().and_then(|measure| measure(threads));
                    measured.into_iter().for_each(|b| (self.reports)(Report::Bandwidth(b)));
                }
                command => return command.ok(),
            }
        }
        commands.recv().ok()
    }

    /// Lets [`Controls::stop`] reach the session.
    fn connect(&self) {
        if let Ok(mut canceller) = self.controls.canceller.lock() {
            *canceller = self.session.canceller();
        }
    }

    /// The facts about the model.
    pub(crate) fn info(&self) -> ModelInfo {
        let engine = self.session.engine();
        let (file, config) = (engine.model().file(), engine.model().config());
        ModelInfo {
            name: self.name.clone(),
            quant: config.quant.name(),
            kv: engine.kv().name(),
            file_bytes: std::fs::metadata(file.path()).map_or(0, |m| m.len()),
            isa: engine.isa().name(),
            threads: engine.threads(),
            ctx: engine.ctx(),
            layers: config.n_layers,
            vocab: config.vocab_size,
        }
    }

    fn open(&mut self, name: String) {
        match (self.open)(&name, &|what| (self.reports)(Report::Doing(what))) {
            Ok(session) => {
                (self.session, self.name) = (session, name);
                self.connect();
                (self.reports)(Report::Opened(Box::new(self.info())));
            }
            Err(what) => (self.reports)(Report::Failed(what)),
        }
    }

    fn ask(&mut self, messages: &[Message], options: GenerateOptions) {
        match self.session.prompt_chat(messages) {
            Ok(()) => {}
            Err(Error::Context { tokens, ctx }) => {
                return (self.reports)(Report::TooLong { tokens, ctx });
            }
            Err(e) => return (self.reports)(Report::Failed(e.to_string())),
        }
        if let Err(e) = self.session.start(options) {
            return (self.reports)(Report::Failed(e.to_string()));
        }
        let mut answer = Answer::begin(&self.session);
        loop {
            if self.controls.stop.load(Ordering::SeqCst) {
                self.session.canceller().cancel();
            }
            answer.watch(&mut self.session, self.controls.inside.load(Ordering::Relaxed));
            match answer.step(&mut self.session) {
                Ok(None) if answer.is_due(self.controls.report_every()) => {
                    (self.reports)(Report::Progress(answer.report(&mut self.session)));
                }
                Ok(None) => {}
                Ok(Some(reason)) => {
                    let last = answer.report(&mut self.session);
                    self.session.remember();
                    for note in self.session.take_notes() {
                        (self.reports)(Report::Doing(note));
                    }
                    return (self.reports)(Report::Finished { reason, last });
                }
                Err(e) => return (self.reports)(Report::Failed(e.to_string())),
            }
        }
    }

    /// Drops the oldest exchanges after the system's message until a quarter of the context is
    /// free.
    fn shorten(&self, mut messages: Vec<Message>) {
        let engine = self.session.engine();
        let limit = engine.ctx() - engine.ctx() / 4;
        loop {
            let tokens = match engine.model().encode_chat(&messages) {
                Ok(ids) => ids.len(),
                Err(e) => return (self.reports)(Report::Failed(e.to_string())),
            };
            if tokens <= limit {
                return (self.reports)(Report::Shortened(messages));
            }
            let first = usize::from(messages.first().is_some_and(|m| m.role == "system"));
            let next = messages.iter().skip(first + 1).position(|m| m.role == "user");
            match next {
                Some(next) => drop(messages.drain(first..first + 1 + next)),
                None => {
                    let ctx = engine.ctx();
                    return (self.reports)(Report::TooLong { tokens, ctx });
                }
            }
        }
    }

    fn context(&self) -> Context {
        let model = self.session.engine().model();
        let vocab = model.vocab();
        let token = |&id: &u32| ContextToken {
            id,
            text: vocab.as_ref().map_or(String::new(), |v| {
                terminal_safe(&String::from_utf8_lossy(v.bytes(id))).into_owned()
            }),
            is_control: vocab.as_ref().is_some_and(|v| v.is_special(id)),
        };
        Context {
            tokens: self.session.tokens().iter().map(token).collect(),
            cached: self.session.cached(),
            reused: self.session.stats().reused_tokens,
            ctx: self.session.engine().ctx(),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        (self.reports)(Report::Gone);
    }
}

/// An answer in progress, as it is reported.
pub(crate) struct Answer {
    pending: Progress,
    prefill: (usize, usize),
    processed_before: u64,
    last_token: Option<Instant>,
    reported: Instant,
    looked_inside: Option<Instant>,
    /// The prompt moved on: worth a report at any time.
    prefilled: bool,
    watching: bool,
    passes: usize,
    /// Passes of the answer at the last step: an accepted draft is a token without a pass.
    answered: usize,
}

impl Answer {
    pub(crate) fn begin(session: &Session) -> Self {
        let stats = session.stats();
        Self {
            pending: Progress::default(),
            prefill: (0, stats.prompt_tokens - stats.reused_tokens),
            processed_before: session.engine().processed(),
            last_token: None,
            reported: Instant::now(),
            looked_inside: None,
            prefilled: true,
            watching: false,
            passes: 0,
            answered: 0,
        }
    }

    /// Measures steps while somebody looks. Prompt and answer are different work: the measurement
    /// begins anew with the first token.
    pub(crate) fn watch(&mut self, session: &mut Session, on: bool) {
        let first_token = self.watching && self.prefilled && self.prefill.0 == self.prefill.1;
        if on != self.watching || first_token {
            session.set_profiling(on);
            (self.watching, self.passes, self.looked_inside) = (on, 0, None);
        }
    }

    /// One step of the session, gathered for the next report; the reason if it was the last.
    pub(crate) fn step(&mut self, session: &mut Session) -> Result<Option<FinishReason>, Error> {
        self.prefilled = false;
        match session.next()? {
            Some(Event::Prefill { done, total }) => {
                self.prefill = (done, total);
                self.prefilled = true;
                self.passes += 1;
            }
            Some(Event::Token { text, .. }) => {
                self.pending.text.push_str(text);
                let now = Instant::now();
                let last = self.last_token.replace(now);
                self.pending.token_times.extend(last.map(|last| now - last));
            }
            Some(Event::Finished { text, reason, .. }) => {
                self.pending.text.push_str(text);
                self.looked_inside = None; // what is shown at the end is of the last token
                return Ok(Some(reason));
            }
            Some(_) => {}
            None => return Ok(Some(FinishReason::Cancelled)),
        }
        let answered = session.stats().drafts.passes;
        self.passes += answered - std::mem::replace(&mut self.answered, answered);
        Ok(None)
    }

    pub(crate) fn is_due(&self, every: Duration) -> bool {
        self.prefilled || self.reported.elapsed() >= every
    }

    /// What was gathered.
    pub(crate) fn report(&mut self, session: &mut Session) -> Progress {
        let now = Instant::now();
        self.reported = now;
        let mut progress = std::mem::take(&mut self.pending);
        progress.prefill = self.prefill;
        progress.stats = session.stats();
        progress.slid = session.evicted();
        progress.cached = session.cached() - progress.slid;
        progress.processed = session.engine().processed() - self.processed_before;
        let per_pass = progress.stats.drafts.tokens_per_pass().max(1.0);
        let pass_bytes = session.engine().decode_bytes(progress.cached);
        progress.token_bytes = (pass_bytes as f64 / per_pass) as u64;
        let seen = self.looked_inside.is_some_and(|at| now - at < INSIDE_EVERY);
        if self.watching && !seen {
            self.looked_inside = Some(now);
            progress.inside = Some(inside(session, self.passes));
        }
        progress
    }
}

fn inside(session: &mut Session, passes: usize) -> Inside {
    let chosen = session.generated().last().copied();
    let candidates = session.candidates(CANDIDATES);
    let engine = session.engine();
    let vocab = engine.model().vocab();
    let text = |id: u32| match &vocab {
        Some(v) => String::from_utf8_lossy(v.bytes(id)).into_owned(),
        None => id.to_string(),
    };
    Inside {
        steps: Stage::ALL.iter().map(|step| engine.profile().time(*step)).collect(),
        passes,
        candidates: candidates
            .iter()
            .map(|c| (text(c.id), c.probability, Some(c.id) == chosen))
            .collect(),
    }
}
