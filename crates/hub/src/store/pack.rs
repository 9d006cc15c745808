//! Converts a source to a file: with calibration if asked for, and a self-check.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use nanoinfer_engine::{Model, SelfCheck};
use nanoinfer_format::{Precision, Quant, Recipe, SectionKind};
use nanoinfer_packer::quantize::Calibrate;
use nanoinfer_packer::{
    Exceptions, Input, Lora, Options, Progress, Staged, check_space, convert_staged, recipe,
};

use crate::calibrate::{self, Calibration, OwnText, Text};
use crate::local::LocalSource;
use crate::{Error, Status, StatusFn};

/// Options for [`Store::convert`](super::Store::convert).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ConvertOptions {
    /// Precision of the weights.
    pub quant: Precision,
    /// Exceptions to the encodings of that precision.
    pub exceptions: Option<Exceptions>,
    /// Text to calibrate with, for encodings that profit from it: see
    /// [`Recipe::is_coded`](nanoinfer_format::Recipe::is_coded).
    pub calibrate: Option<Text>,
    /// Adapters to merge into the weights, in this order.
    pub loras: Vec<Lora>,
    /// A system prompt to bake into the file.
    pub prompt: Option<String>,
}

impl ConvertOptions {
    /// Options without exceptions, calibration, adapters or a prompt.
    pub fn new(quant: impl Into<Precision>) -> Self {
        let quant = quant.into();
        Self { quant, exceptions: None, calibrate: None, loras: Vec::new(), prompt: None }
    }
}

/// Converts `source` to `out`, which appears only once it is complete.
pub(super) fn pack(
    source: &LocalSource,
    out: &Path,
    options: &ConvertOptions,
    status: &mut StatusFn<'_>,
) -> Result<(), Error> {
    let renamed = |e| source.renamed(e);
    let input = Input::detect(&source.path).map_err(renamed)?;
    let plan = Plan::of(source, &input, out, options)?;
    if options.calibrate.is_some() && plan.shares_caches {
        status(Status::Message(
            "not calibrated: layers read the caches of others, and calibration runs layers apart",
        ));
    } else if let (Some(Text::Given(_)), None) = (&options.calibrate, plan.calibrate) {
        status(Status::Message("not calibrated: no matrix is stored in codes"));
    }
    let mut calibration = match plan.calibrate {
        Some(text) => Some(calibration(source, &input, out, (options, text), status)?),
        None => None,
    };
    if let Some(calibration) = calibration.as_mut().filter(|_| plan.correct) {
        calibration.correct_errors(out.parent().unwrap_or(out).to_path_buf());
    }
    status(Status::Message(&format!("converting {} to {}", source.name, plan.name)));
    let status = RefCell::new(status);
    let calibrating = |done: usize, total: usize| {
        (*status.borrow_mut())(Status::Steps { done: done as u64, total: total as u64 });
    };
    if let Some(calibration) = &mut calibration {
        calibration.on_progress(&calibrating);
    }
    let mut progress = |p: Progress| {
        (*status.borrow_mut())(Status::Bytes { done: p.done, total: p.total });
    };
    let mut packing = Options::new(plan.quant);
    packing.exceptions = options.exceptions.clone();
    packing.source_id = source.origin.clone();
    packing.loras = options.loras.clone();
    packing.progress = Some(&mut progress);
    packing.calibrated = plan.calibrate.map(description);
    packing.calibrate = calibration.as_mut().map(|c| c as &mut dyn Calibrate);
    let (mut staged, converted) = convert_staged(&input, out, packing).map_err(renamed)?;
    if let Some(calibration) = &mut calibration {
        let factor = Model::open(staged.path())
            .and_then(|model| calibration.logit_factor(Arc::new(model)))
            .map_err(|e| Error::Calibrate { model: source.name.clone(), source: e })?;
        let scaled = staged.scale_logits(&converted.config, factor);
        scaled.map_err(nanoinfer_packer::Error::from)?;
    }
    drop(calibration);
    let status = status.into_inner();
    for note in &converted.notes {
        status(Status::Message(note));
    }
    add_self_check(&mut staged, source, status)?;
    if let Some(prompt) = &options.prompt {
        status(Status::Message("processing the prompt"));
        let bytes = nanoinfer_engine::bake(staged.path(), prompt);
        let bytes = bytes.map_err(|e| Error::Bake { model: source.name.clone(), source: e });
        add_section(&mut staged, SectionKind::BakedPrompt, &bytes?)?;
    }
    Ok(staged.commit().map_err(nanoinfer_packer::Error::from)?)
}

/// What a conversion will do.
struct Plan<'o> {
    quant: Precision,
    /// What the weights are converted to, for messages.
    name: String,
    /// The text to calibrate with, if any matrix profits from it.
    calibrate: Option<&'o Text>,
    /// Whether codes cannot be calibrated, since layers read what others have cached.
    shares_caches: bool,
    /// Whether most weights have so few bits that correcting the errors of earlier layers pays.
    correct: bool,
}

impl<'o> Plan<'o> {
    /// Checks the encodings asked for and, before hours of work, the free space on disk: while it calibrates,
    /// a conversion also needs the 8-bit version of the model, and to correct errors, one layer at a time.
    fn of(
        source: &LocalSource,
        input: &Input,
        out: &Path,
        options: &'o ConvertOptions,
    ) -> Result<Self, Error> {
        let renamed = |e| source.renamed(e);
        let config = input.config().map_err(renamed)?;
        let quant = options.quant.for_model(&config);
        let recipe = recipe(&config, quant, options.exceptions.as_ref())?;
        let shares_caches = recipe.is_coded() && config.shares_caches();
        let calibrate = options.calibrate.as_ref().filter(|_| recipe.is_coded() && !shares_caches);
        let few_bits = matches!(recipe.quant(), Quant::Q3 | Quant::Q2);
        // A layer alone has no embeddings of tokens.
        let correct = calibrate.is_some() && few_bits && config.layer_embedding == 0;
        let mut needed = recipe.bytes(&config);
        if calibrate.is_some() {
            needed = needed.saturating_add(Recipe::of(Quant::Q8, &config).bytes(&config));
        }
        if correct {
            needed = needed.saturating_add(calibrate::correction_bytes(&config, &recipe));
        }
        check_space(out.parent().unwrap_or(out), needed)?;
        let name = match options.exceptions {
            None => quant.to_string(),
            Some(_) => format!("{quant} with exceptions"),
        };
        Ok(Self { quant, name, calibrate, shares_caches, correct })
    }
}

/// What a file states about the text with which it was calibrated.
fn description(text: &Text) -> String {
    match text {
        Text::Own(OwnText { texts, seed }) => {
            format!("{texts} texts written by the model, seed {seed}")
        }
        Text::Given(text) => {
            let hash = blake3::hash(text.as_bytes()).to_hex();
            format!("a given text of {} bytes, BLAKE3 {}", text.len(), &hash[..16])
        }
    }
}

/// Converts `source` to 8 bits in a temporary file beside `out`, for calibration. This model also writes the
/// text, unless it is given.
fn calibration<'a>(
    source: &LocalSource,
    input: &Input,
    out: &Path,
    (options, text): (&ConvertOptions, &Text),
    status: &mut StatusFn<'_>,
) -> Result<Calibration<'a>, Error> {
    let message = format!("converting {} to q8, for calibration", source.name);
    status(Status::Message(&message));
    let mut progress = |p: Progress| status(Status::Bytes { done: p.done, total: p.total });
    let mut packing = Options::new(Quant::Q8);
    packing.loras = options.loras.clone();
    packing.progress = Some(&mut progress);
    let (staged, _) = convert_staged(input, out, packing).map_err(|e| source.renamed(e))?;
    let failed = |e| Error::Calibrate { model: source.name.clone(), source: e };
    // The open file outlives its name, which is removed with `staged`.
    let model = Arc::new(Model::open(staged.path()).map_err(failed)?);
    let texts = match text {
        Text::Own(own) => {
            status(Status::Message("calibrating on text that the model writes"));
            calibrate::generate(&model, None, *own, |done, total| {
                status(Status::Steps { done: done as u64, total: total as u64 });
            })
        }
        Text::Given(text) => {
            status(Status::Message("calibrating on the given text"));
            calibrate::divide(&model, text)
        }
    };
    texts.and_then(|texts| Calibration::new(model, None, texts)).map_err(failed)
}

/// Runs the finished model and records its logits. A machine with too little memory to run a model
/// can still convert it.
fn add_self_check(
    staged: &mut Staged,
    source: &LocalSource,
    status: &mut StatusFn<'_>,
) -> Result<(), Error> {
    match SelfCheck::compute(staged.path()) {
        Ok(check) => add_section(staged, SectionKind::SelfCheck, &check.to_bytes()),
        Err(nanoinfer_engine::Error::Memory { .. }) => {
            status(Status::Message(
                "no self-check: this machine has too little memory to run the model",
            ));
            Ok(())
        }
        Err(e) => Err(Error::SelfCheck { model: source.name.clone(), source: e }),
    }
}

fn add_section(staged: &mut Staged, kind: SectionKind, bytes: &[u8]) -> Result<(), Error> {
    Ok(staged.add_section(kind, bytes).map_err(nanoinfer_packer::Error::from)?)
}
