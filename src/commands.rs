//! One module per subcommand.

use std::process::ExitCode;

use anyhow::Result;

use crate::args::Command;
use crate::clock::Clock;

mod bench;
mod chat;
mod convert;
mod doctor;
mod eval;
mod generate;
mod inspect;
mod logits;
mod manual;
mod models;
mod serve;
mod tokenize;
mod verify;

/// Runs a command; `clock` counts from the start of the process.
pub(crate) fn run(command: Command, clock: Clock) -> Result<ExitCode> {
    match command {
        Command::Convert(args) => convert::run(args),
        Command::Generate(args) => generate::run(args, clock),
        Command::Chat(args) => chat::run(args),
        Command::Serve(args) => serve::run(args),
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
    }
}
