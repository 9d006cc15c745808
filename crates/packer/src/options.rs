//! How a model is packed, and how far that is.

use nanoinfer_format::{Quant, Role};

use crate::Lora;

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
