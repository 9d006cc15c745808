//! Predetermined answers, for measurements.

/// Overrides a model's answer. Logits, draws and drafts are computed as usual; each drawn token is
/// replaced only afterwards. This makes it possible to measure the speed of drafting at a chosen
/// acceptance rate, or with a model with random weights, whose own output is unpredictable.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// The answer's tokens. After the last one, draws are no longer replaced.
    pub tokens: Vec<u32>,
    /// Share of the draft model's tokens that are correct; `None` = the model's own drafts.
    pub acceptance: Option<f64>,
    /// Costs on which drafting decisions are based; `None` = measured times. Fixed costs make the
    /// decisions independent of the machine and its load.
    pub costs: Option<DraftCosts>,
}

/// Costs for drafting decisions, in units of a pass without a draft.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DraftCosts {
    /// Cost of each row of a pass after the first.
    pub row: f64,
    /// Cost of drawing a token.
    pub draw: f64,
    /// Cost of a step of the draft model.
    pub step: f64,
}

/// A script for an answer starting at position `start` of the context.
#[derive(Clone, Debug)]
pub(crate) struct Scripted {
    pub script: Script,
    pub start: usize,
}

impl Scripted {
    /// The scripted token at `position` of the context.
    pub(crate) fn token(&self, position: usize) -> Option<u32> {
        self.script.tokens.get(position.checked_sub(self.start)?).copied()
    }

    /// The draft token at `position`, where the draft model drew `drawn`.
    pub(crate) fn draft_token(&self, drawn: u32, position: usize) -> u32 {
        let (Some(acceptance), Some(token)) = (self.script.acceptance, self.token(position)) else {
            return drawn;
        };
        let correct = crate::sample::uniform(0x5eed, position as u64) < acceptance;
        // If incorrect, a token that is present in every vocabulary.
        if correct { token } else { u32::from(token == 0) }
    }
}
