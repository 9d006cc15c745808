//! The terminal: set up for the chat, and always restored.
//!
//! It is restored when [`Screen`] is dropped, by the panic hook, or by the signal thread if the
//! program does not end on its own, whichever comes first. Nothing is drawn afterwards.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::{Deref, DerefMut};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use crossterm::cursor::Show;
use crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use crossterm::style::Print;
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{execute, queue};
use nanoinfer_platform::ending::{self, Ending};
use nanoinfer_platform::terminal::stdout;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

use super::Event;

/// Reports buttons and the wheel, with SGR coordinates. Motion is not reported: it would wake the
/// program whenever the mouse moves.
const MOUSE_ON: &str = "\x1b[?1000h\x1b[?1006h";
const MOUSE_OFF: &str = "\x1b[?1006l\x1b[?1000l";

/// The screen's writer.
pub(crate) type Out = BufWriter<File>;

/// Whether the terminal is set up for the chat.
static ACTIVE: Mutex<bool> = Mutex::new(false);

/// The terminal while it is set up for the chat.
pub(crate) struct Screen(Terminal<CrosstermBackend<Out>>);

impl Screen {
    /// Switches the terminal to raw mode and the alternate screen.
    pub(crate) fn enter() -> io::Result<Self> {
        *lock() = true;
        let screen = Self(Terminal::new(CrosstermBackend::new(BufWriter::new(stdout()?)))?);
        enable_raw_mode()?;
        execute!(stdout()?, EnterAlternateScreen, EnableBracketedPaste, Print(MOUSE_ON))?;
        Ok(screen)
    }
}

impl Deref for Screen {
    type Target = Terminal<CrosstermBackend<Out>>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Screen {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Draws, unless the terminal has been restored.
pub(crate) fn if_active<T>(draw: impl FnOnce() -> T) -> Option<T> {
    let active = lock();
    active.then(draw)
}

fn lock() -> MutexGuard<'static, bool> {
    ACTIVE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Restores the terminal once. Does not wait for a frame that is stuck or has panicked.
fn restore() {
    let deadline = Instant::now() + Duration::from_millis(200);
    let guard = loop {
        match ACTIVE.try_lock() {
            Ok(guard) => break Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => break Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => break None,
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(5)),
        }
    };
    let was_active = guard.map(|mut active| std::mem::replace(&mut *active, false));
    if was_active == Some(false) {
        return;
    }
    // Failure means that the terminal is gone, so there is nothing to restore.
    let _ = stdout().and_then(|mut out| {
        queue!(out, Print(MOUSE_OFF), DisableBracketedPaste, Show, LeaveAlternateScreen)?;
        out.flush()
    });
    let _ = disable_raw_mode();
}

/// Makes a panic restore the terminal before it is reported, and then end the process, because a chat
/// cannot continue after a bug in it or in an engine's worker. Unnamed threads are exempt: they belong
/// to library calls that handle their panics.
pub(crate) fn restore_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if thread::current().name().is_some() {
            restore();
            report(panic);
            std::process::exit(101);
        }
    }));
}

/// Reads key, mouse and resize events on a separate thread.
pub(crate) fn read_input(events: Sender<Event>) -> io::Result<()> {
    thread::Builder::new().name("input".into()).spawn(move || {
        loop {
            let event = crossterm::event::read().map_or(Event::Closed, Event::Terminal);
            let closed = matches!(event, Event::Closed);
            if events.send(event).is_err() || closed {
                return;
            }
        }
    })?;
    Ok(())
}

/// Forwards signals that end the program, and ends it here if it does not end within a second.
pub(crate) fn listen_to_endings(events: Sender<Event>) -> io::Result<()> {
    ending::listen(&Ending::ALL, move |ending| {
        let _ = events.send(Event::Ending(ending)); // fails only if the program is already ending
        thread::sleep(Duration::from_secs(1));
        restore();
        std::process::exit(ending.exit_code().into());
    })
}
