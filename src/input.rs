//! Text from files and standard input.

use std::fs::File;
use std::io::{IsTerminal, Read, stdin};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};

/// Maximum length of a text in bytes; more than fits into any model's context.
const MAX_TEXT: u64 = 64 << 20;

/// A source of text.
pub(crate) enum TextSource {
    /// An argument.
    Literal(String),
    /// The content of a file.
    File(String),
    Stdin,
}

impl TextSource {
    /// Reads a file now, so that an unusable one fails before anything is computed.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("{name}: cannot open"))?;
        Ok(Self::File(read_text(file, &name)?))
    }

    /// Standard input, or an error with the message `missing` if it is a terminal. It is read later,
    /// because a pipe can be slow.
    pub(crate) fn piped(missing: &'static str) -> Result<Self> {
        if stdin().is_terminal() {
            bail!(missing);
        }
        Ok(Self::Stdin)
    }

    /// The exact text.
    pub(crate) fn read(self) -> Result<String> {
        match self {
            Self::Literal(text) | Self::File(text) => Ok(text),
            Self::Stdin => read_text(stdin().lock(), "standard input"),
        }
    }

    /// The text without what editors and shells add to a file or pipe: a byte-order mark and, unless
    /// `keep_newline`, one line end at the end. An argument is used as typed.
    pub(crate) fn read_prompt(self, keep_newline: bool) -> Result<String> {
        let typed = matches!(self, Self::Literal(_));
        let mut text = self.read()?;
        if typed {
            return Ok(text);
        }
        if !keep_newline && text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
    }
}

fn read_text(source: impl Read, name: &str) -> Result<String> {
    let mut bytes = Vec::new();
    source
        .take(MAX_TEXT + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("{name}: cannot read"))?;
    if bytes.len() as u64 > MAX_TEXT {
        bail!("{name}: longer than {} MB; use a shorter input", MAX_TEXT >> 20);
    }
    String::from_utf8(bytes).map_err(|e| invalid(name, e.as_bytes(), e.utf8_error().valid_up_to()))
}

/// The error for a text whose first invalid byte is at `offset`.
fn invalid(name: &str, bytes: &[u8], offset: usize) -> anyhow::Error {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return anyhow!("{name}: the text is UTF-16; convert it to UTF-8");
    }
    let line = 1 + bytes[..offset].iter().filter(|b| **b == b'\n').count();
    anyhow!("{name}: invalid UTF-8 in line {line}, at byte {offset}; convert the text to UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_tools_add_is_dropped() {
        let read = |text: &str, keep| TextSource::File(text.into()).read_prompt(keep).unwrap();
        for (text, dropped, kept) in [
            ("a\n", "a", "a\n"),
            ("a\r\n", "a", "a\r\n"),
            ("a\n\n", "a\n", "a\n\n"),
            ("a\r", "a\r", "a\r"),
            ("a ", "a ", "a "),
            ("\n", "", "\n"),
            ("", "", ""),
            ("\u{feff}a\n", "a", "a\n"),
            ("\u{feff}\u{feff}a", "\u{feff}a", "\u{feff}a"),
            ("a\u{feff}", "a\u{feff}", "a\u{feff}"),
            ("a\0b\n", "a\0b", "a\0b\n"),
        ] {
            assert_eq!((read(text, false).as_str(), read(text, true).as_str()), (dropped, kept));
            let typed = TextSource::Literal(text.into()).read_prompt(false).unwrap();
            assert_eq!(typed, text, "an argument is used as typed");
        }
    }

    #[test]
    fn invalid_text_is_located() {
        for (bytes, parts) in [
            (&b"ab\xff"[..], "f: invalid UTF-8 in line 1, at byte 2;"),
            (b"a\nb\n\xc3(", "f: invalid UTF-8 in line 3, at byte 4;"),
            (b"a\xe2\x82", "f: invalid UTF-8 in line 1, at byte 1;"),
            (b"\xff\xfea\0", "f: the text is UTF-16;"),
        ] {
            let message = read_text(bytes, "f").unwrap_err().to_string();
            assert!(message.starts_with(parts), "{message}");
        }
    }
}
