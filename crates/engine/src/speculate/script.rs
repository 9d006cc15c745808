//! Predetermined answers, for measurements.

/// Overrides the answer of a model. Everything is computed as usual, logits, draws and drafts; only
/// then is each drawn token replaced. So the speed of drafting can be measured at a chosen acceptance
/// rate, or on a model with random weights, whose own output is not predictable.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// The answer's tokens. After the last one, draws are no longer replaced.
    pub tokens: Vec<u32>,
    /// Share of the draft model's tokens that are right; `None` = its own drafts.
    pub acceptance: Option<f64>,
    /// Costs on which drafting decisions are based; `None` = measured times. Fixed costs make the
    /// decisions independent of the machine and its load.
    pub costs: Option<DraftCosts>,
}

/// Costs for drafting decisions, in units of a pass without a draft.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DraftCosts {
    /// Each row of a pass after the first.
    pub row: f64,
    /// Drawing a token.
    pub draw: f64,
    /// A step of the draft model.
    pub step: f64,
}

/// A script for an answer starting at position `start` of the context.
#[derive(Clone, Debug)]
pub(crate) struct Scripted {
    pub script: Script,
    pub start: usize,
}

impl Scripted {
    /// The token at `position` of the context.
    pub(crate) fn token(&self, position: usize) -> Option<u32> {
        self.script.tokens.get(position.checked_sub(self.start)?).copied()
    }

    /// The draft model's scripted token at `position`, where it drew `drawn`.
    pub(crate) fn draft_token(&self, drawn: u32, position: usize) -> u32 {
        let (Some(acceptance), Some(token)) = (self.script.acceptance, self.token(position)) else {
            return drawn;
        };
        let right = crate::sample::uniform(0x5eed, position as u64) < acceptance;
        // A wrong token that every vocabulary has.
        if right { token } else { u32::from(token == 0) }
    }
}
