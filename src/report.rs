//! What goes to standard error: sentences, progress, errors.

use std::io::{IsTerminal, Write, stderr};

use indicatif::{ProgressBar, ProgressStyle};
use nanoinfer_hub::Status;

use crate::hub_advice;

/// Shows what a long operation does: a line for each thing begun, a bar if a person watches.
#[derive(Default)]
pub(crate) struct Reporter {
    bar: Option<ProgressBar>,
}

impl Reporter {
    pub(crate) fn status(&mut self, status: Status<'_>) {
        match status {
            Status::Message(message) => self.message(message),
            Status::Bytes { done, total } => self.progress(done, total),
        }
    }

    pub(crate) fn message(&mut self, message: &str) {
        self.end();
        say(message);
    }

    pub(crate) fn progress(&mut self, done: u64, total: u64) {
        if stderr().is_terminal() {
            self.bar.get_or_insert_with(|| bar(total)).set_position(done);
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.end();
    }
}

fn bar(total: u64) -> ProgressBar {
    if total == 0 {
        return ProgressBar::new_spinner();
    }
    let style = ProgressStyle::with_template(
        "  {bar:40} {percent:>3} %  {decimal_bytes_per_sec}, {eta} left",
    )
    .expect("a constant template");
    ProgressBar::new(total).with_style(style)
}

/// One line to standard error. If that is closed there is nobody to tell.
pub(crate) fn say(what: &str) {
    let _ = writeln!(stderr(), "nanoinfer: {}", one_line(what));
}

/// An error with its causes, on one line. Most messages quote their cause already.
pub(crate) fn error(error: &anyhow::Error) {
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    let hub = error.chain().find_map(|e| e.downcast_ref());
    text.push_str(hub.and_then(hub_advice::of).unwrap_or_default());
    say(&text);
}

/// File names and other people's messages may hold anything; a line stays a line.
fn one_line(text: &str) -> String {
    nanoinfer_text::terminal_safe(text).replace('\n', " ")
}
