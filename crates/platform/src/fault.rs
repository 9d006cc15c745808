//! Faults that end a process without a word, unless it provides for them. One of the project's few
//! places with `unsafe`: handlers are installed in C's terms, and run in the middle of anything.
//!
//! **SIGBUS**: a page of a mapped file cannot be read any more, because the file was cut while it
//! was in use, or its disk failed. No program can go on from there with right results, so this one
//! ends with a sentence, leaving the terminal as it found it.
//!
//! **SIGXFSZ**: a file grew beyond `ulimit -f`. By default that kills without a word and leaves the
//! temporary file; ignored, the write returns an error like any other.
//!
//! Both on Unix. Elsewhere nothing is installed, and the system ends the process in its own way.
#![allow(unsafe_code)]

/// Makes an unreadable page of a mapped file end the process with exit code 1 after `message` (a
/// whole line) on standard error, and writing beyond a size limit an error like any other.
///
/// To be called before anything is mapped or written. The first message counts.
#[cfg(unix)]
pub fn explain(message: &'static str) {
    crate::terminal::saved::remember();
    unix::MESSAGE.get_or_init(|| message);
    unix::install();
}

/// Makes an unreadable page of a mapped file end the process with exit code 1 after `message` (a
/// whole line) on standard error, and writing beyond a size limit an error like any other. Only on
/// Unix: here it does nothing.
#[cfg(not(unix))]
pub fn explain(_message: &'static str) {}

#[cfg(unix)]
mod unix {
    use std::sync::OnceLock;

    use libc::c_int;

    pub(super) static MESSAGE: OnceLock<&str> = OnceLock::new();

    pub(super) fn install() {
        // SAFETY: `sigaction` is plain data for which all zeros is a value; the handler is a function
        // of the right type that makes only system calls which POSIX lists as safe in a handler.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigbus as extern "C" fn(c_int) as libc::sighandler_t;
            libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        }
    }

    extern "C" fn on_sigbus(_: c_int) {
        crate::terminal::saved::restore();
        let message = MESSAGE.get().copied().unwrap_or_default();
        // If standard error is closed there is nobody to tell.
        let _ = rustix::io::write(rustix::stdio::stderr(), message.as_bytes());
        // SAFETY: ends the process at once, running nothing of it.
        unsafe { libc::_exit(1) }
    }
}
