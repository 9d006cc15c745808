//! Options and progress of a conversion.

use std::fmt;

use nanoinfer_format::{Quant, Role};

use crate::Lora;
use crate::quantize::Calibrate;

/// Options of a conversion.
pub struct Options<'a> {
    /// Encoding of the linear layers.
    pub quant: Quant,
    /// Number of threads that read and quantize, at least 1. The result does not depend on it.
    pub threads: usize,
    /// Calibrates the matrices that are stored as codes; otherwise they are quantized without.
    pub calibrate: Option<&'a mut dyn Calibrate>,
    /// Called periodically on the calling thread.
    pub progress: Option<&'a mut dyn FnMut(Progress)>,
    /// The origin to record in the file, such as a hub id; not a local path.
    pub source_id: Option<String>,
    /// Adapters to merge into the weights, in this order.
    pub loras: Vec<Lora>,
}

impl Options<'_> {
    /// Uses all processors; no adapters, calibration, progress callback or origin.
    pub fn new(quant: Quant) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { quant, threads, calibrate: None, progress: None, source_id: None, loras: Vec::new() }
    }
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("quant", &self.quant)
            .field("threads", &self.threads)
            .field("source_id", &self.source_id)
            .field("loras", &self.loras)
            .finish_non_exhaustive()
    }
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
