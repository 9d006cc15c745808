//! `nanoinfer convert`: writes a model as a `.nano` file.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use nanoinfer_format::{Precision, Quant};
use nanoinfer_hub::calibrate::{OwnText, Text};
use nanoinfer_hub::{ConvertOptions, Exceptions, ModelRef, Online, Status, Store};

use crate::args::Convert;
use crate::input::TextSource;
use crate::status::{Reporter, say};

pub(crate) fn run(args: Convert) -> Result<ExitCode> {
    let model = ModelRef::parse(&args.model)?.at_revision(args.revision.as_deref())?;
    let mut options = ConvertOptions::new(args.quant);
    if let Some(path) = &args.recipe {
        let (name, lines) = (path.display().to_string(), TextSource::open(path)?.read()?);
        options.exceptions = Some(Exceptions { name, lines });
    }
    options.calibrate = calibration(&args, &options)?;
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
    let (out, mb) = (args.out.display(), bytes.div_ceil(1_000_000));
    say(&format!("wrote {out} ({mb} MB); use it with `nanoinfer chat --model {out}`"));
    Ok(ExitCode::SUCCESS)
}

/// The text to calibrate with, by default the model's own.
fn calibration(args: &Convert, options: &ConvertOptions) -> Result<Option<Text>> {
    let Some(given) = &args.calibrate else {
        let own = OwnText { seed: args.calibrate_seed, ..OwnText::default() };
        return Ok(Some(Text::Own(own)));
    };
    let exact = [Quant::Q8, Quant::F32].map(Precision::from).contains(&options.quant);
    ensure!(
        !exact || options.exceptions.is_some(),
        "--calibrate applies to less than 8 bits; add --quant q4, for example"
    );
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
