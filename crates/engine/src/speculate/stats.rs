//! Options and statistics of drafting.

/// Sources of drafts that an answer may use. They affect its speed, never its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drafting {
    /// Prompt lookup: the continuation of an earlier occurrence of the context's last tokens.
    pub lookup: bool,
    /// The draft model, if there is one.
    pub model: bool,
    /// Text that the answer's constraint leaves no choice about.
    pub forced: bool,
    /// Fixed draft length, instead of the most profitable one. For tests and measurements.
    pub fixed: Option<usize>,
}

impl Default for Drafting {
    fn default() -> Self {
        Self { lookup: true, model: true, forced: true, fixed: None }
    }
}

impl Drafting {
    /// No drafting.
    pub const OFF: Self = Self { lookup: false, model: false, forced: false, fixed: None };
}

/// Token counts for one source of drafts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drafted {
    /// Tokens drafted and verified.
    pub drafted: usize,
    /// Drafted tokens that became part of the answer.
    pub accepted: usize,
}

impl Drafted {
    /// Accepted share; 0 if nothing was drafted.
    pub fn acceptance(self) -> f64 {
        if self.drafted == 0 { 0.0 } else { self.accepted as f64 / self.drafted as f64 }
    }
}

/// Drafting statistics of the current answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DraftStats {
    /// Number of passes after prefill.
    pub passes: usize,
    /// Drafts from the context.
    pub lookup: Drafted,
    /// Drafts from the draft model.
    pub model: Drafted,
    /// Drafts of text that a constraint leaves no choice about.
    pub forced: Drafted,
}

impl DraftStats {
    /// Totals of all sources.
    pub fn all(&self) -> Drafted {
        let sources = [self.lookup, self.model, self.forced];
        Drafted {
            drafted: sources.iter().map(|source| source.drafted).sum(),
            accepted: sources.iter().map(|source| source.accepted).sum(),
        }
    }

    /// Answer tokens per pass; 0 before the first pass.
    pub fn tokens_per_pass(&self) -> f64 {
        match self.passes {
            0 => 0.0,
            n => (n + self.all().accepted) as f64 / n as f64,
        }
    }
}
