//! Two signals that the binary answers. One of the project's few places with `unsafe`.
//!
//! **SIGBUS**: a page of a mapped file cannot be read any more, because the file was cut while it
//! was in use, or its disk failed. No program can go on from there with right results, so this one
//! ends with a sentence, leaving the terminal as it found it.
//!
//! **SIGXFSZ**: a file grew beyond `ulimit -f`. By default that kills without a word and leaves the
//! temporary file; ignored, the write returns an error like any other.
#![allow(unsafe_code)]

use std::sync::OnceLock;

use libc::{STDERR_FILENO, STDIN_FILENO, STDOUT_FILENO, c_int, termios};

const MESSAGE: &[u8] = b"nanoinfer: error: a mapped file can no longer be read: it was cut while \
in use, or its disk failed; `nanoinfer verify` tells, --no-mmap reads it whole at the start\n";
/// No mouse, no bracketed pastes, cursor visible, out of the alternate screen, colours off.
const RESTORE_SCREEN: &[u8] = b"\x1b[?1006l\x1b[?1000l\x1b[?2004l\x1b[?25h\x1b[?1049l\x1b[0m";

/// How the terminal was at the start; `None` if standard input is none.
static TERMINAL: OnceLock<Option<termios>> = OnceLock::new();

/// Installs both. Called once, before anything is mapped or written.
pub(crate) fn install() {
    TERMINAL.get_or_init(terminal);
    // SAFETY: `sigaction` is plain data for which all zeros is a value; the handler is a function
    // of the right type that calls only what POSIX lists as safe in a signal handler.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigbus as extern "C" fn(c_int) as libc::sighandler_t;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

fn terminal() -> Option<termios> {
    // SAFETY: `termios` is plain data for which all zeros is a value, and tcgetattr fills it.
    unsafe {
        let mut state: termios = std::mem::zeroed();
        (libc::tcgetattr(STDIN_FILENO, &raw mut state) == 0).then_some(state)
    }
}

extern "C" fn on_sigbus(_: c_int) {
    if let Some(Some(before)) = TERMINAL.get() {
        // Only a full-screen interface changes the terminal; plain output needs no restoring.
        if terminal().is_some_and(|now| now.c_lflag != before.c_lflag) {
            write(STDOUT_FILENO, RESTORE_SCREEN);
        }
        // SAFETY: POSIX lists tcsetattr as safe here; `before` was filled by tcgetattr.
        unsafe { libc::tcsetattr(STDIN_FILENO, libc::TCSANOW, before) };
    }
    write(STDERR_FILENO, MESSAGE);
    // SAFETY: ends the process at once, running nothing of it.
    unsafe { libc::_exit(1) }
}

fn write(to: c_int, bytes: &[u8]) {
    // SAFETY: the pointer and length are those of a slice. If the file is closed there is nobody
    // to tell.
    unsafe { libc::write(to, bytes.as_ptr().cast(), bytes.len()) };
}
