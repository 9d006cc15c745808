//! Lines of input, which may come from any program.

use std::io::{self, BufRead};

/// A line, without its position.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Its text, including the line end.
    Text(String),
    /// It is not valid UTF-8 at this byte of the input, counted from 0.
    Invalid { byte: usize },
}

/// Reads lines and counts them.
pub(super) struct Lines<R> {
    input: R,
    number: usize,
    bytes: usize,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, number: 0, bytes: 0 }
    }

    /// The number of the last line, from 1.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// The next line, or `None` at the end of the input. A byte-order mark at its beginning is dropped.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        let mut bytes = Vec::new();
        let n = self.input.read_until(b'\n', &mut bytes)?;
        if n == 0 {
            return Ok(None);
        }
        let start = self.bytes;
        self.bytes += n;
        self.number += 1;
        if self.number == 1 && bytes.starts_with("\u{feff}".as_bytes()) {
            bytes.drain(.."\u{feff}".len());
        }
        let dropped = n - bytes.len();
        Ok(Some(match String::from_utf8(bytes) {
            Ok(text) => Line::Text(text),
            Err(e) => Line::Invalid { byte: start + dropped + e.utf8_error().valid_up_to() },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_text_or_located_errors() {
        let mut bytes = "\u{feff}é\r\n\n\u{feff}b\nc".as_bytes().to_vec();
        let bad = bytes.len();
        bytes.push(0xe9); // é in Latin-1
        let mut lines = Lines::new(&bytes[..]);
        let mut all = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            all.push((lines.number(), line));
        }
        let text = |t: &str| Line::Text(t.to_owned());
        let expected = [
            (1, text("é\r\n")),
            (2, text("\n")),
            (3, text("\u{feff}b\n")),
            (4, Line::Invalid { byte: bad }),
        ];
        assert_eq!(all, expected);
    }
}
