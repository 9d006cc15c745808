//! Model text on its way out: exact bytes into a file or pipe, harmless text onto a terminal.
//!
//! A terminal obeys what it is shown: an escape sequence can rename the window, paste into the
//! input, or hide what stands there. A model repeats whatever it was trained on or was given, so
//! none of its control characters reaches a terminal as itself.

use std::io::{self, Write};

use nanoinfer_text::terminal_safe;

/// A sink for model text.
pub struct Output<W> {
    out: W,
    is_terminal: bool,
}

impl<W: Write> Output<W> {
    /// Writes to `out`, which is a terminal or is not.
    pub fn new(out: W, is_terminal: bool) -> Self {
        Self { out, is_terminal }
    }

    /// Whether a person watches.
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Writes a piece of an answer, given as the text to show and as the exact bytes, and flushes.
    ///
    /// # Errors
    /// The sink cannot be written; [`io::ErrorKind::BrokenPipe`] when its reader is gone.
    pub fn piece(&mut self, text: &str, bytes: &[u8]) -> io::Result<()> {
        if self.is_terminal {
            self.out.write_all(terminal_safe(text).as_bytes())?;
        } else {
            self.out.write_all(bytes)?;
        }
        self.out.flush()
    }

    /// Ends a line.
    ///
    /// # Errors
    /// As for [`Output::piece`].
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
    fn a_pipe_gets_exact_bytes_and_a_terminal_harmless_text() {
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
