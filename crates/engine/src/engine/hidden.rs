//! What remains of the last pass besides its logits: hidden states, from which further logits can be computed.

use std::ops::Range;

use super::{Engine, PassId};
use crate::Error;
use crate::pass::{Part, norm_token};
use crate::sample::{DrawScratch, LogitRows};

impl Engine {
    /// The hidden state of the `index`-th token of a pass, after the final norm: `d_model` values. Like logits,
    /// they have the same bits in any batch. Passes over some of the layers ([`Self::forward_layers`]) have none.
    ///
    /// # Errors
    /// Another pass has begun since, it had fewer tokens, or the values are not finite.
    pub fn hidden(&mut self, pass: PassId, index: usize) -> Result<&[f32], Error> {
        self.check_pass(pass)?;
        let (m, config) = (self.slots.len(), self.model.config());
        if index >= m {
            return Err(Error::HiddenRow { index, rows: m });
        }
        let (d, width) = (config.d_model as usize, config.d_model_padded());
        let x = &self.scratch.x.get_mut()[..m * width];
        let norm = (self.model.file(), &self.model.weights().output_norm);
        norm_token(&self.kernels, norm, (x, m, index), &mut self.locals[0].row[..width]);
        let finite = self.locals[0].row[..d].iter().all(|x| x.is_finite());
        if finite { Ok(&self.locals[0].row[..d]) } else { Err(self.not_finite()) }
    }

    /// Computes the logits of tokens `rows` of a pass, at most [`Self::max_logits`], whether or not they
    /// requested them, and calls `read` once per task, on the workers. The requested logits are computed again
    /// when they are needed.
    pub(crate) fn score<T: Send>(
        &mut self,
        pass: PassId,
        rows: Range<usize>,
        tasks: &mut [T],
        read: impl Fn(&mut T, LogitRows<'_>, &mut DrawScratch) + Sync,
    ) -> Result<(), Error> {
        self.check_pass(pass)?;
        let (index, most) = (rows.end, self.slots.len());
        if index > most || rows.len() > self.logits_rows {
            return Err(Error::LogitsRow { index: index.saturating_sub(1), rows: most });
        }
        if rows.is_empty() {
            return Ok(());
        }
        self.portion.clear();
        self.portion.extend(rows);
        self.run(Part::ALL, |pass, w, local| pass.head(w, local))?;
        self.read_logits(tasks, read)
    }

    /// Computes the requested logits again if others have replaced them.
    pub(super) fn restore_requested(&mut self, pass: PassId) -> Result<(), Error> {
        self.check_pass(pass)?;
        if !self.portion.is_empty() {
            self.portion.clear();
            if !self.requested.is_empty() {
                self.run(Part::ALL, |pass, w, local| pass.head(w, local))?;
            }
        }
        Ok(())
    }
}
