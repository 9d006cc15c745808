//! `nanoinfer convert`: a model becomes a `.nano` file.

use std::process::ExitCode;

use anyhow::{Context, Result};
use nanoinfer_hub::{ConvertOptions, ModelRef, Online, Status, Store};

use crate::args::{Convert, Quant};
use crate::report::{Reporter, say};

pub(crate) fn run(args: Convert) -> Result<ExitCode> {
    let quant = match args.quant {
        Quant::Q8 => nanoinfer_format::Quant::Q8,
        Quant::F32 => nanoinfer_format::Quant::F32,
    };
    let model = ModelRef::parse(&args.model)?.at_revision(args.revision.as_deref())?;
    let mut options = ConvertOptions::new(quant);
    options.loras = args.lora;
    if let Some(path) = &args.bake {
        let name = path.display().to_string();
        let file = std::fs::File::open(path).with_context(|| format!("{name}: cannot open"))?;
        let text = crate::generate::read_text(file, &name)?;
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
