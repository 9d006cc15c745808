//! Time per stage of a pass.

use std::time::{Duration, Instant};

/// The stages of a forward pass, named as in `forward.rs`, and the subsequent draw of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // self-explanatory
pub enum Stage {
    Embed,
    Norm,
    Qkv,
    Cache,
    Attention,
    Convolve,
    States,
    PackAttention,
    AttnOutput,
    GateUp,
    Down,
    Router,
    Experts,
    Head,
    Sampling,
}

impl Stage {
    /// All stages, in the order of a pass.
    pub const ALL: [Stage; 15] = [
        Self::Embed,
        Self::Norm,
        Self::Qkv,
        Self::Cache,
        Self::Attention,
        Self::Convolve,
        Self::States,
        Self::PackAttention,
        Self::AttnOutput,
        Self::GateUp,
        Self::Down,
        Self::Router,
        Self::Experts,
        Self::Head,
        Self::Sampling,
    ];

    /// The name of the stage, such as `attn_output`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Norm => "norm",
            Self::Qkv => "qkv",
            Self::Cache => "cache",
            Self::Attention => "attention",
            Self::Convolve => "convolve",
            Self::States => "states",
            Self::PackAttention => "pack_attention",
            Self::AttnOutput => "attn_output",
            Self::GateUp => "gate_up",
            Self::Down => "down",
            Self::Router => "router",
            Self::Experts => "experts",
            Self::Head => "head",
            Self::Sampling => "sampling",
        }
    }
}

/// Time per stage, including the wait at its barrier, summed over layers and passes.
#[derive(Clone, Debug)]
pub struct Profile {
    times: [Duration; Stage::ALL.len()],
    since: Instant,
    enabled: bool,
}

impl Profile {
    pub(crate) fn new() -> Self {
        Self { times: Default::default(), since: Instant::now(), enabled: false }
    }

    /// Resets the times, and starts or stops profiling.
    pub(crate) fn enable(&mut self, enabled: bool) {
        *self = Self { enabled, ..Self::new() };
    }

    /// Starts the clock at the beginning of a pass.
    pub(crate) fn begin(&mut self) {
        if self.enabled {
            self.since = Instant::now();
        }
    }

    /// Attributes the time since the last mark to `stage`.
    pub(crate) fn mark(&mut self, stage: Stage) {
        if self.enabled {
            let now = Instant::now();
            self.times[stage as usize] += now - self.since;
            self.since = now;
        }
    }

    /// Adds time measured elsewhere to `stage`.
    pub(crate) fn add(&mut self, stage: Stage, time: Duration) {
        if self.enabled {
            self.times[stage as usize] += time;
        }
    }

    /// Time spent in a stage.
    pub fn time(&self, stage: Stage) -> Duration {
        self.times[stage as usize]
    }

    /// Time spent in all stages.
    pub fn total(&self) -> Duration {
        self.times.iter().sum()
    }
}
