//! `nanoinfer verify`: checks every byte of a `.nano` file, and the model's results.

use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::Result;
use nanoinfer_engine::{NUMERICS, Replay, SelfCheck};
use nanoinfer_format::NanoFile;
use nanoinfer_text::terminal_safe;

use crate::args::Verify;
use crate::model::forced_isa;
use crate::output::print_json;

pub(crate) fn run(args: Verify) -> Result<ExitCode> {
    let file = NanoFile::open(&args.file)?;
    file.verify()?;
    let replay = SelfCheck::replay(&args.file, forced_isa()?)?;
    let bytes = file.header().file_len;
    if args.json {
        let (state, cases) = match replay {
            Replay::Same(cases) => ("same", cases),
            Replay::Absent => ("absent", 0),
            Replay::OtherNumerics(_) => ("other numerics", 0),
        };
        let name = args.file.to_string_lossy();
        print_json(&serde_json::json!({
            "file": name, "bytes": bytes, "self_check": state, "cases": cases,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let replay = match replay {
        Replay::Same(1) => "self-check passed: 1 case, bit for bit".into(),
        Replay::Same(cases) => format!("self-check passed: {cases} cases, bit for bit"),
        Replay::Absent => "no self-check recorded".into(),
        Replay::OtherNumerics(n) => {
            format!(
                "self-check skipped: recorded with numerics {n}, but this version uses {NUMERICS}"
            )
        }
    };
    let name = args.file.to_string_lossy();
    writeln!(stdout(), "{}: intact, {bytes} bytes; {replay}", terminal_safe(&name))?;
    Ok(ExitCode::SUCCESS)
}
