//! The event loop: events in, frames out.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crossterm::clipboard::CopyToClipboard;
use crossterm::terminal::{BeginSynchronizedUpdate, EndSynchronizedUpdate};
use crossterm::{execute, queue};
use nanoinfer_platform::memory;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

use super::app::{App, Busy, Effect};
use super::messages;
use super::worker::{Command, Controls};
use super::{Ended, Event, files, keys, view};

/// Minimum interval between frames.
const FRAME: Duration = Duration::from_millis(33);
/// Interval between ticks while the engine is busy.
const TICK: Duration = Duration::from_millis(250);
/// Interval between readings of the process's memory.
const RSS_INTERVAL: Duration = Duration::from_secs(1);

/// The chat's state, screen and channels.
pub(crate) struct Ui<'s, W: Write> {
    pub app: App,
    pub screen: &'s mut Terminal<CrosstermBackend<W>>,
    pub events: Receiver<Event>,
    pub commands: Sender<Command>,
    pub controls: Arc<Controls>,
    /// Guards every frame; see [`super::screen::if_active`].
    pub gate: Gate,
}

/// Runs the closure that draws a frame, or returns `None` if the terminal has been restored.
pub(crate) type Gate = fn(&mut dyn FnMut() -> io::Result<()>) -> Option<io::Result<()>>;

impl<W: Write> Ui<'_, W> {
    /// Runs until the user quits, a signal arrives, or the terminal is closed.
    pub(crate) fn run(&mut self) -> Ended {
        let mut dirty = true;
        let mut drawn = None::<Instant>;
        let mut rss = None::<Instant>;
        loop {
            let now = Instant::now();
            self.app.now = now;
            let due = drawn.map_or(now, |at| at + FRAME);
            if dirty && now >= due {
                if rss.is_none_or(|at| now - at >= RSS_INTERVAL) {
                    self.app.telemetry.rss = memory::resident();
                    rss = Some(now);
                }
                match self.draw() {
                    Some(Ok(())) => {}
                    Some(Err(_)) | None => return Ended::Closed,
                }
                self.controls.record_frame(now.elapsed());
                (dirty, drawn) = (false, Some(now));
            }
            let event = match (dirty, self.app.busy) {
                (true, _) => self.events.recv_timeout(due.saturating_duration_since(now)),
                (false, Busy::No) => self.events.recv().map_err(RecvTimeoutError::from),
                (false, _) => self.events.recv_timeout(TICK),
            };
            let event = match event {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => Event::Tick,
                Err(RecvTimeoutError::Disconnected) => return Ended::Closed,
            };
            dirty = true;
            if let Some(ended) = self.handle(event) {
                return ended;
            }
        }
    }

    fn draw(&mut self) -> Option<io::Result<()>> {
        let (screen, app) = (&mut *self.screen, &mut self.app);
        (self.gate)(&mut || {
            queue!(screen.backend_mut(), BeginSynchronizedUpdate)?;
            screen.draw(|frame| {
                let areas = view::prepare(app, frame.area());
                view::draw(frame, app, &areas);
            })?;
            execute!(screen.backend_mut(), EndSynchronizedUpdate)
        })
    }

    fn handle(&mut self, event: Event) -> Option<Ended> {
        let effect = match event {
            Event::Terminal(event) => keys::action(event).and_then(|a| self.app.act(a)),
            Event::Engine(report) => self.app.report(*report),
            Event::Tick => None,
            Event::Ending(ending) => return Some(Ended::Ending(ending)),
            Event::Closed => return Some(Ended::Closed),
        };
        effect.and_then(|effect| self.carry_out(effect))
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Ended> {
        match effect {
            Effect::Quit => {
                self.controls.stop();
                return Some(Ended::Quit);
            }
            Effect::Command(command) => {
                if let Command::Answer { .. } = command {
                    self.controls.rearm();
                }
                if self.commands.send(command).is_err() {
                    self.app.fail(messages::ENGINE_GONE);
                }
            }
            Effect::Stop => self.controls.stop(),
            Effect::Details(on) => self.controls.show_details(on),
            Effect::Redraw => {
                let _ = self.screen.clear(); // the next frame detects a lost terminal
            }
            Effect::Copy(text) => {
                let copy = CopyToClipboard::to_clipboard_from(text);
                match execute!(self.screen.backend_mut(), copy) {
                    Ok(()) => self.app.note(messages::COPIED),
                    Err(e) => self.app.fail(format!("clipboard: {e}")),
                }
            }
            Effect::Write { path, text } => match std::fs::write(&path, text) {
                Ok(()) => self.app.note(messages::written(&path.display().to_string())),
                Err(e) => self.app.fail(format!("{}: {e}", path.display())),
            },
            Effect::Load(path) => {
                let loaded = files::read(&path).and_then(|text| self.app.loaded(&text));
                if let Err(message) = loaded {
                    self.app.fail(format!("{}: {message}", path.display()));
                }
            }
        }
        None
    }
}
