//! The logits of the last pass, and the tokens drawn from them.

use nanoinfer_kernels::Kernels;

use super::{Engine, PassId};
use crate::Error;
use crate::pass::Scratch;
use crate::sample::{Candidate, DrawScratch, LogitRows, Sampler};

impl Engine {
    /// Number of logits rows in a pass.
    pub(crate) fn rows(&self, pass: PassId) -> Result<usize, Error> {
        self.check_pass(pass)?;
        Ok(self.requested.len())
    }

    /// Fails unless `pass` is the last pass.
    pub(super) fn check_pass(&self, pass: PassId) -> Result<(), Error> {
        self.check()?;
        if self.pass == Some(pass) { Ok(()) } else { Err(Error::LogitsGone) }
    }

    /// The logits after the `index`-th token that requested them in a pass: `vocab_size` values.
    ///
    /// # Errors
    /// Another pass has begun since, fewer tokens requested logits, or the values are not finite.
    pub fn logits(&mut self, pass: PassId, index: usize) -> Result<&[f32], Error> {
        self.restore_requested(pass)?;
        let rows = logit_rows(&self.kernels, &mut self.scratch, &self.requested);
        if index >= rows.rows {
            return Err(Error::LogitsRow { index, rows: rows.rows });
        }
        let finite = rows.copy(index, &mut self.row).is_some();
        if finite { Ok(&self.row) } else { Err(self.not_finite()) }
    }

    pub(crate) fn not_finite(&self) -> Error {
        Error::NotFinite { path: self.model.name().to_path_buf() }
    }

    /// Draws tokens on the workers: calls `draw` once per task, with the logits of the pass and the
    /// worker's scratch.
    pub(crate) fn draw<T: Send>(
        &mut self,
        pass: PassId,
        tasks: &mut [T],
        draw: impl Fn(&mut T, LogitRows<'_>, &mut DrawScratch) + Sync,
    ) -> Result<(), Error> {
        self.restore_requested(pass)?;
        self.read_logits(tasks, draw)
    }

    /// Calls `read` once per task, on the workers, with the logits that are there.
    pub(super) fn read_logits<T: Send>(
        &mut self,
        tasks: &mut [T],
        read: impl Fn(&mut T, LogitRows<'_>, &mut DrawScratch) + Sync,
    ) -> Result<(), Error> {
        let rows = if self.portion.is_empty() { &self.requested } else { &self.portion };
        let rows = logit_rows(&self.kernels, &mut self.scratch, rows);
        match tasks {
            [task] => read(task, rows, &mut self.locals[0].drawing),
            _ => self.pool.for_each(&mut self.locals, tasks, |local, task| {
                read(task, rows, &mut local.drawing);
            })?,
        }
        Ok(())
    }

    /// The candidates for a draw (see [`Sampler::top`]); empty if the logits are no longer available.
    pub(crate) fn top(
        &mut self,
        (pass, row): (PassId, usize),
        sampler: &Sampler,
        n: usize,
    ) -> Vec<Candidate> {
        if self.restore_requested(pass).is_err() {
            return Vec::new();
        }
        let rows = logit_rows(&self.kernels, &mut self.scratch, &self.requested);
        sampler.top(rows, row, n, &mut self.locals[0].drawing)
    }
}

/// The rows computed by the output layer.
fn logit_rows<'s>(
    kernels: &'s Kernels,
    scratch: &'s mut Scratch,
    requested: &[usize],
) -> LogitRows<'s> {
    LogitRows { kernels, values: scratch.logits.get_mut(), rows: requested.len() }
}
