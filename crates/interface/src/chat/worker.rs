//! The engine's thread: executes [`Command`]s and sends [`Report`]s.
//!
//! Tokens are batched into a few reports (see [`Controls::record_frame`]), so that the drawing thread
//! wakes up once per frame rather than once per token.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use nanoinfer_engine::{
    Canceller, Error, Event, FinishReason, GenerateOptions, Message, Session, Stage, Stats,
};
use nanoinfer_text::{AnswerEvent, AnswerParser, terminal_safe};

use crate::shorten::{shorten, shortened};

/// Bounds of the interval between reports (20 to 6 reports per second).
const REPORT_INTERVAL: (Duration, Duration) =
    (Duration::from_millis(50), Duration::from_millis(150));
/// Reciprocal of the maximum share of time spent drawing.
const DRAWING_SHARE: u32 = 100;
/// Interval between reports of details, each of which costs a pass over the vocabulary.
const DETAILS_INTERVAL: Duration = Duration::from_millis(250);
/// Idle time before the only measurement of memory bandwidth.
const IDLE: Duration = Duration::from_millis(700);
/// Number of candidates shown for the last token.
const CANDIDATES: usize = 8;

/// A command to the worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// Answer a conversation.
    Answer { messages: Vec<Message>, options: GenerateOptions },
    /// Report the tokens of the context.
    Context,
    /// Drop the oldest exchanges until a quarter of the context is free.
    Shorten(Vec<Message>),
    /// Switch to another model.
    Open(String),
    /// Panic, to test that the terminal is restored. Debug builds only.
    #[cfg(debug_assertions)]
    Panic,
}

/// A report from the worker.
#[derive(Debug)]
pub(crate) enum Report {
    /// Another model was opened.
    Opened(Box<ModelInfo>),
    /// Status of a long operation.
    Status(String),
    /// Part of the answer.
    Progress(Progress),
    /// The answer is complete.
    Finished { reason: FinishReason, last: Progress },
    /// The conversation does not fit.
    TooLong { tokens: usize, ctx: usize },
    /// The command failed.
    Failed(String),
    /// The tokens of the context.
    Context(Context),
    /// The shortened conversation.
    Shortened(Vec<Message>),
    /// Memory bandwidth in bytes per second.
    Bandwidth(f64),
    /// The worker has ended; this is its last report.
    Gone,
}

/// The model and how it runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModelInfo {
    pub name: String,
    /// The precision of the weights.
    pub weights: String,
    pub kv: &'static str,
    pub file_bytes: u64,
    pub isa: &'static str,
    pub threads: usize,
    pub ctx: usize,
    /// Longest context that the model was trained for.
    pub trained: usize,
    pub layers: u32,
    pub vocab: u32,
}

/// Changes since the last report.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// New text.
    pub text: String,
    /// New text of the reasoning before it.
    pub reasoning: String,
    /// Time since the previous token, for each new token except the answer's first.
    pub token_times: Vec<Duration>,
    /// Prompt tokens processed so far, and in total.
    pub prefill: (usize, usize),
    pub stats: Stats,
    /// Positions visible to the model.
    pub cached: usize,
    /// Positions evicted by sliding.
    pub slid: usize,
    /// The engine's count of tokens processed since the answer began.
    pub processed: u64,
    /// Bytes read per token: bytes per pass, divided by tokens per pass.
    pub token_bytes: u64,
    /// Present if details are shown and due.
    pub details: Option<Details>,
}

/// Time per step, and candidates for the last token.
#[derive(Clone, Debug, Default)]
pub(crate) struct Details {
    /// Time of each step in the order of [`Stage::ALL`], summed over `passes`.
    pub steps: Vec<Duration>,
    pub passes: usize,
    /// Text, probability, and whether it was chosen; most likely first.
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

/// State shared with the worker while it is busy.
#[derive(Debug, Default)]
pub(crate) struct Controls {
    stop: AtomicBool,
    details: AtomicBool,
    /// Moving average of the time per frame, in nanoseconds.
    frame: AtomicU64,
    canceller: std::sync::Mutex<Canceller>,
}

impl Controls {
    /// Stops the current answer, or a requested one that has not begun.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Ok(canceller) = self.canceller.lock() {
            canceller.cancel();
        }
    }

    /// Call this before requesting an answer, so that earlier stops do not apply to it.
    pub(crate) fn rearm(&self) {
        self.stop.store(false, Ordering::SeqCst);
    }

    /// Turns the profiling of steps on or off.
    pub(crate) fn show_details(&self, on: bool) {
        self.details.store(on, Ordering::Relaxed);
    }

    /// Records the drawing time of a frame. Drawing competes with the engine's threads, so slower
    /// frames make reports less frequent, down to a minimum rate.
    pub(crate) fn record_frame(&self, time: Duration) {
        let (before, now) = (self.frame.load(Ordering::Relaxed), time.as_nanos() as u64);
        let mean = if before == 0 { now } else { before - before / 4 + now / 4 };
        self.frame.store(mean, Ordering::Relaxed);
    }

    /// Interval between reports.
    pub(crate) fn report_interval(&self) -> Duration {
        let frame = Duration::from_nanos(self.frame.load(Ordering::Relaxed));
        frame.saturating_mul(DRAWING_SHARE).clamp(REPORT_INTERVAL.0, REPORT_INTERVAL.1)
    }
}

/// Opens a model by name; status messages go to the second argument.
pub type OpenModel = Box<dyn Fn(&str, &dyn Fn(String)) -> Result<Session, String> + Send>;
/// Formats an engine's error.
pub type DescribeError = fn(&Error) -> String;
/// Measures the memory bandwidth of the given number of threads, in bytes per second.
pub type MeasureBandwidth = Box<dyn Fn(usize) -> Option<f64> + Send>;

/// The thread's state.
pub(crate) struct Worker {
    pub session: Session,
    pub name: String,
    pub open: OpenModel,
    pub describe: DescribeError,
    pub bandwidth: Option<MeasureBandwidth>,
    pub controls: Arc<Controls>,
    pub reports: Box<dyn Fn(Report) + Send>,
}

impl Worker {
    /// Runs until the command channel closes.
    pub(crate) fn run(mut self, commands: &Receiver<Command>) {
        self.connect();
        while let Some(command) = self.next(commands) {
            match command {
                Command::Answer { messages, options } => self.answer(&messages, options),
                Command::Context => (self.reports)(Report::Context(self.context())),
                Command::Shorten(messages) => self.shorten(messages),
                Command::Open(name) => self.open(name),
                #[cfg(debug_assertions)]
                Command::Panic => panic!("requested by a test"),
            }
        }
    }

    /// Waits for the next command. The first long wait is used to measure bandwidth.
    fn next(&mut self, commands: &Receiver<Command>) -> Option<Command> {
        if self.bandwidth.is_some() {
            match commands.recv_timeout(IDLE) {
                Err(RecvTimeoutError::Timeout) => {
                    let threads = self.session.engine().threads();
                    if let Some(bytes) = self.bandwidth.take().and_then(|measure| measure(threads))
                    {
                        (self.reports)(Report::Bandwidth(bytes));
                    }
                }
                command => return command.ok(),
            }
        }
        commands.recv().ok()
    }

    /// Connects [`Controls::stop`] to the session.
    fn connect(&self) {
        if let Ok(mut canceller) = self.controls.canceller.lock() {
            *canceller = self.session.canceller();
        }
    }

    /// Describes the model.
    pub(crate) fn info(&self) -> ModelInfo {
        let engine = self.session.engine();
        let (file, config) = (engine.model().file(), engine.model().config());
        ModelInfo {
            name: self.name.clone(),
            weights: file.recipe().summary(config),
            kv: engine.kv().name(),
            file_bytes: std::fs::metadata(file.path()).map_or(0, |m| m.len()),
            isa: engine.isa().name(),
            threads: engine.threads(),
            ctx: engine.ctx(),
            trained: config.context_length as usize,
            layers: config.n_layers,
            vocab: config.vocab_size,
        }
    }

    fn open(&mut self, name: String) {
        match (self.open)(&name, &|text| (self.reports)(Report::Status(text))) {
            Ok(session) => {
                (self.session, self.name) = (session, name);
                self.connect();
                (self.reports)(Report::Opened(Box::new(self.info())));
            }
            Err(message) => (self.reports)(Report::Failed(message)),
        }
    }

    fn answer(&mut self, messages: &[Message], options: GenerateOptions) {
        match self.session.prompt_chat(messages) {
            Ok(()) => {}
            Err(Error::Prompt { tokens, ctx, .. }) => {
                return (self.reports)(Report::TooLong { tokens, ctx });
            }
            Err(e) => return (self.reports)(Report::Failed((self.describe)(&e))),
        }
        if let Err(e) = self.session.start(options) {
            return (self.reports)(Report::Failed((self.describe)(&e)));
        }
        let mut answer = Answer::begin(&self.session);
        loop {
            if self.controls.stop.load(Ordering::SeqCst) {
                self.session.canceller().cancel();
            }
            answer.profile(&mut self.session, self.controls.details.load(Ordering::Relaxed));
            match answer.step(&mut self.session) {
                Ok(None) if answer.is_due(self.controls.report_interval()) => {
                    (self.reports)(Report::Progress(answer.report(&mut self.session)));
                }
                Ok(None) => {}
                Ok(Some(reason)) => {
                    let last = answer.report(&mut self.session);
                    self.session.remember();
                    for note in self.session.take_notes() {
                        (self.reports)(Report::Status(note));
                    }
                    return (self.reports)(Report::Finished { reason, last });
                }
                Err(e) => return (self.reports)(Report::Failed((self.describe)(&e))),
            }
        }
    }

    /// Drops the oldest exchanges after the system message until a quarter of the context is free.
    fn shorten(&self, mut messages: Vec<Message>) {
        let ctx = self.session.engine().ctx();
        let limit = shortened(ctx);
        (self.reports)(match shorten(self.session.engine().model(), limit, &mut messages) {
            Ok(tokens) if tokens <= limit => Report::Shortened(messages),
            Ok(tokens) => Report::TooLong { tokens, ctx },
            Err(e) => Report::Failed((self.describe)(&e)),
        });
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

/// Reports an answer in progress.
pub(crate) struct Answer {
    pending: Progress,
    parser: AnswerParser,
    prefill: (usize, usize),
    processed_before: u64,
    last_token: Option<Instant>,
    reported: Instant,
    details_reported: Option<Instant>,
    /// Whether the last step processed prompt tokens, which is always reported.
    prefilled: bool,
    profiling: bool,
    passes: usize,
    /// Passes of the answer up to the last step. Accepted drafts are tokens without their own pass.
    answered: usize,
}

impl Answer {
    pub(crate) fn begin(session: &Session) -> Self {
        let stats = session.stats();
        let model = session.engine().model();
        let format = model.answer_format();
        let parser = match model.vocab() {
            Some(vocab) => AnswerParser::after(&format, &vocab, session.tokens(), None),
            None => AnswerParser::new(&format, "", None),
        };
        Self {
            pending: Progress::default(),
            parser,
            prefill: (0, stats.prompt_tokens - stats.reused_tokens),
            processed_before: session.engine().processed(),
            last_token: None,
            reported: Instant::now(),
            details_reported: None,
            prefilled: true,
            profiling: false,
            passes: 0,
            answered: 0,
        }
    }

    /// Profiles steps while details are shown. Processing the prompt differs from generating the
    /// answer, so the profile restarts at the first token.
    pub(crate) fn profile(&mut self, session: &mut Session, on: bool) {
        let first_token = self.profiling && self.prefilled && self.prefill.0 == self.prefill.1;
        if on != self.profiling || first_token {
            session.set_profiling(on);
            self.profiling = on;
            self.passes = 0;
            self.details_reported = None;
        }
    }

    /// Advances the session and collects the event for the next report. Returns the finish reason
    /// after the last event.
    pub(crate) fn step(&mut self, session: &mut Session) -> Result<Option<FinishReason>, Error> {
        self.prefilled = false;
        match session.next()? {
            Some(Event::Prefill { done, total }) => {
                self.prefill = (done, total);
                self.prefilled = true;
                self.passes += 1;
            }
            Some(Event::Token { id, text, .. }) => {
                self.parser.push(Some(id), text, &mut add_to(&mut self.pending));
                let now = Instant::now();
                let last = self.last_token.replace(now);
                self.pending.token_times.extend(last.map(|last| now - last));
            }
            Some(Event::Finished { text, reason, .. }) => {
                self.parser.push(None, text, &mut add_to(&mut self.pending));
                self.parser.finish(&mut add_to(&mut self.pending));
                self.details_reported = None; // the last report shows the last token's details
                return Ok(Some(reason));
            }
            Some(_) => {}
            None => return Ok(Some(FinishReason::Cancelled)),
        }
        let answered = session.stats().drafts.passes;
        self.passes += answered - std::mem::replace(&mut self.answered, answered);
        Ok(None)
    }

    pub(crate) fn is_due(&self, interval: Duration) -> bool {
        self.prefilled || self.reported.elapsed() >= interval
    }

    /// Everything since the last report.
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
        let pass_bytes = session.engine().decode_bytes(1, progress.cached);
        progress.token_bytes = (pass_bytes as f64 / per_pass) as u64;
        let recent = self.details_reported.is_some_and(|at| now - at < DETAILS_INTERVAL);
        if self.profiling && !recent {
            self.details_reported = Some(now);
            progress.details = Some(details(session, self.passes));
        }
        progress
    }
}

/// Adds events of an answer without tools to a report.
fn add_to(progress: &mut Progress) -> impl FnMut(AnswerEvent<'_>) {
    |event| match event {
        AnswerEvent::Reasoning(text) => progress.reasoning.push_str(text),
        AnswerEvent::Content(text) | AnswerEvent::Malformed(text) => progress.text.push_str(text),
        _ => {}
    }
}

fn details(session: &mut Session, passes: usize) -> Details {
    let chosen = session.generated().last().copied();
    let candidates = session.candidates(CANDIDATES);
    let engine = session.engine();
    let vocab = engine.model().vocab();
    let text = |id: u32| match &vocab {
        Some(v) => String::from_utf8_lossy(v.bytes(id)).into_owned(),
        None => id.to_string(),
    };
    Details {
        steps: Stage::ALL.iter().map(|step| engine.profile().time(*step)).collect(),
        passes,
        candidates: candidates
            .iter()
            .map(|c| (text(c.id), c.probability, Some(c.id) == chosen))
            .collect(),
    }
}
