//! The `.nano` file: one model, one file, laid out exactly as the kernels read it.
//!
//! ```text
//! 0        256            64 KiB                                           end
//! ┌────────┬─── zeros ────┬──────────────────────┬───────────────┬─────────┐
//! │ header │              │ tensors (panels)     │ config, text… │ section │
//! │        │              │ in execution order   │ tensor table  │ table   │
//! └────────┴──────────────┴──────────────────────┴───────────────┴─────────┘
//! ```
//!
//! [`NanoFile::open`] maps the file and validates header, sections and tensor table once, with
//! checked arithmetic; it never reads tensor data. After that every view is infallible.
//! [`Writer`] streams tensors to a temporary file beside the target and renames it when complete,
//! so that a reader sees the old file, the new file, or none.
//!
//! What this crate is not: it does not know what the tensors mean to a forward pass (the engine
//! does), nor how panels are computed (the kernels crate packs them). The specification for
//! readers in other languages is `docs/FORMAT.md`.

#[cfg(target_endian = "big")]
compile_error!("the .nano format is mapped as it is and therefore needs a little-endian machine");

mod config;
mod error;
mod file;
mod header;
mod map;
mod section;
mod spec;
mod tensor;
mod writer;

pub use config::{
    Activation, Config, ConfigError, Experts, Generation, Norm, NormPlace, QkNorm, Quant, Rope,
    RouterSoftmax,
};
pub use error::Error;
pub use file::NanoFile;
pub use header::{DATA_ALIGN, HEADER_LEN, Header, MAGIC, VERSION};
pub use section::{Section, SectionKind};
pub use spec::{Part, TensorSpec};
pub use tensor::{Encoding, LANES, Role, Tensor, panel_bytes};
pub use writer::{Staged, Writer};

/// Rounds `n` up to a multiple of `to`.
///
/// ```
/// assert_eq!(nanoinfer_format::pad(100, 64), 128);
/// ```
pub const fn pad(n: usize, to: usize) -> usize {
    n.div_ceil(to) * to
}

/// Sections, tensors and the section table begin at multiples of this: one cache line.
pub(crate) const ALIGN: u64 = 64;

/// Longest block of inputs one activation scale covers, and the multiple to which every panel's
/// input dimension is padded.
pub const GROUP: usize = 64;
