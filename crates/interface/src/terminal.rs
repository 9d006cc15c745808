//! Output of model text: exact bytes to files and pipes, sanitized text to terminals.
//!
//! Escape sequences can rename a terminal's window, inject input, or hide text, and a model may
//! repeat those in its training data or prompt. Control characters are therefore replaced by visible
//! symbols before they reach a terminal.

use std::fmt;
use std::io::{self, Write};

use nanoinfer_text::terminal_safe;

/// A sink for model text.
pub struct Output<W> {
    out: W,
    is_terminal: bool,
}

impl<W> fmt::Debug for Output<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("is_terminal", &self.is_terminal).finish_non_exhaustive()
    }
}

impl<W: Write> Output<W> {
    /// Writes to `out`, sanitized if it is a terminal.
    pub fn new(out: W, is_terminal: bool) -> Self {
        Self { out, is_terminal }
    }

    /// Whether the sink is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Writes and flushes a piece of an answer, passed both as text for terminals and as exact bytes.
    ///
    /// # Errors
    /// Writing fails, with [`io::ErrorKind::BrokenPipe`] if the reader has closed the pipe.
    pub fn piece(&mut self, text: &str, bytes: &[u8]) -> io::Result<()> {
        if self.is_terminal {
            self.out.write_all(terminal_safe(text).as_bytes())?;
        } else {
            self.out.write_all(bytes)?;
        }
        self.out.flush()
    }

    /// Writes a newline and flushes.
    ///
    /// # Errors
    /// Same as [`Output::piece`].
    pub fn newline(&mut self) -> io::Result<()> {
        self.out.write_all(b"\n")?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(is_terminal: bool, pieces: &[(&str, &[u8])]) -> Vec<u8> {
        let mut sink = Vec::new();
        let mut out = Output::new(&mut sink, is_terminal);
        for (text, bytes) in pieces {
            out.piece(text, bytes).unwrap();
        }
        sink
    }

    #[test]
    fn a_pipe_gets_exact_bytes_and_a_terminal_sanitized_text() {
        let pieces: [(&str, &[u8]); 2] = [("\x1b]0;x\x07", b"\x1b]0;x\x07"), ("\u{fffd}", b"\xff")];
        assert_eq!(written(false, &pieces), b"\x1b]0;x\x07\xff");
        let mut sink = Vec::new();
        let mut out = Output::new(&mut sink, false);
        out.piece("", b"\xe2").unwrap();
        out.piece("\u{fffd}", b"").unwrap();
        assert_eq!(sink, b"\xe2");
        assert_eq!(written(true, &pieces), "␛]0;x␇\u{fffd}".as_bytes());
    }
}
