//! `nanoinfer convert`: writes a model as a `.nano` file.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use nanoinfer_format::Quant;
use nanoinfer_hub::calibrate::{OwnText, Text};
use nanoinfer_hub::{ConvertOptions, ModelRef, Online, Status, Store};

use crate::args::Convert;
use crate::input::TextSource;
use crate::status::{Reporter, say};

pub(crate) fn run(args: Convert) -> Result<ExitCode> {
    let model = ModelRef::parse(&args.model)?.at_revision(args.revision.as_deref())?;
    let mut options = ConvertOptions::new(args.quant.into());
    options.calibrate = calibration(&args, options.quant)?;
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

/// The text to calibrate with, by default the model's own.
fn calibration(args: &Convert, quant: Quant) -> Result<Option<Text>> {
    let Some(given) = &args.calibrate else {
        let own = OwnText { seed: args.calibrate_seed, ..OwnText::default() };
        return Ok(Some(Text::Own(own)));
    };
    ensure!(quant.is_coded(), "--calibrate applies to --quant q5, q4, q3 and q2 only");
    if given == Path::new("none") {
        return Ok(None);
    }
    let text = TextSource::open(given)?.read()?;
    ensure!(
        !text.trim().is_empty(),
        "{}: is empty; give a text to calibrate with",
        given.display()
    );
    Ok(Some(Text::Given(text)))
}
