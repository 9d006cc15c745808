//! GGUF files (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).

mod config;
mod file;
mod keys;
mod metadata;
mod recurrent;
mod scales;
mod split;
mod text;

pub(crate) use config::open;
pub(crate) use keys::Keys;
pub(crate) use metadata::{Metadata, Value};
pub use split::files;
pub(crate) use split::open as open_file;

#[cfg(test)]
mod tests;
