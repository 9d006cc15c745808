//! The parts of terminal handling on standard input and output that `crossterm` does not cover.
//!
//! | | Unix | elsewhere |
//! |---|---|---|
//! | full-screen drawing | unless `TERM` is missing, empty or `dumb` | always |
//! | restored after a fault | yes | no |

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IsTerminal, stdin};

/// Whether standard input and output are a terminal that supports full-screen drawing.
pub fn can_draw() -> bool {
    let capable = !cfg!(unix) || !is_dumb(std::env::var_os("TERM").as_deref());
    stdin().is_terminal() && io::stdout().is_terminal() && capable
}

fn is_dumb(term: Option<&OsStr>) -> bool {
    term.is_none_or(|term| term == "dumb" || term.is_empty())
}

/// Standard output without the lock of [`std::io::stdout`], which would prevent restoring the terminal
/// while a write is blocked.
///
/// # Errors
/// Standard output is closed, or too many files are open.
pub fn stdout() -> io::Result<File> {
    #[cfg(unix)]
    let own = std::os::fd::AsFd::as_fd(&io::stdout()).try_clone_to_owned()?;
    #[cfg(windows)]
    let own = std::os::windows::io::AsHandle::as_handle(&io::stdout()).try_clone_to_owned()?;
    Ok(own.into())
}

/// Saving and restoring the terminal for [`fault`](crate::fault), safe in a signal handler.
#[cfg(unix)]
pub(crate) mod saved {
    use std::sync::OnceLock;

    use rustix::stdio::{stdin, stdout};
    use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

    /// Mouse and bracketed paste off, cursor on, alternate screen off, colors reset.
    const RESTORE_SCREEN: &[u8] = b"\x1b[?1006l\x1b[?1000l\x1b[?2004l\x1b[?25h\x1b[?1049l\x1b[0m";

    /// The terminal's initial state; `None` if standard input is not a terminal.
    static BEFORE: OnceLock<Option<Termios>> = OnceLock::new();

    /// Saves the terminal's state; only the first call has an effect.
    pub(crate) fn remember() {
        BEFORE.get_or_init(|| tcgetattr(stdin()).ok());
    }

    /// Restores the saved state. Makes only system calls and ignores their failures, as the terminal may
    /// be gone.
    pub(crate) fn restore() {
        let Some(Some(before)) = BEFORE.get() else { return };
        // Only the full-screen interface changes the terminal; plain output needs no restoring.
        if tcgetattr(stdin()).is_ok_and(|now| now.local_modes != before.local_modes) {
            let _ = rustix::io::write(stdout(), RESTORE_SCREEN);
        }
        let _ = tcsetattr(stdin(), OptionalActions::Now, before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumb_or_unnamed_terminals_are_not_drawn_on() {
        assert!(is_dumb(None));
        assert!(is_dumb(Some(OsStr::new(""))));
        assert!(is_dumb(Some(OsStr::new("dumb"))));
        assert!(!is_dumb(Some(OsStr::new("xterm-256color"))));
    }
}
