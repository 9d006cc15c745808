//! What may be drafted, and how that went.

/// What may be drafted for an answer. It never changes a token of it, only its speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drafting {
    /// From the context: what followed when it last ended as it does now.
    pub lookup: bool,
    /// From the session's draft model, if it has one.
    pub model: bool,
    /// Always as many tokens as this, where a source has any, instead of as many as pay. For tests
    /// and measurements.
    pub fixed: Option<usize>,
}

impl Default for Drafting {
    fn default() -> Self {
        Self { lookup: true, model: true, fixed: None }
    }
}

impl Drafting {
    /// Nothing is drafted.
    pub const OFF: Self = Self { lookup: false, model: false, fixed: None };
}

/// Tokens from one source of drafts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drafted {
    /// Tokens that were drafted and verified.
    pub drafted: usize,
    /// Those that became part of the answer.
    pub accepted: usize,
}

impl Drafted {
    /// Accepted share; 0 if nothing was drafted.
    pub fn acceptance(self) -> f64 {
        if self.drafted == 0 { 0.0 } else { self.accepted as f64 / self.drafted as f64 }
    }
}

/// What drafting did for the current answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DraftStats {
    /// Passes after the prompt's.
    pub passes: usize,
    /// From the context.
    pub lookup: Drafted,
    /// From the draft model.
    pub model: Drafted,
}

impl DraftStats {
    /// Both sources together.
    pub fn all(&self) -> Drafted {
        Drafted {
            drafted: self.lookup.drafted + self.model.drafted,
            accepted: self.lookup.accepted + self.model.accepted,
        }
    }

    /// Tokens of the answer per pass; 0 before the first.
    pub fn tokens_per_pass(&self) -> f64 {
        match self.passes {
            0 => 0.0,
            n => (n + self.all().accepted) as f64 / n as f64,
        }
    }
}
