//! Standard error: status messages, progress bars, errors.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Write, stderr};

use indicatif::{ProgressBar, ProgressStyle};
use nanoinfer_hub::Status;

use crate::advice;
use crate::smaller::smaller;

/// Shows the status of a long operation: one line per message and, on a terminal, a progress bar.
#[derive(Default)]
pub(crate) struct Reporter {
    bar: Option<ProgressBar>,
    /// The model that is being prepared, as the user named it.
    model: Option<OsString>,
}

impl Reporter {
    /// A reporter that, after a conversion, prints what a smaller one would gain.
    pub(crate) fn for_model(name: &OsStr) -> Self {
        Self { bar: None, model: Some(name.to_owned()) }
    }

    pub(crate) fn status(&mut self, status: Status<'_>) {
        match status {
            Status::Message(message) => {
                self.clear();
                say(message);
            }
            Status::Bytes { done, total } => self.show(done, total, BYTES),
            Status::Steps { done, total } => self.progress(done, total),
            Status::Cached(path) => {
                let hint = self.model.as_ref().and_then(|name| smaller(name, path));
                hint.iter().for_each(|hint| say(hint));
            }
        }
    }

    /// Updates the bar if standard error is a terminal. A `total` of 0 means unknown.
    pub(crate) fn progress(&mut self, done: u64, total: u64) {
        self.show(done, total, STEPS);
    }

    fn show(&mut self, done: u64, total: u64, template: &str) {
        if stderr().is_terminal() {
            self.bar.get_or_insert_with(|| new_bar(total, template)).set_position(done);
        }
    }

    /// Removes the bar.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.clear();
    }
}

const BYTES: &str = "  {bar:40} {percent:>3} %  {decimal_bytes_per_sec}, {eta} left";
const STEPS: &str = "  {bar:40} {percent:>3} %  {eta} left";

fn new_bar(total: u64, template: &str) -> ProgressBar {
    if total == 0 {
        return ProgressBar::new_spinner();
    }
    let style = ProgressStyle::with_template(template).expect("a constant template");
    ProgressBar::new(total).with_style(style)
}

/// Writes one line to standard error. Ignores errors, such as a closed standard error.
pub(crate) fn say(message: &str) {
    let _ = writeln!(stderr(), "nanoinfer: {}", one_line(message));
}

/// Prints an error.
pub(crate) fn error(error: &anyhow::Error) {
    say(&format!("error: {}", error_message(error)));
}

/// An error with its causes on one line. A cause already quoted by an outer message is not repeated.
pub(crate) fn error_message(error: &anyhow::Error) -> String {
    let mut text = advice::message(error.as_ref());
    for cause in error.chain().skip(1) {
        if !text.contains(&cause.to_string()) {
            text.push_str(": ");
            text.push_str(&advice::message(cause));
        }
    }
    text
}

/// Sanitizes a message: file names and external messages can contain anything, including newlines.
fn one_line(text: &str) -> String {
    nanoinfer_text::terminal_safe(text).replace('\n', " ")
}
