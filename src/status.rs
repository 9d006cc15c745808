//! Standard error: status messages, progress bars, errors.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use nanoinfer_hub::Status;

use crate::advice;
use crate::smaller::smaller;

/// Shows the status of a long operation: one line per message and, on a terminal, a progress bar for each
/// kind of work: calibration and writing alternate.
#[derive(Default)]
pub(crate) struct Reporter {
    bars: MultiProgress,
    steps: Option<ProgressBar>,
    bytes: Option<ProgressBar>,
    /// The model that is being prepared, as the user named it.
    model: Option<OsString>,
}

impl Reporter {
    /// A reporter that, after a conversion, prints what a smaller one would gain.
    pub(crate) fn for_model(name: &OsStr) -> Self {
        let bars = MultiProgress::new();
        Self { bars, steps: None, bytes: None, model: Some(name.to_owned()) }
    }

    pub(crate) fn status(&mut self, status: Status<'_>) {
        match status {
            Status::Message(message) => {
                self.clear();
                say(message);
            }
            Status::Bytes { done, total } => show(&self.bars, &mut self.bytes, BYTES, done, total),
            Status::Steps { done, total } => self.progress(done, total),
            Status::Cached(path) => {
                let hint = self.model.as_ref().and_then(|name| smaller(name, path));
                hint.iter().for_each(|hint| say(hint));
            }
        }
    }

    /// Updates the bar if standard error is a terminal. A `total` of 0 means unknown.
    pub(crate) fn progress(&mut self, done: u64, total: u64) {
        show(&self.bars, &mut self.steps, STEPS, done, total);
    }

    /// Removes the bars.
    pub(crate) fn clear(&mut self) {
        for bar in [self.steps.take(), self.bytes.take()].into_iter().flatten() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.clear();
    }
}

const BYTES: &str = "  {bar:40} {percent:>3} %  {decimal_bytes_per_sec}, {left} left";
const STEPS: &str = "  {bar:40} {percent:>3} %  {left} left";

/// Updates a bar if standard error is a terminal. A `total` of 0 means unknown.
fn show(
    bars: &MultiProgress,
    bar: &mut Option<ProgressBar>,
    template: &str,
    done: u64,
    total: u64,
) {
    if stderr().is_terminal() {
        let bar = bar.get_or_insert_with(|| bars.add(new_bar(total, template)));
        if total > 0 {
            bar.set_length(total);
        }
        bar.set_position(done);
    }
}

fn new_bar(total: u64, template: &str) -> ProgressBar {
    if total == 0 {
        return ProgressBar::new_spinner();
    }
    let left = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = write!(out, "{}", HumanDuration(left(state)));
    };
    let style = ProgressStyle::with_template(template).expect("a constant template");
    ProgressBar::new(total).with_style(style.with_key("left", left))
}

/// The time left at the average speed so far: the recent speed is no guide where two kinds of work alternate.
fn left(state: &ProgressState) -> Duration {
    let done = state.fraction().clamp(0.001, 1.0);
    state.elapsed().mul_f32((1.0 - done) / done)
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
