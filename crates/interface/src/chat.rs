//! The full-screen chat with its telemetry.
//!
//! ```text
//! keys, resize ──┐                        ┌─► view: draws the state, at most 30 times a second
//! signals ───────┤   one channel          │
//! engine reports ┼──► Event ──► Action ──► App ──► Effect ──► engine thread, files, clipboard
//! ticks ─────────┘
//! ```
//!
//! The engine has a thread of its own (`worker.rs`). Nothing runs while nothing happens: without an
//! answer in progress the loop waits for its channel and there are no ticks.

mod app;
mod commands;
mod editor;
mod event;
mod highlight;
mod history;
mod keys;
mod markdown;
mod screen;
mod table;
mod telemetry;
#[cfg(test)]
mod tests;
mod theme;
mod transcript;
mod ui;
mod update;
mod view;
mod watching;
mod worker;
mod wrap;

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
pub use worker::{MeasureBandwidth, OpenModel};

/// What a chat begins with.
pub struct Setup {
    /// What the model is called.
    pub name: String,
    /// Instruction to the model.
    pub system: Option<String>,
    /// How answers are generated.
    pub options: GenerateOptions,
    /// Where messages sent are kept between runs; `None` = nowhere.
    pub history: Option<PathBuf>,
    /// Whether colours may be used.
    pub color: bool,
    /// How `/model` opens another model.
    pub open: OpenModel,
    /// How the memory's bandwidth is measured, for the telemetry.
    pub bandwidth: Option<MeasureBandwidth>,
}

/// Talks on the terminal until someone quits. The terminal is given back in any case, even if the
/// program panics or is told to end.
///
/// # Errors
/// The terminal cannot be set up, or a thread not started.
pub fn run(session: Session, setup: Setup) -> io::Result<Ended> {
    let (sender, events) = mpsc::channel();
    let (commands, received) = mpsc::channel();
    let controls = Arc::new(Controls::default());
    let reports = sender.clone();
    let worker = Worker {
        session,
        name: setup.name,
        open: setup.open,
        bandwidth: setup.bandwidth,
        controls: Arc::clone(&controls),
        // Nobody listens any more when the chat has ended.
        reports: Box::new(move |report| drop(reports.send(Event::Engine(Box::new(report))))),
    };
    let history = History::open(setup.history);
    let theme = Theme::new(setup.color);
    let app = App::new(worker.info(), setup.system, setup.options, history, theme);
    screen::survive_panics();
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
        gate: |draw| screen::while_ours(draw),
    };
    Ok(ui.run())
}
