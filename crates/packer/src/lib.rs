//! Converts published models to `.nano` files once, ahead of time, so that the engine only has to
//! map them.
//!
//! ```text
//! config.json, *.safetensors, *.bin ─ hf ┐                  ┌ encode ┐
//!                                 family ┼→ Model → layout ─┤ encode ├→ pack → format::Writer
//! *.gguf ────────────────────────── gguf ┘          (plan)  └ encode ┘
//! ```
//!
//! A reader turns a source into a [`Config`] and one [`TensorSource`] per weight; everything
//! specific to an architecture is in its family's file. The plan maps source rows to file rows;
//! workers read, rotate and quantize those rows. The result is byte-for-byte identical for any
//! number of threads on any machine.
//!
//! This crate does not run, download or cache models.
//!
//! ```no_run
//! use nanoinfer_packer::{Input, Options, Quant, convert};
//!
//! let input = Input::detect("models/SmolLM2-135M-Instruct".as_ref())?;
//! let converted = convert(&input, "smollm2.nano".as_ref(), Options::new(Quant::Q8))?;
//! println!("{} tensors, {} bytes", converted.tensors, converted.bytes);
//! # Ok::<(), nanoinfer_packer::Error>(())
//! ```

mod compare;
mod convert;
mod dequant;
mod description;
mod error;
mod family;
mod foreign;
mod gguf;
mod hf;
mod input;
mod listing;
mod locate;
mod lora;
mod model;
mod names;
mod options;
mod pack;
mod purpose;
pub mod quantize;
mod quantized;
mod rope;
mod safetensors;
mod source;
mod space;
pub mod synthetic;
mod tokenizer;
mod torch;
mod weights;
mod xielu;

pub use compare::{TensorError, compare};
pub use convert::{Converted, convert, convert_staged};
pub use error::Error;
pub use gguf::files as gguf_files;
pub use input::Input;
pub use listing::{Description, SourceTensor, describe};
pub use lora::Lora;
pub use nanoinfer_format::{Config, Precision, Quant, Recipe, Role, Staged};
pub use options::{Exceptions, Options, Progress, recipe};
pub use source::TensorSource;
pub use space::check as check_space;

/// Incremented when the packer starts to write different bytes for the same source, so that
/// previously cached conversions are no longer used.
pub const OUTPUT_VERSION: u32 = 3;

/// What a file written with this output version lacks compared to one converted now, if anything; see
/// [`NanoFile::packer_version`](nanoinfer_format::NanoFile::packer_version).
pub fn missed_by(version: u32) -> Option<&'static str> {
    let what =
        "it may lack tokens that end an answer, sampling defaults and rules of the tokenizer";
    (version < 3).then_some(what)
}
