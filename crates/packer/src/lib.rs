//! Turns published models into `.nano` files: once, offline, so that the engine only maps.
//!
//! ```text
//! config.json ─ hf_config ┐
//! *.safetensors, *.bin ───┤                  ┌ encode ┐
//!                         ├→ Model → layout ─┤ encode ├→ pack → format::Writer
//! *.gguf ─ gguf_config ───┘          (plan)  └ encode ┘
//! ```
//!
//! A source is described by a [`Config`] and one [`TensorSource`] per weight. The plan says which
//! rows of which source become which rows of the file; workers read those rows, rotate and
//! quantize them. The result is the same, byte for byte, for any number of threads on any machine.
//!
//! What this crate is not: it does not run models, download them or cache them.
//!
//! ```no_run
//! use nanoinfer_packer::{Input, Options, Quant, convert};
//!
//! let input = Input::detect("models/SmolLM2-135M-Instruct".as_ref())?;
//! let report = convert(&input, "smollm2.nano".as_ref(), Options::new(Quant::Q8))?;
//! println!("{} tensors, {} bytes", report.tensors, report.bytes);
//! # Ok::<(), nanoinfer_packer::Error>(())
//! ```

mod compare;
mod dequant;
mod describe;
mod encode;
mod error;
mod gguf;
mod gguf_arch;
mod gguf_config;
mod hf;
mod hf_arch;
mod hf_config;
mod hf_settings;
mod input;
mod json;
mod layout;
mod lora;
mod model;
mod options;
mod pack;
mod pickle;
mod rope;
mod safetensors;
mod sections;
mod source;
mod space;
pub mod synthetic;
mod text;
mod torch;
mod weights;

use std::path::Path;

pub use compare::{TensorError, compare};
pub use describe::{Description, SourceTensor, describe};
pub use error::Error;
pub use gguf::files as gguf_files;
pub use input::Input;
pub use lora::Lora;
pub use nanoinfer_format::{Config, Quant, Role, Staged};
pub use options::{Options, Progress};
pub use source::TensorSource;
pub use space::check as check_space;

/// Raised when the packer writes different bytes for the same source, so that caches of converted
/// models miss.
pub const OUTPUT_VERSION: u32 = 2;

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The model's identity.
    pub content_id: [u8; 32],
    /// Length of the file.
    pub bytes: u64,
    /// Tensors in the file.
    pub tensors: usize,
    /// The architecture.
    pub config: Config,
    /// The source had a tokenizer; without one the model takes token ids only.
    pub has_tokenizer: bool,
    /// The source had a chat template.
    pub has_chat_template: bool,
}

/// Converts `input` to the file `out`, which appears complete or not at all.
///
/// # Errors
/// The source is damaged, incomplete or of an unsupported kind, or the file cannot be written.
pub fn convert(input: &Input, out: &Path, options: Options<'_>) -> Result<Report, Error> {
    let (staged, report) = convert_staged(input, out, options)?;
    staged.commit()?;
    Ok(report)
}

/// Like [`convert`], but leaves the last step to the caller: the file is complete under a
/// temporary name, to be tested and then committed.
///
/// # Errors
/// As for [`convert`].
pub fn convert_staged(
    input: &Input,
    out: &Path,
    options: Options<'_>,
) -> Result<(Staged, Report), Error> {
    let mut model = input.open()?;
    for lora in &options.loras {
        lora::merge(&mut model, lora)?;
    }
    refuse_own_source(&model, out)?;
    model.config.quant = options.quant;
    if options.quant == Quant::Q8 {
        model.config.value_rotation = Config::largest_value_rotation(model.config.head_dim);
    }
    let (staged, tensors) = pack::pack(&model, out, options)?;
    let path = staged.path();
    let bytes = std::fs::metadata(path).map_err(Error::io(path, "cannot read its size"))?.len();
    let report = Report {
        content_id: staged.content_id(),
        bytes,
        tensors,
        has_tokenizer: model.tokenizer.is_some(),
        has_chat_template: model.chat_template.is_some(),
        config: model.config,
    };
    Ok((staged, report))
}

/// The rename at the end would replace a file of the source.
fn refuse_own_source(model: &model::Model, out: &Path) -> Result<(), Error> {
    let Ok(target) = out.canonicalize() else { return Ok(()) };
    match model.files.iter().find(|f| f.canonicalize().is_ok_and(|f| f == target)) {
        Some(_) => Err(Error::source(out, "is a file of the source; choose another output")),
        None => Ok(()),
    }
}
