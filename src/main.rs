//! The `nanoinfer` command: model files in, text out.
//!
//! ```text
//! args ──► commands ──► input, prompt, model, output, status, limits … ──► library crates
//! ```
//!
//! Commands import the shared modules, never each other. Exit codes: 0 success, 1 failure,
//! 2 usage error, 130 interrupted by Ctrl-C.

use std::process::ExitCode;

mod advice;
mod args;
mod clock;
mod commands;
mod follow;
mod input;
mod limits;
mod model;
mod output;
mod parameters;
mod prompt;
mod smaller;
mod status;
mod template;

/// Printed by the SIGBUS handler when a mapped file shrinks or its disk fails.
const FAULT: &str = "nanoinfer: error: a mapped file can no longer be read: it was truncated while in \
use, or its disk failed; check it with `nanoinfer verify`, or read it into memory with --no-mmap\n";

fn main() -> ExitCode {
    let clock = clock::Clock::start();
    nanoinfer_platform::fault::explain(FAULT);
    let command = match args::parse() {
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
