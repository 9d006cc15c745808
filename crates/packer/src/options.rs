//! Options and progress of a conversion.

use std::fmt;

use nanoinfer_format::{Config, Precision, Recipe, Role};

use crate::quantize::Calibrate;
use crate::{Error, Lora};

/// Options of a conversion.
pub struct Options<'a> {
    /// Precision of the weights.
    pub quant: Precision,
    /// Exceptions to the encodings of that precision.
    pub exceptions: Option<Exceptions>,
    /// Number of threads that read and quantize, at least 1. The result does not depend on it.
    pub threads: usize,
    /// Calibrates the matrices that are stored as codes; otherwise they are quantized without.
    pub calibrate: Option<&'a mut dyn Calibrate>,
    /// A description of the text that `calibrate` uses, to record in the file.
    pub calibrated: Option<String>,
    /// Called periodically on the calling thread.
    pub progress: Option<&'a mut dyn FnMut(Progress)>,
    /// The origin to record in the file, such as a hub id; not a local path.
    pub source_id: Option<String>,
    /// Adapters to merge into the weights, in this order.
    pub loras: Vec<Lora>,
}

impl Options<'_> {
    /// Uses all processors; no exceptions, adapters, calibration, progress callback or origin.
    pub fn new(quant: impl Into<Precision>) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            quant: quant.into(),
            exceptions: None,
            threads,
            calibrate: None,
            calibrated: None,
            progress: None,
            source_id: None,
            loras: Vec::new(),
        }
    }
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("quant", &self.quant)
            .field("exceptions", &self.exceptions)
            .field("threads", &self.threads)
            .field("source_id", &self.source_id)
            .field("loras", &self.loras)
            .finish_non_exhaustive()
    }
}

/// Exceptions to the encodings of a precision: lines of a pattern and an encoding, as
/// [`Recipe::apply`] reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceptions {
    /// Where the lines come from, for error messages.
    pub name: String,
    /// The lines.
    pub lines: String,
}

/// The encodings of a model with this config.
///
/// # Errors
/// [`Error::Recipe`] if the model cannot have them.
pub fn recipe(
    c: &Config,
    quant: Precision,
    exceptions: Option<&Exceptions>,
) -> Result<Recipe, Error> {
    let mut recipe = quant.recipe(c).map_err(|source| Error::Recipe { name: None, source })?;
    if let Some(Exceptions { name, lines }) = exceptions {
        let failed = |source| Error::Recipe { name: Some(name.clone()), source };
        recipe.apply(lines, c).map_err(failed)?;
    }
    Ok(recipe)
}

/// Progress of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Tensor bytes written so far.
    pub done: u64,
    /// Tensor bytes in the finished file.
    pub total: u64,
    /// Role of the most recently written tensor.
    pub role: Role,
    /// Layer of that tensor.
    pub layer: Option<u32>,
}
