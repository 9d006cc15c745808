//! The `nanoinfer` command: model files in, text out.
//!
//! ```text
//! args ──► commands ──► input, prompt, model, output, status, limits … ──► library crates
//! ```
//!
//! Commands import the shared modules, never each other. Exit codes: 0 success, 1 failure,
//! 2 usage error, 130 interrupted by Ctrl-C. No stability promise: this is for the program and the Python package.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::{args, clock, commands, status};

/// Printed by the SIGBUS handler when a mapped file shrinks or its disk fails.
const FAULT: &str = "nanoinfer: error: a mapped file can no longer be read: it was truncated while in \
use, or its disk failed; check it with `nanoinfer verify`, or read it into memory with --no-mmap\n";

/// Runs the command whose arguments these are, of which the first is the program's name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let clock = clock::Clock::start();
    nanoinfer_platform::fault::explain(FAULT);
    let command = match args::parse(args) {
        Ok(command) => command,
        Err(code) => return code,
    };
    match commands::run(command, clock) {
        Ok(code) => code,
        // A reader that closes the pipe (`| head`) is not a failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            status::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|e| e.downcast_ref::<std::io::Error>());
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
