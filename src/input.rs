//! Text from files and standard input.

use std::fs::File;
use std::io::{IsTerminal, Read, stdin};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};

/// Maximum length of a text in bytes; more than fits into any model's context.
const MAX_TEXT: u64 = 64 << 20;

/// An opened text source.
pub(crate) enum TextSource {
    Literal(String),
    /// A file, and its name for messages.
    File(File, String),
    Stdin,
}

impl TextSource {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("{name}: cannot open"))?;
        Ok(Self::File(file, name))
    }

    /// Standard input, or an error with the message `missing` if it is a terminal.
    pub(crate) fn piped(missing: &'static str) -> Result<Self> {
        if stdin().is_terminal() {
            bail!(missing);
        }
        Ok(Self::Stdin)
    }

    pub(crate) fn read(self) -> Result<String> {
        match self {
            Self::Literal(text) => Ok(text),
            Self::File(file, name) => read_text(file, &name),
            Self::Stdin => read_text(stdin().lock(), "standard input"),
        }
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
    String::from_utf8(bytes).map_err(|e| {
        let offset = e.utf8_error().valid_up_to();
        anyhow!("{name}: invalid UTF-8 at byte {offset}; convert the input to UTF-8")
    })
}
