//! `nanoinfer eval`: how well a model predicts text, and how far it diverges from a reference.
//!
//! ```text
//! text → ids → windows ─┬→ model     → logits ┐
//!                       └→ reference → logits ┴→ score → summary
//! ```

mod choices;
mod score;
mod scorer;
mod text;

use std::process::ExitCode;

use anyhow::Result;

use crate::args::Eval;

pub(crate) fn run(args: Eval) -> Result<ExitCode> {
    match &args.choices {
        Some(file) => choices::run(&args, file)?,
        None => text::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
