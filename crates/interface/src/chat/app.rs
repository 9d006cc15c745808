//! The state of the chat, and how actions and reports change it. What has to be done outside
//! (asking the engine, files, the clipboard) comes back as [`Effect`]s.

use std::path::PathBuf;
use std::time::Instant;

use nanoinfer_engine::{FinishReason, GenerateOptions, Stats};

use super::editor::Editor;
use super::history::History;
use super::telemetry::Telemetry;
use super::theme::Theme;
use super::transcript::{Entry, Speaker, Transcript};
use super::worker::{Command, Context, ModelInfo, Report};

/// What the engine's thread is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Busy {
    No,
    Answering,
    Opening,
}

/// What is shown of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pane {
    Off,
    Figures,
    Inside,
}

/// What is in front of the conversation.
#[derive(Debug)]
pub(crate) enum Overlay {
    None,
    Help { scroll: usize },
    Context { context: Context, cursor: usize },
    Search { query: String, hit: Option<(usize, String)> },
    Full(Full),
}

/// The context is full, and someone has to say what goes.
#[derive(Clone, Debug)]
pub(crate) struct Full {
    pub tokens: usize,
    pub ctx: usize,
    /// The message that did not fit; `None` if an answer was cut off.
    pub message: Option<String>,
}

/// What is to be done outside.
#[derive(Debug)]
pub(crate) enum Effect {
    Quit,
    Command(Command),
    Stop,
    Inside(bool),
    Copy(String),
    Write { path: PathBuf, text: String },
    Load(PathBuf),
    Redraw,
}

/// A line about what just happened.
#[derive(Debug)]
pub(crate) struct Notice {
    pub text: String,
    pub is_error: bool,
}

/// All that the screen shows.
pub(crate) struct App {
    pub transcript: Transcript,
    pub editor: Editor,
    pub history: History,
    pub telemetry: Telemetry,
    pub info: ModelInfo,
    pub options: GenerateOptions,
    pub theme: Theme,
    pub pane: Pane,
    pub overlay: Overlay,
    pub busy: Busy,
    pub notice: Option<Notice>,
    /// Completions to choose from.
    pub choices: Vec<&'static str>,
    /// The time that durations on the screen are counted to.
    pub now: Instant,
}

impl App {
    pub(crate) fn new(
        info: ModelInfo,
        system: Option<String>,
        options: GenerateOptions,
        history: History,
        theme: Theme,
    ) -> Self {
        Self {
            transcript: Transcript::new(system),
            editor: Editor::default(),
            history,
            telemetry: Telemetry::default(),
            info,
            options,
            theme,
            pane: Pane::Figures,
            overlay: Overlay::None,
            busy: Busy::No,
            notice: None,
            choices: Vec::new(),
            now: Instant::now(),
        }
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notice = Some(Notice { text: text.into(), is_error: false });
    }

    pub(crate) fn fail(&mut self, text: impl Into<String>) {
        self.notice = Some(Notice { text: text.into(), is_error: true });
    }

    /// Puts a message and asks for its answer.
    pub(crate) fn ask(&mut self, message: String) -> Effect {
        self.transcript.push(Entry::new(Speaker::User, message));
        self.answer()
    }

    /// Asks for an answer to what was said.
    pub(crate) fn answer(&mut self) -> Effect {
        let messages = self.transcript.messages();
        self.transcript.push(Entry::new(Speaker::Model, ""));
        self.busy = Busy::Answering;
        self.telemetry.begin(self.now);
        Effect::Command(Command::Ask { messages, options: self.options.clone() })
    }

    /// Takes what the worker tells.
    pub(crate) fn report(&mut self, report: Report) -> Option<Effect> {
        match report {
            Report::Opened(info) => {
                self.note(format!("now talking with {}", info.name));
                self.info = *info;
                self.busy = Busy::No;
                self.telemetry.last = Default::default();
            }
            Report::Doing(what) => self.note(what),
            Report::Progress(mut progress) => {
                self.stream(&std::mem::take(&mut progress.text));
                self.telemetry.update(progress);
            }
            Report::Finished { reason, mut last } => {
                self.stream(&std::mem::take(&mut last.text));
                self.telemetry.update(last);
                self.finish(reason);
            }
            Report::TooLong { tokens, ctx } => {
                let message = self.take_back();
                self.overlay = Overlay::Full(Full { tokens, ctx, message });
            }
            Report::Failed(what) => {
                if self.busy == Busy::Answering {
                    self.abandon_empty_answer();
                }
                self.ended();
                self.fail(what);
            }
            Report::Context(context) => {
                let cursor = context.tokens.len().saturating_sub(1);
                self.overlay = Overlay::Context { context, cursor };
            }
            Report::Shortened(messages) => return self.shortened(messages.len()),
            Report::Bandwidth(bytes) => self.telemetry.roofline = Some(bytes),
            Report::Gone => return Some(Effect::Quit),
        }
        None
    }

    fn stream(&mut self, text: &str) {
        if let (Some(answer), false) = (self.transcript.answer(), text.is_empty()) {
            answer.push(text);
        }
    }

    fn ended(&mut self) {
        self.busy = Busy::No;
        self.telemetry.end();
    }

    fn finish(&mut self, reason: FinishReason) {
        self.ended();
        let stats = self.telemetry.last.stats;
        if reason == FinishReason::Cancelled && stats.generated == 0 {
            let message = self.take_back();
            self.return_to_editor(message);
            self.note("stopped before the answer began; your message is in the input again");
            return;
        }
        if let Some(answer) = self.transcript.answer() {
            answer.set_footer(footer(&stats, reason));
        }
        if reason == FinishReason::Context {
            let ctx = self.info.ctx;
            self.overlay = Overlay::Full(Full { tokens: ctx, ctx, message: None });
        }
    }

    /// Takes the last message and its answer off the transcript.
    fn take_back(&mut self) -> Option<String> {
        self.ended();
        self.transcript.undo()
    }

    fn return_to_editor(&mut self, message: Option<String>) {
        if let (Some(message), true) = (message, self.editor.is_empty()) {
            self.editor.set(message);
        }
    }

    fn abandon_empty_answer(&mut self) {
        if self.transcript.answer().is_some_and(|a| a.text.is_empty()) {
            let message = self.take_back();
            self.return_to_editor(message);
        }
    }

    /// The oldest exchanges are gone, as was chosen.
    fn shortened(&mut self, kept: usize) -> Option<Effect> {
        self.busy = Busy::No;
        let message = match std::mem::replace(&mut self.overlay, Overlay::None) {
            Overlay::Full(full) => full.message,
            other => {
                self.overlay = other;
                None
            }
        };
        let kept = kept - usize::from(self.transcript.system.is_some());
        let forgotten = self.transcript.forget(kept - usize::from(message.is_some()));
        self.note(format!("the oldest {forgotten} messages are forgotten"));
        message.map(|m| self.ask(m))
    }
}

/// The line below an answer.
fn footer(stats: &Stats, reason: FinishReason) -> String {
    let mut text = match reason {
        FinishReason::Length => "cut off by max-tokens · ",
        FinishReason::Context => "the context is full · ",
        FinishReason::Cancelled => "stopped · ",
        _ => "",
    }
    .to_owned();
    text += &format!("{} tokens", stats.generated);
    if stats.decode_tps() > 0.0 {
        text += &format!(" · {:.1} tokens/s", stats.decode_tps());
    }
    let new = stats.prompt_tokens - stats.reused_tokens;
    text + &format!(" · prompt {new} new, {} reused", stats.reused_tokens)
}
