//! A line-by-line conversation.

use std::io::{self, BufRead, Write};

use nanoinfer_engine::{Event, FinishReason, GenerateOptions, Message, Session};

use crate::terminal::Output;

/// Why a conversation ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] nanoinfer_engine::Error),
    /// A stream failed; [`io::ErrorKind::BrokenPipe`] if the reader has closed the pipe.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads messages from `input` until it ends or a line is `exit`, and streams answers to `out`.
///
/// Everything else is written to `notes`: the prompt `> ` if `interactive`, and the speed after each
/// answer. A message that no longer fits into the context ends the conversation with
/// [`nanoinfer_engine::Error::Context`].
///
/// # Errors
/// The engine or one of the streams fails.
pub fn run(
    session: &mut Session,
    system: Option<&str>,
    options: &GenerateOptions,
    mut input: impl BufRead,
    out: &mut Output<impl Write>,
    mut notes: impl Write,
    interactive: bool,
) -> Result<(), Error> {
    let mut messages: Vec<Message> =
        system.map(|s| Message::new("system", s)).into_iter().collect();
    loop {
        if interactive {
            write!(notes, "> ")?;
            notes.flush()?;
        }
        let Some(line) = read_line(&mut input)? else { return Ok(()) };
        match line.trim() {
            "" => continue,
            "exit" => return Ok(()),
            text => messages.push(Message::new("user", text)),
        }
        session.prompt_chat(&messages)?;
        session.start(options.clone())?;
        let (answer, reason) = answer(session, out)?;
        session.remember();
        for note in session.take_notes() {
            writeln!(notes, "[{note}]")?;
        }
        messages.push(Message::new("assistant", answer));
        writeln!(notes, "[{}]", summary(session, reason))?;
    }
}

/// Streams one answer and returns it.
fn answer(
    session: &mut Session,
    out: &mut Output<impl Write>,
) -> Result<(String, FinishReason), Error> {
    let mut answer = String::new();
    while let Some(event) = session.next()? {
        match event {
            Event::Token { text, bytes, .. } => {
                out.piece(text, bytes)?;
                answer.push_str(text);
            }
            Event::Finished { text, bytes, reason } => {
                out.piece(text, bytes)?;
                answer.push_str(text);
                out.newline()?;
                return Ok((answer, reason));
            }
            _ => {}
        }
    }
    Ok((answer, FinishReason::Cancelled))
}

fn summary(session: &Session, reason: FinishReason) -> String {
    let stats = session.stats();
    let speed = format!("{} tokens, {:.1} tokens/s", stats.generated, stats.decode_tps());
    match reason {
        FinishReason::Context => format!("{speed}; the context is full (use a larger --ctx)"),
        FinishReason::Length => format!("{speed}; cut off by -n"),
        _ => speed,
    }
}

/// The next line, or `None` at the end of the input. Invalid UTF-8 is replaced.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let n = input.read_until(b'\n', &mut bytes)?;
    Ok((n > 0).then(|| String::from_utf8_lossy(&bytes).into_owned()))
}
