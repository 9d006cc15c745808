//! Where the time of a token goes, step by step.

use std::time::{Duration, Instant};

/// The steps of a forward pass, as `forward.rs` names them, and the choice of a token after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the steps' own names
pub enum Stage {
    Embed,
    Norm,
    Qkv,
    Cache,
    Attention,
    PackAttention,
    AttnOutput,
    GateUp,
    Down,
    Head,
    Sampling,
}

impl Stage {
    /// All steps, in the order of a pass.
    pub const ALL: [Stage; 11] = [
        Self::Embed,
        Self::Norm,
        Self::Qkv,
        Self::Cache,
        Self::Attention,
        Self::PackAttention,
        Self::AttnOutput,
        Self::GateUp,
        Self::Down,
        Self::Head,
        Self::Sampling,
    ];

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Norm => "norm",
            Self::Qkv => "qkv",
            Self::Cache => "cache",
            Self::Attention => "attention",
            Self::PackAttention => "pack_attention",
            Self::AttnOutput => "attn_output",
            Self::GateUp => "gate_up",
            Self::Down => "down",
            Self::Head => "head",
            Self::Sampling => "sampling",
        }
    }
}

/// Time per step, waiting at its barrier included, summed over layers and passes.
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

    /// Starts over.
    pub(crate) fn enable(&mut self, enabled: bool) {
        *self = Self { enabled, ..Self::new() };
    }

    /// The pass begins.
    pub(crate) fn begin(&mut self) {
        if self.enabled {
            self.since = Instant::now();
        }
    }

    /// What ran since the last mark was `step`.
    pub(crate) fn mark(&mut self, step: Stage) {
        if self.enabled {
            let now = Instant::now();
            self.times[step as usize] += now - self.since;
            self.since = now;
        }
    }

    /// Adds the time of a step that was measured elsewhere.
    pub(crate) fn add(&mut self, step: Stage, time: Duration) {
        if self.enabled {
            self.times[step as usize] += time;
        }
    }

    /// Time of a step.
    pub fn time(&self, step: Stage) -> Duration {
        self.times[step as usize]
    }

    /// Time of all steps.
    pub fn total(&self) -> Duration {
        self.times.iter().sum()
    }
}
