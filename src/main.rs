//! The `nanoinfer` command: model files in, text out.
//!
//! `args` turns what was typed into validated values, each subcommand has one file, and this one
//! turns their results into exit codes: 0 done, 1 failed, 2 used wrongly, 130 stopped by Ctrl-C.

use std::process::ExitCode;

mod args;
mod bench;
mod chat;
mod clock;
mod convert;
mod doctor;
mod eval;
mod generate;
mod hub_advice;
mod inspect;
mod logits;
mod manual;
mod models;
mod report;
mod run;
mod tokenize;
mod verify;

use args::Command;

/// The last words of a process that reads a mapped file which was cut.
const FAULT: &str = "nanoinfer: error: a mapped file can no longer be read: it was cut while in \
use, or its disk failed; `nanoinfer verify` tells, --no-mmap reads it whole at the start\n";

fn main() -> ExitCode {
    let clock = clock::Clock::start();
    nanoinfer_platform::fault::explain(FAULT);
    let command = match args::parse() {
        Ok(command) => command,
        Err(code) => return code,
    };
    let result = match command {
        Command::Convert(args) => convert::run(args),
        Command::Generate(args) => generate::run(args, clock),
        Command::Chat(args) => chat::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Logits(args) => logits::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Models(args) => models::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Completions(args) => manual::completions(args),
        Command::Man(args) => manual::run(args),
    };
    match result {
        Ok(code) => code,
        // The reader of a pipe has what it wanted (`| head`): nothing to tell, nothing failed.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|e| e.downcast_ref::<std::io::Error>());
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
