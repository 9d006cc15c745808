//! A line-by-line conversation.
//!
//! Each line is a message or one of the commands of the full-screen chat that make sense here.

mod input;

use std::io::{self, BufRead, Write};
use std::ops::ControlFlow;
use std::path::Path;

use nanoinfer_engine::{
    Error as EngineError, Event, FinishReason, GenerateOptions, Overflow, Session,
};
use nanoinfer_text::terminal_safe;

use crate::chat::commands::{self, COMMANDS, Slash};
use crate::chat::files;
use crate::chat::messages;
use crate::chat::transcript::{Entry, Speaker, Transcript};
use crate::shorten::{shorten, shortened};
use crate::terminal::Output;
use input::{Line, Lines};

pub use crate::chat::DescribeError;

/// The commands that work line by line.
const LINE_COMMANDS: &[Slash] = &[
    Slash::Help,
    Slash::Clear,
    Slash::Regen,
    Slash::Undo,
    Slash::System,
    Slash::Set,
    Slash::Save,
    Slash::Load,
    Slash::Export,
    Slash::Exit,
];

/// Why a conversation ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A stream failed; [`io::ErrorKind::BrokenPipe`] if the reader has closed the pipe.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A line of piped input cannot be a message or a command.
    #[error("standard input, line {line}: {what}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// All input was read, but messages were not answered, or answers were cut off by the end of the
    /// context. Only for piped input.
    #[error(
        "messages not answered: {unanswered}; answers cut off by the end of the context: {cut}; the \
         notes above say why"
    )]
    Incomplete {
        /// Messages that were not answered.
        unanswered: usize,
        /// Answers that the end of the context cut off.
        cut: usize,
    },
}

/// Configuration of a conversation.
#[derive(Debug)]
pub struct Setup {
    /// System message.
    pub system: Option<String>,
    /// How answers are generated.
    pub options: GenerateOptions,
    /// Whether a person types the input. Otherwise, a line that cannot be used ends the conversation.
    pub interactive: bool,
    /// The message for an engine's error, with advice in terms of the command's options.
    pub describe: DescribeError,
}

/// Reads messages and commands from `input` until it ends or a line is `exit`, and streams answers to
/// `out`.
///
/// Everything else is written to `notes`: the prompt `> ` if interactive, the output of commands, and the
/// speed after each answer. The oldest turns are dropped from a full context, with a note. A message that
/// does not fit on its own or that the chat template rejects is not answered, and the conversation goes
/// on without it.
///
/// # Errors
/// The engine or one of the streams fails or, unless interactive, the conversation is incomplete.
pub fn run(
    session: &mut Session,
    setup: Setup,
    input: impl BufRead,
    out: &mut Output<impl Write>,
    notes: impl Write,
) -> Result<(), Error> {
    let mut lines = Lines::new(input);
    let transcript = Transcript::new(setup.system.clone());
    let mut chat = Chat { session, setup, transcript, out, notes, unanswered: 0, cut: 0 };
    loop {
        if chat.setup.interactive {
            write!(chat.notes, "> ")?;
            chat.notes.flush()?;
        }
        let Some(line) = lines.next()? else { return chat.end() };
        let taken = match line {
            Line::Text(text) => chat.take(text.trim())?,
            Line::Invalid { byte } => {
                Err(format!("invalid UTF-8 at byte {byte} of the input; convert the text to UTF-8"))
            }
        };
        match taken {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => return chat.end(),
            Err(what) if chat.setup.interactive => chat.note(&what)?,
            Err(what) => return Err(Error::Line { line: lines.number(), what }),
        }
    }
}

/// The result of a line: whether the conversation goes on, or why the line cannot be used.
type Taken = Result<ControlFlow<()>, String>;

struct Chat<'a, O: Write, N> {
    session: &'a mut Session,
    setup: Setup,
    transcript: Transcript,
    out: &'a mut Output<O>,
    notes: N,
    unanswered: usize,
    cut: usize,
}

impl<O: Write, N: Write> Chat<'_, O, N> {
    fn take(&mut self, text: &str) -> Result<Taken, Error> {
        match text {
            "" => return Ok(Ok(ControlFlow::Continue(()))),
            "exit" => return Ok(Ok(ControlFlow::Break(()))),
            _ => {}
        }
        if let Some(rest) = text.strip_prefix("//") {
            self.say(format!("/{rest}"))?;
        } else if commands::is_command(text) {
            return self.command(text);
        } else {
            self.say(text.to_owned())?;
        }
        Ok(Ok(ControlFlow::Continue(())))
    }

    /// Executes a command.
    fn command(&mut self, text: &str) -> Result<Taken, Error> {
        let (slash, argument) = match commands::parse(text) {
            Ok((slash, _)) if !LINE_COMMANDS.contains(&slash) => {
                return Ok(Err(messages::only_full_screen(slash.name())));
            }
            Ok(parsed) => parsed,
            Err(what) => return Ok(Err(what)),
        };
        let shown = match slash {
            Slash::Exit => return Ok(Ok(ControlFlow::Break(()))),
            Slash::Regen => match self.transcript.undo() {
                Some(message) => {
                    self.setup.options.sampling.seed += 1;
                    self.say(message)?;
                    return Ok(Ok(ControlFlow::Continue(())));
                }
                None => Ok(messages::NOTHING_TO_REGENERATE.to_owned()),
            },
            Slash::Help => Ok(help()),
            Slash::Clear => {
                self.transcript.clear();
                Ok(messages::CLEARED.to_owned())
            }
            Slash::Undo => Ok(match self.transcript.undo() {
                Some(_) => messages::UNDONE.to_owned(),
                None => messages::NOTHING_TO_UNDO.to_owned(),
            }),
            Slash::System if argument.is_empty() => {
                Ok(messages::system(self.transcript.system.as_deref()))
            }
            Slash::System => {
                self.transcript.system = Some(argument.to_owned());
                Ok(messages::SYSTEM_SET.to_owned())
            }
            Slash::Set => {
                let options = &mut self.setup.options;
                let set =
                    if argument.is_empty() { Ok(()) } else { commands::set(options, argument) };
                set.map(|()| commands::settings(options))
            }
            _ => self.file(slash, argument),
        };
        match shown {
            Ok(text) => {
                self.note(&text)?;
                Ok(Ok(ControlFlow::Continue(())))
            }
            Err(what) => Ok(Err(what)),
        }
    }

    /// `/save`, `/load` and `/export`.
    fn file(&mut self, slash: Slash, name: &str) -> Result<String, String> {
        if name.is_empty() {
            return Err(messages::needs_file(slash.name()));
        }
        let done = match slash {
            Slash::Load => files::read(Path::new(name))
                .and_then(|text| self.transcript.load(&text))
                .map(|()| messages::LOADED.to_owned()),
            _ => {
                let markdown = || Ok(self.transcript.markdown());
                let text = if slash == Slash::Save { self.transcript.json() } else { markdown() };
                text.and_then(|text| std::fs::write(name, text).map_err(|e| e.to_string()))
                    .map(|()| messages::written(name))
            }
        };
        done.map_err(|what| format!("{name}: {what}"))
    }

    /// Sends a message and streams the answer. A message that cannot be answered is removed again.
    fn say(&mut self, message: String) -> Result<(), Error> {
        self.transcript.push(Entry::new(Speaker::User, message));
        match self.prompt() {
            Ok(()) => {}
            Err(e @ (EngineError::Prompt { .. } | EngineError::Text { .. })) => {
                self.transcript.undo();
                self.unanswered += 1;
                let reason = (self.setup.describe)(&e);
                return Ok(self.note(&format!("not answered: {reason}"))?);
            }
            Err(e) => return Err(e.into()),
        }
        self.session.start(self.setup.options.clone())?;
        let (answer, reason) = self.answer()?;
        self.session.remember();
        for note in self.session.take_notes() {
            self.note(&note)?;
        }
        self.transcript.push(Entry::new(Speaker::Model, answer));
        self.cut += usize::from(reason == FinishReason::Context);
        Ok(self.note(&summary(self.session, reason))?)
    }

    /// Makes the conversation the context, and drops the oldest turns if they leave too little room for
    /// an answer.
    fn prompt(&mut self) -> Result<(), EngineError> {
        let mut messages = self.transcript.messages();
        let engine = self.session.engine();
        let (ctx, overflow) = (engine.ctx(), engine.overflow());
        let answer = self.setup.options.max_tokens.unwrap_or(ctx).min(ctx / 8);
        match self.session.prompt_chat(&messages) {
            Ok(()) if self.session.tokens().len() + answer <= ctx => return Ok(()),
            Ok(()) | Err(EngineError::Prompt { .. }) if overflow == Overflow::Stop => {}
            prompted => return prompted,
        }
        let all = messages.len();
        shorten(self.session.engine().model(), shortened(ctx), &mut messages)?;
        self.session.prompt_chat(&messages)?;
        if messages.len() < all {
            let system = usize::from(self.transcript.system.is_some());
            let forgotten = self.transcript.forget(messages.len() - system);
            // A failure to write a note shows when the next one is written.
            let _ = self.note(&messages::forgotten(forgotten));
        }
        Ok(())
    }

    /// Streams one answer and returns it.
    fn answer(&mut self) -> Result<(String, FinishReason), Error> {
        let mut answer = String::new();
        while let Some(event) = self.session.next()? {
            match event {
                Event::Token { text, bytes, .. } => {
                    self.out.piece(text, bytes)?;
                    answer.push_str(text);
                }
                Event::Finished { text, bytes, reason } => {
                    self.out.piece(text, bytes)?;
                    answer.push_str(text);
                    self.out.newline()?;
                    return Ok((answer, reason));
                }
                _ => {}
            }
        }
        Ok((answer, FinishReason::Cancelled))
    }

    /// Writes a note: messages can quote file names and templates, which can contain anything.
    fn note(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.notes, "[{}]", terminal_safe(text))
    }

    fn end(self) -> Result<(), Error> {
        let (unanswered, cut) = (self.unanswered, self.cut);
        if self.setup.interactive || unanswered + cut == 0 {
            return Ok(());
        }
        Err(Error::Incomplete { unanswered, cut })
    }
}

fn help() -> String {
    let mut lines = vec!["commands:".to_owned()];
    for (slash, name, argument, what) in COMMANDS {
        if LINE_COMMANDS.contains(slash) {
            lines.push(format!("  {:<22} {what}", format!("/{name} {argument}").trim_end()));
        }
    }
    lines.push(format!("  {:<22} send a message that begins with a slash", "//…"));
    lines.join("\n")
}

fn summary(session: &Session, reason: FinishReason) -> String {
    let stats = session.stats();
    let speed = format!("{} tokens, {:.1} tokens/s", stats.generated, stats.decode_tps());
    match reason {
        FinishReason::Context => format!(
            "{speed}; cut off, because the context is full: with --overflow slide, answers continue"
        ),
        FinishReason::Length => format!("{speed}; cut off by -n"),
        _ => speed,
    }
}
