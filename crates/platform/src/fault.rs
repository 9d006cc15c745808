//! Faults that end a process silently by default. One of the project's few modules with `unsafe`:
//! handlers are installed through the C interface and may interrupt any code.
//!
//! **SIGBUS**: a page of a mapped file can no longer be read, because the file was truncated while in
//! use or its disk failed. The process cannot continue with correct results, so it restores the
//! terminal and ends with a message.
//!
//! **SIGXFSZ**: a file grew beyond `ulimit -f`. By default that kills the process silently and leaves
//! the temporary file behind; with the signal ignored, the write returns an error like any other.
//!
//! Both exist on Unix only. Elsewhere nothing is installed and the system's default applies.
#![allow(unsafe_code)]

/// Makes an unreadable page of a mapped file end the process with exit code 1 and `message` (a complete
/// line) on standard error, and turns writing beyond a size limit into an ordinary error.
///
/// Call this before mapping or writing any file. Only the first message is used.
#[cfg(unix)]
pub fn explain(message: &'static str) {
    crate::terminal::saved::remember();
    unix::MESSAGE.get_or_init(|| message);
    unix::install();
}

/// Makes an unreadable page of a mapped file end the process with exit code 1 and `message` (a complete
/// line) on standard error, and turns writing beyond a size limit into an ordinary error. Unix only;
/// does nothing on this system.
#[cfg(not(unix))]
pub fn explain(_message: &'static str) {}

#[cfg(unix)]
mod unix {
    use std::sync::OnceLock;

    use libc::c_int;

    pub(super) static MESSAGE: OnceLock<&str> = OnceLock::new();

    pub(super) fn install() {
        // SAFETY: `sigaction` is plain data for which all zeros are valid; the handler has the correct
        // type and makes only system calls that POSIX lists as async-signal-safe.
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
        // If standard error is closed, the message is lost.
        let _ = rustix::io::write(rustix::stdio::stderr(), message.as_bytes());
        // SAFETY: ends the process at once, without running any of its code.
        unsafe { libc::_exit(1) }
    }
}
