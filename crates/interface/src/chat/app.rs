//! The state of the chat, and how reports change it. Side effects (commands to the engine, files,
//! the clipboard) are returned as [`Effect`]s.

use std::path::PathBuf;
use std::time::Instant;

use nanoinfer_engine::{FinishReason, GenerateOptions};

use super::editor::Editor;
use super::history::History;
use super::messages;
use super::telemetry::Telemetry;
use super::theme::Theme;
use super::transcript::{Entry, Speaker, Transcript};
use super::worker::{Command, Context, ModelInfo, Progress, Report};

/// What the engine's thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Busy {
    No,
    Answering,
    Opening,
}

/// The telemetry pane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pane {
    Off,
    Figures,
    Details,
}

/// A window shown over the conversation.
#[derive(Debug)]
pub(crate) enum Overlay {
    None,
    Help { scroll: usize },
    Context { context: Context, cursor: usize },
    Search { query: String, hit: Option<(usize, String)> },
    Full(Full),
}

/// The context is full, and the user has to choose how to continue.
#[derive(Clone, Debug)]
pub(crate) struct Full {
    pub tokens: usize,
    pub ctx: usize,
    /// The message that does not fit; `None` if an answer was cut off.
    pub message: Option<String>,
}

/// A side effect to carry out.
#[derive(Debug)]
pub(crate) enum Effect {
    Quit,
    Command(Command),
    Stop,
    Details(bool),
    Copy(String),
    Write { path: PathBuf, text: String },
    Load(PathBuf),
    Redraw,
}

/// A message in the status line.
#[derive(Debug)]
pub(crate) struct Notice {
    pub text: String,
    pub is_error: bool,
}

/// Everything shown on the screen.
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
    /// Current time, for the durations on the screen.
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
        let mut app = Self {
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
        };
        app.warn_beyond_training();
        app
    }

    fn warn_beyond_training(&mut self) {
        let (ctx, trained) = (self.info.ctx, self.info.trained);
        if ctx > trained {
            self.show(messages::beyond_training(ctx, trained));
        }
    }

    /// Adds a note to the transcript.
    pub(crate) fn show(&mut self, text: String) {
        self.transcript.push(Entry::new(Speaker::Note, text));
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notice = Some(Notice { text: text.into(), is_error: false });
    }

    pub(crate) fn fail(&mut self, text: impl Into<String>) {
        self.notice = Some(Notice { text: text.into(), is_error: true });
    }

    /// Adds a message and requests an answer.
    pub(crate) fn send_message(&mut self, message: String) -> Effect {
        self.transcript.push(Entry::new(Speaker::User, message));
        let messages = self.transcript.messages();
        self.transcript.push(Entry::new(Speaker::Model, ""));
        self.busy = Busy::Answering;
        self.telemetry.begin(self.now);
        Effect::Command(Command::Answer { messages, options: self.options.clone() })
    }

    /// Applies a report from the worker.
    pub(crate) fn report(&mut self, report: Report) -> Option<Effect> {
        match report {
            Report::Opened(info) => {
                self.note(messages::opened(&info.name));
                self.info = *info;
                self.warn_beyond_training();
                self.busy = Busy::No;
                self.telemetry.last = Default::default();
            }
            Report::Status(text) => self.note(text),
            Report::Progress(mut progress) => {
                self.stream(&mut progress);
                self.telemetry.update(progress);
            }
            Report::Finished { reason, mut last } => {
                self.stream(&mut last);
                self.telemetry.update(last);
                self.finish(reason);
            }
            Report::TooLong { tokens, ctx } => {
                let message = match &mut self.overlay {
                    // Not even the shortened conversation fits.
                    Overlay::Full(full) if self.busy == Busy::No => full.message.take(),
                    _ => self.retract(),
                };
                self.overlay = Overlay::Full(Full { tokens, ctx, message });
            }
            Report::Failed(message) => {
                let removed = self.busy == Busy::Answering && self.remove_unanswered();
                self.ended();
                self.fail(if removed { messages::not_sent(&message) } else { message });
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

    fn stream(&mut self, progress: &mut Progress) {
        let reasoning = std::mem::take(&mut progress.reasoning);
        let text = std::mem::take(&mut progress.text);
        if let Some(answer) = self.transcript.answer() {
            answer.push_reasoning(&reasoning);
            answer.push(&text);
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
            let message = self.retract();
            self.return_to_editor(message);
            self.note(messages::STOPPED_EARLY);
            return;
        }
        if let Some(answer) = self.transcript.answer() {
            answer.set_footer(messages::footer(&stats, reason));
        }
        if reason == FinishReason::Context {
            let ctx = self.info.ctx;
            self.overlay = Overlay::Full(Full { tokens: ctx, ctx, message: None });
        }
    }

    /// Removes the last message and its answer from the transcript.
    fn retract(&mut self) -> Option<String> {
        self.ended();
        self.transcript.undo()
    }

    fn return_to_editor(&mut self, message: Option<String>) {
        if let (Some(message), true) = (message, self.editor.is_empty()) {
            self.editor.set(message);
        }
    }

    /// Removes the last message if its answer has not begun, so that the next one is sent without it.
    fn remove_unanswered(&mut self) -> bool {
        let unanswered =
            self.transcript.answer().is_some_and(|a| a.text.is_empty() && a.reasoning.is_empty());
        unanswered && self.retract().is_some()
    }

    /// The worker has dropped the oldest exchanges at the user's request.
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
        self.note(messages::forgotten(forgotten));
        message.map(|m| self.send_message(m))
    }
}
