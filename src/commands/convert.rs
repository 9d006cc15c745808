//! `nanoinfer convert`: writes a model as a `.nano` file.

use std::process::ExitCode;

use anyhow::Result;
use nanoinfer_packer::fetch::{ModelRef, Step};

use crate::args::Convert;
use crate::input::TextSource;
use crate::model;
use crate::status::{Reporter, say};

pub(crate) fn run(args: Convert) -> Result<ExitCode> {
    let model = ModelRef::parse(&args.model)?.at_revision(args.revision.as_deref())?;
    let mut reporter = Reporter::default();
    let report = &mut |status: Step<'_>| reporter.status(status);
    let mut store = model::store()?;
    if let Some(path) = &args.bake {
        let text = TextSource::open(path)?.read()?;
        store = store.with_baked(model::bake, text.trim_end().to_owned());
    }
    store.convert(&model, &args.out, args.quant.into(), &args.lora, report)?;
    drop(reporter);
    let bytes = std::fs::metadata(&args.out)?.len();
    say(&format!("wrote {} ({} MB)", args.out.display(), bytes.div_ceil(1_000_000)));
    Ok(ExitCode::SUCCESS)
}
