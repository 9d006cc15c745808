//! What can happen to a chat, and how it ends.

use nanoinfer_platform::ending::Ending;

use super::worker::Report;

/// Why a chat ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Someone quit.
    Quit,
    /// It was ended from outside.
    Ending(Ending),
    /// The terminal is gone.
    Closed,
}

/// All that can happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A key, the mouse, pasted text, or another size.
    Terminal(crossterm::event::Event),
    /// The engine's thread has something to tell.
    Engine(Box<Report>),
    /// Time has passed.
    Tick,
    /// The system wants the program to end.
    Ending(Ending),
    /// The terminal cannot be read any more.
    Closed,
}
