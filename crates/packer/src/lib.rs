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
//! What this crate is not: it does not run models, and it does not download them silently.
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
pub mod fetch;
mod gguf;
mod gguf_arch;
mod gguf_config;
mod hf;
mod hf_arch;
mod hf_config;
mod json;
mod layout;
mod lora;
mod model;
mod pack;
mod pickle;
mod rope;
mod safetensors;
mod sections;
mod source;
mod space;
pub mod store;
pub mod synthetic;
mod text;
mod torch;
mod weights;

use std::path::{Path, PathBuf};

pub use compare::{TensorError, compare};
pub use describe::{Description, SourceTensor, describe};
pub use error::Error;
pub use lora::Lora;
pub use nanoinfer_format::{Config, Quant, Role, Staged};
pub use source::TensorSource;

/// A model as it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A Hugging Face model folder: `config.json`, safetensors or `pytorch_model.bin`, tokenizer.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
}

impl Input {
    /// A folder is a Hugging Face model, a file that begins with `GGUF` is one.
    ///
    /// # Errors
    /// The path does not exist, or is a file of another kind.
    pub fn detect(path: &Path) -> Result<Self, Error> {
        let meta = std::fs::metadata(path).map_err(Error::io(path, "cannot open"))?;
        if meta.is_dir() {
            return Ok(Self::Folder(path.into()));
        }
        let file = source::SourceFile::open(path)?;
        let mut magic = [0; 4];
        if file.len >= 4 {
            file.read_at(0, &mut magic)?;
        }
        if magic == *b"GGUF" {
            return Ok(Self::Gguf(path.into()));
        }
        Err(Error::source(path, "is neither a Hugging Face model folder nor a GGUF file"))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::Gguf(path) => path,
        }
    }

    fn open(&self) -> Result<model::Model, Error> {
        match self {
            Self::Folder(path) => hf::open(path),
            Self::Gguf(path) => gguf_config::open(path),
        }
    }
}

/// How to convert.
pub struct Options<'a> {
    /// Encoding of the linear layers.
    pub quant: Quant,
    /// Threads that read and quantize; at least one is used. The result does not depend on it.
    pub threads: usize,
    /// Called now and then on the calling thread.
    pub progress: Option<&'a mut dyn FnMut(Progress)>,
    /// What to note as the model's origin, such as a hub id; no local path.
    pub source_id: Option<String>,
    /// Adapters to merge into the weights, in this order.
    pub loras: Vec<Lora>,
}

impl Options<'_> {
    /// All processors, no progress, no origin.
    pub fn new(quant: Quant) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { quant, threads, progress: None, source_id: None, loras: Vec::new() }
    }
}

/// How far a conversion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of tensors written.
    pub done: u64,
    /// Bytes of tensors the file will have.
    pub total: u64,
    /// The tensor last written to.
    pub role: Role,
    /// Its layer.
    pub layer: Option<u32>,
}

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

/// The files of a GGUF model, of which `path` is one.
fn split_files(path: &Path) -> Vec<PathBuf> {
    gguf::split::files(path)
}

/// The rename at the end would replace a file of the source.
fn refuse_own_source(model: &model::Model, out: &Path) -> Result<(), Error> {
    let Ok(target) = out.canonicalize() else { return Ok(()) };
    match model.files.iter().find(|f| f.canonicalize().is_ok_and(|f| f == target)) {
        Some(_) => Err(Error::source(out, "is a file of the source; choose another output")),
        None => Ok(()),
    }
}
