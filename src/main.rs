//! The `nanoinfer` command; its code is in the library, which the Python package shares.

use std::process::ExitCode;

fn main() -> ExitCode {
    nanoinfer::program::run(std::env::args_os())
}
