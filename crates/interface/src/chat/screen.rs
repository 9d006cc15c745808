//! The terminal: taken for the chat, and given back whatever happens.
//!
//! It is given back when [`Screen`] is dropped, by the panic hook, and by the signals' thread if
//! the program does not end by itself. Whoever comes first does it; nothing is drawn after that.

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

/// Presses and the wheel, with coordinates as text. Not motion: that would wake the program
/// whenever the mouse moves.
const MOUSE_ON: &str = "\x1b[?1000h\x1b[?1006h";
const MOUSE_OFF: &str = "\x1b[?1006l\x1b[?1000l";

/// What the screen is written to.
pub(crate) type Out = BufWriter<File>;

/// Whether the terminal is the chat's.
static OURS: Mutex<bool> = Mutex::new(false);

/// The terminal while it is the chat's.
pub(crate) struct Screen(Terminal<CrosstermBackend<Out>>);

impl Screen {
    /// Takes the terminal.
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
        give_back();
    }
}

/// Draws, unless the terminal was given back meanwhile.
pub(crate) fn while_ours<T>(draw: impl FnOnce() -> T) -> Option<T> {
    let ours = lock();
    ours.then(draw)
}

fn lock() -> MutexGuard<'static, bool> {
    OURS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Gives the terminal back, once. A drawing that is stuck or has panicked is not waited for.
fn give_back() {
    let deadline = Instant::now() + Duration::from_millis(200);
    let guard = loop {
        match OURS.try_lock() {
            Ok(guard) => break Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => break Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => break None,
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(5)),
        }
    };
    let was_ours = guard.map(|mut ours| std::mem::replace(&mut *ours, false));
    if was_ours == Some(false) {
        return;
    }
    // If this fails the terminal is gone, and there is nobody to tell.
    let _ = stdout().and_then(|mut out| {
        queue!(out, Print(MOUSE_OFF), DisableBracketedPaste, Show, LeaveAlternateScreen)?;
        out.flush()
    });
    let _ = disable_raw_mode();
}

/// Makes panics give the terminal back before they are reported, and end the process: a panic is a
/// fault of this program, of the chat or of an engine's worker, and a chat cannot go on after either.
/// Threads without a name are workers of a library call that deals with their panics itself.
pub(crate) fn survive_panics() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if thread::current().name().is_some() {
            give_back();
            tell(panic);
            std::process::exit(101);
        }
    }));
}

/// Reads keys, the mouse and changes of size from a thread of its own.
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

/// Reports what ends the program from outside. If it does not end within a second, it is ended here.
pub(crate) fn listen_to_endings(events: Sender<Event>) -> io::Result<()> {
    ending::listen(&Ending::ALL, move |ending| {
        let _ = events.send(Event::Ending(ending)); // it ends already if nobody listens
        thread::sleep(Duration::from_secs(1));
        give_back();
        std::process::exit(ending.exit_code().into());
    })
}
