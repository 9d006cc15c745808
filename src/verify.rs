//! `nanoinfer verify`: every byte of a `.nano` file against its hashes.

use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::Result;
use nanoinfer_format::NanoFile;
use nanoinfer_text::terminal_safe;

use crate::args::Verify;

pub(crate) fn run(args: Verify) -> Result<ExitCode> {
    let file = NanoFile::open(&args.file)?;
    file.verify()?;
    let name = args.file.to_string_lossy();
    writeln!(stdout(), "{}: sound, {} bytes", terminal_safe(&name), file.header().file_len)?;
    Ok(ExitCode::SUCCESS)
}
