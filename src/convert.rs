//! `nanoinfer convert`: a model becomes a `.nano` file.

use std::process::ExitCode;

use anyhow::Result;
use nanoinfer_packer::fetch::{ModelRef, Step};

use crate::args::{Convert, Quant};
use crate::report::{Reporter, say};

pub(crate) fn run(args: Convert) -> Result<ExitCode> {
    let quant = match args.quant {
        Quant::Q8 => nanoinfer_format::Quant::Q8,
        Quant::F32 => nanoinfer_format::Quant::F32,
    };
    let model = ModelRef::parse(&args.model)?.at_revision(args.revision.as_deref())?;
    let mut reporter = Reporter::default();
    let report = &mut |step: Step<'_>| reporter.step(step);
    crate::run::store()?.convert(&model, &args.out, quant, &args.lora, report)?;
    drop(reporter);
    let bytes = std::fs::metadata(&args.out)?.len();
    say(&format!("wrote {} ({} MB)", args.out.display(), bytes.div_ceil(1_000_000)));
    Ok(ExitCode::SUCCESS)
}
