//! The `.nano` file format: one model in one file, laid out exactly as the kernels read it.
//!
//! ```text
//! 0        256            64 KiB                                           end
//! ┌────────┬─── zeros ────┬──────────────────────┬───────────────┬─────────┐
//! │ header │              │ tensors (panels)     │ config, text… │ section │
//! │        │              │ in execution order   │ tensor table  │ table   │
//! └────────┴──────────────┴──────────────────────┴───────────────┴─────────┘
//! ```
//!
//! [`NanoFile::open`] maps the file and validates header, sections and tensor table once, with checked
//! arithmetic; it never reads tensor data. Afterwards every view is infallible. [`Writer`] streams
//! tensors to a temporary file next to the target and renames it when complete, so a reader sees the
//! old file, the new file, or none.
//!
//! This crate defines neither what the tensors mean to a forward pass (the engine does) nor how panels
//! are computed (the kernels do). The specification for readers in other languages is
//! `docs/FORMAT.md`.

#[cfg(target_endian = "big")]
compile_error!(
    "the .nano format is mapped without conversion and requires a little-endian machine"
);

mod activation;
mod attention;
mod bits;
mod config;
mod config_attention;
mod config_check;
mod config_layers;
mod encoding;
mod error;
mod experts;
mod file;
mod generation;
mod header;
mod map;
mod norm;
mod panels;
mod precision;
mod provenance;
mod recipe;
mod recurrent;
mod role;
mod schema;
mod section;
mod spec;
mod temperature;
mod tensor;
mod units;
mod writer;

pub use activation::{Activation, Xielu};
pub use attention::{AttentionShape, Latent, LayerAttention};
pub use bits::Bits;
pub use config::{Config, ConfigError, LayerParts, QkNorm, Quant, Rope};
pub use encoding::{ActType, Encoding};
pub use error::Error;
pub use experts::{ExpertGroups, Experts, RouterSoftmax, SharedExpert};
pub use file::NanoFile;
pub use generation::Generation;
pub use header::{HEADER_LEN, Header, MAGIC, VERSION};
pub use norm::{Norm, NormPlace};
pub use panels::{PanelLayout, PanelRun, PanelRuns, Panels};
pub use precision::{Precision, PrecisionError};
pub use recipe::{BitsPerWeight, MatrixShape, Recipe, RecipeError, matrices};
pub use recurrent::{Recurrent, RecurrentKind};
pub use role::Role;
pub use schema::{Entry, Kind, PartShape, layer_schema, schema};
pub use section::{Section, SectionKind};
pub use spec::{Part, TensorSpec};
pub use temperature::Temperature;
pub use tensor::{ROW as TENSOR_ROW, Tensor};
pub use units::{ALIGN, DATA_ALIGN, GROUP, LANES, LINE, QUAD, pad};
pub use writer::{Staged, Writer};
