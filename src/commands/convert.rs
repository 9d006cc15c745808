//! `nanoinfer convert`: writes a model as a `.nano` file.

use std::process::ExitCode;

use anyhow::Result;
use nanoinfer_hub::{ConvertOptions, ModelRef, Online, Status, Store};

use crate::args::Convert;
use crate::input::TextSource;
use crate::status::{Reporter, say};

pub(crate) fn run(args: Convert) -> Result<ExitCode> {
    let model = ModelRef::parse(&args.model)?.at_revision(args.revision.as_deref())?;
    let mut options = ConvertOptions::new(args.quant.into());
    options.loras = args.lora;
    if let Some(path) = &args.bake {
        let text = TextSource::open(path)?.read()?;
        options.prompt = Some(text.trim_end().to_owned());
    }
    let mut reporter = Reporter::default();
    let status = &mut |status: Status<'_>| reporter.status(status);
    Store::open()?.convert(&model, &args.out, &options, Some(&Online), status)?;
    drop(reporter);
    let bytes = std::fs::metadata(&args.out)?.len();
    say(&format!("wrote {} ({} MB)", args.out.display(), bytes.div_ceil(1_000_000)));
    Ok(ExitCode::SUCCESS)
}
