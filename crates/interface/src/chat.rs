//! The full-screen chat with its telemetry.
//!
//! ```text
//! keys, resize ──┐                        ┌─► view: draws the state, at most 30 times per second
//! signals ───────┤   one channel          │
//! engine reports ┼──► Event ──► Action ──► App ──► Effect ──► engine thread, files, clipboard
//! ticks ─────────┘
//! ```
//!
//! The engine has its own thread (`worker.rs`). An idle chat uses no CPU: ticks occur only while the
//! engine is busy.

mod app;
pub(crate) mod commands;
mod editor;
mod event;
pub(crate) mod files;
mod highlight;
mod history;
mod keys;
mod markdown;
pub(crate) mod messages;
mod screen;
mod table;
mod telemetry;
#[cfg(test)]
mod tests;
mod theme;
pub(crate) mod transcript;
mod ui;
mod update;
mod view;
mod watching;
mod worker;
mod wrap;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;

use nanoinfer_engine::{GenerateOptions, Session};

use app::App;
use event::Event;
use history::History;
use screen::Screen;
use theme::Theme;
use worker::{Controls, Worker};

pub use event::Ended;
pub use watching::{Pair, watching_costs};
pub use worker::{DescribeError, MeasureBandwidth, OpenModel};

/// Configuration of a chat.
pub struct Setup {
    /// The model's display name.
    pub name: String,
    /// System message.
    pub system: Option<String>,
    /// How answers are generated.
    pub options: GenerateOptions,
    /// File that stores sent messages between runs; nothing is stored if `None`.
    pub history: Option<PathBuf>,
    /// Whether to use colours.
    pub color: bool,
    /// Opens a model for `/model`.
    pub open: OpenModel,
    /// The message for an engine's error, with advice in terms of the command's options.
    pub describe: DescribeError,
    /// Measures memory bandwidth for the telemetry.
    pub bandwidth: Option<MeasureBandwidth>,
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Runs a chat on the terminal until the user quits. The terminal is always restored, even after a
/// panic or a signal.
///
/// # Errors
/// The terminal cannot be set up, or a thread cannot be started.
pub fn run(session: Session, setup: Setup) -> io::Result<Ended> {
    let (sender, events) = mpsc::channel();
    let (commands, received) = mpsc::channel();
    let controls = Arc::new(Controls::default());
    let reports = sender.clone();
    let worker = Worker {
        session,
        name: setup.name,
        open: setup.open,
        describe: setup.describe,
        bandwidth: setup.bandwidth,
        controls: Arc::clone(&controls),
        // Sending fails only after the chat has ended.
        reports: Box::new(move |report| drop(reports.send(Event::Engine(Box::new(report))))),
    };
    let history = History::open(setup.history);
    let theme = Theme::new(setup.color);
    let app = App::new(worker.info(), setup.system, setup.options, history, theme);
    screen::restore_on_panic();
    let mut screen = Screen::enter()?;
    screen::listen_to_endings(sender.clone())?;
    screen::read_input(sender)?;
    thread::Builder::new().name("engine".into()).spawn(move || worker.run(&received))?;
    let mut ui = ui::Ui {
        app,
        screen: &mut screen,
        events,
        commands,
        controls,
        gate: |draw| screen::if_active(draw),
    };
    Ok(ui.run())
}
