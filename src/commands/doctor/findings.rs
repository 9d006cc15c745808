//! The findings of `doctor`, as `--json` prints them.

use std::collections::BTreeMap;

use serde::Serialize;

/// The computer, or the part of it that a virtual machine exposes.
#[derive(Serialize)]
pub(super) struct Machine {
    /// The CPU's brand string.
    pub(super) cpu: Option<String>,
    pub(super) architecture: &'static str,
    pub(super) system: &'static str,
    /// Size of the largest cache in bytes.
    pub(super) last_level_cache: Option<usize>,
    /// Load average over the last minute.
    pub(super) load: Option<f64>,
}

/// All findings.
#[derive(Serialize)]
pub(super) struct Findings {
    pub(super) version: &'static str,
    pub(super) machine: Machine,
    pub(super) isa: IsaChoice,
    pub(super) threads: Threads,
    pub(super) memory: Memory,
    pub(super) roofline: Roofline,
    pub(super) encodings: Vec<Speed>,
    pub(super) models: Vec<Fit>,
    pub(super) largest: Largest,
    pub(super) advice: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct IsaChoice {
    pub(super) used: &'static str,
    pub(super) reason: String,
    /// Supported on this CPU, slowest first.
    pub(super) available: Vec<&'static str>,
}

#[derive(Serialize)]
pub(super) struct Threads {
    pub(super) used: usize,
    pub(super) reason: String,
    pub(super) online: usize,
    pub(super) allowed: usize,
    pub(super) physical: usize,
    pub(super) granted: usize,
}

#[derive(Serialize)]
pub(super) struct Memory {
    /// Bytes of physical memory.
    pub(super) total: Option<u64>,
    /// Bytes available to this process.
    pub(super) available: Option<u64>,
}

/// Combined limits of all threads.
#[derive(Serialize)]
pub(super) struct Roofline {
    /// Bytes per second read from memory: median, minimum and maximum.
    pub(super) bandwidth: [f64; 3],
    /// 8-bit operations per second, two per multiply-add: median, minimum and maximum.
    pub(super) int8: [f64; 3],
    /// Operations per byte at which reading and computing take the same time.
    pub(super) ridge: f64,
}

/// The speed of products with weights in an encoding.
#[derive(Serialize)]
pub(super) struct Speed {
    pub(super) encoding: String,
    /// Measured, as a multiple of that of q8.
    pub(super) relative: f64,
    /// The same if only the number of bytes mattered.
    pub(super) gain: f64,
}

/// A published model's shape with 8-bit weights.
#[derive(Serialize)]
pub(super) struct Fit {
    pub(super) shape: String,
    pub(super) parameters: u64,
    /// Mapped weights plus reserved cache and buffers.
    pub(super) bytes: u64,
    pub(super) fits: bool,
    /// The same as `bytes` for every precision but f32.
    pub(super) needs: BTreeMap<&'static str, u64>,
    /// Expected decode speed in tokens per second.
    pub(super) decode_tps: f64,
}

/// The largest 8-bit model that fits into memory.
#[derive(Serialize)]
pub(super) struct Largest {
    pub(super) parameters: u64,
    pub(super) bytes: u64,
    pub(super) decode_tps: f64,
    /// The largest of `models` that fits.
    pub(super) shape: Option<String>,
}
