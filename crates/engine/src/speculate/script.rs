//! Answers that are known beforehand, for measurements.

/// What an answer is to be, whatever the model says. Everything is computed as always, logits,
/// draws and drafts; only then is each drawn token replaced. So the speed of drafting can be
/// measured on a model with random weights, which says nothing that could be drafted, or at a
/// chosen acceptance. **For measurements only.**
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// The answer's tokens. After the last, the model speaks for itself.
    pub tokens: Vec<u32>,
    /// Share of the draft model's tokens that are right; `None` = what it says itself.
    pub acceptance: Option<f64>,
    /// What decisions about drafts are based on; `None` = the times that passes take. Given ones
    /// make the same decisions on every machine, however busy it is.
    pub costs: Option<DraftCosts>,
}

/// Costs that decide about drafts, in units of a pass without a draft.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DraftCosts {
    /// Of each row of a pass after the first.
    pub row: f64,
    /// Of drawing a token.
    pub draw: f64,
    /// Of a step of the draft model.
    pub step: f64,
}

/// A script for an answer that begins at position `start` of the context.
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

    /// The draft model's token at `position`, where it drew `drawn`.
    pub(crate) fn guess(&self, drawn: u32, position: usize) -> u32 {
        let (Some(acceptance), Some(token)) = (self.script.acceptance, self.token(position)) else {
            return drawn;
        };
        let right = crate::sample::uniform(0x5eed, position as u64) < acceptance;
        // Another token that every vocabulary has.
        if right { token } else { u32::from(token == 0) }
    }
}
