//! Events, and how a chat ends.

use nanoinfer_platform::ending::Ending;

use super::worker::Report;

/// Why a chat ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The user quit.
    Quit,
    /// A signal ended the chat.
    Ending(Ending),
    /// The terminal was closed.
    Closed,
}

/// Input to the event loop.
#[derive(Debug)]
pub(crate) enum Event {
    /// A key, the mouse, pasted text, or a resize.
    Terminal(crossterm::event::Event),
    /// A report from the engine's thread.
    Engine(Box<Report>),
    /// The clock has advanced.
    Tick,
    /// A signal that ends the program.
    Ending(Ending),
    /// The terminal can no longer be read.
    Closed,
}
