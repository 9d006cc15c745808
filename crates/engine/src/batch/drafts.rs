//! Drafts in a batch: rows of a pass for tokens that may turn out to be the next ones of an answer.
//!
//! A row costs everybody time, so rows go to the answers that gain the most tokens per millisecond, as long as
//! that is more than the pass yields without them. The more answers share a pass, the more it yields, and the
//! more certain a draft must be. A new answer begins with the acceptance of drafts that others have seen. An
//! answer alone decides for itself (see [`crate::speculate`]).

use super::Batch;
use super::cost::attended;
use crate::Error;
use crate::speculate::MAX_DRAFT;

/// Required yield of a row, relative to that of the pass.
const WORTHWHILE: f64 = 1.1;

impl Batch {
    /// Decides how many tokens each answer drafts. `spare` is the number of rows and of blocks that drafts
    /// can take.
    pub(super) fn plan_drafts(&mut self, mut spare: (usize, usize)) -> Result<(), Error> {
        let company = self.running.len() > 1;
        for i in 0..self.running.len() {
            let decodes = self.decodes(i);
            let (job, sequence) = (&mut self.running[i], &mut self.sequences[i]);
            (job.draft, job.chance) = (0, 0.0);
            sequence.set_draft(company.then_some(0));
            if company && decodes {
                job.chance = sequence.draft_chance().unwrap_or(0.0);
            }
        }
        if !company {
            return Ok(());
        }
        let (mut rows, mut positions, mut tokens) = (0, 0.0, 0.0);
        for i in (0..self.running.len()).filter(|&i| self.decodes(i)) {
            positions += attended(self.engine().len(self.sequences[i].id())?, 1);
            (rows, tokens) = (rows + 1, tokens + 1.0);
        }
        let Some(mut ms) = self.costs.predict(rows, positions) else { return Ok(()) };
        while spare.0 > 0 && spare.1 > 0 {
            let gain = |i: &usize| {
                let job = &self.running[*i];
                if job.draft < MAX_DRAFT { job.chance.powi(job.draft as i32 + 1) } else { 0.0 }
            };
            let best = (0..self.running.len()).max_by(|a, b| gain(a).total_cmp(&gain(b)));
            let Some(i) = best else { return Ok(()) };
            let depth = self.engine().len(self.sequences[i].id())? + self.running[i].draft + 1;
            let with = positions + attended(depth, 1);
            let later = self.costs.predict(rows + 1, with).unwrap_or(f64::INFINITY);
            let gain = gain(&i);
            if later > self.options.pass_ms || gain * ms <= WORTHWHILE * tokens * (later - ms) {
                return Ok(());
            }
            self.running[i].draft += 1;
            let length = self.running[i].draft;
            self.sequences[i].set_draft(Some(length));
            (rows, positions, tokens, ms) = (rows + 1, with, tokens + gain, later);
            spare.0 -= 1;
            if depth.is_multiple_of(nanoinfer_kernels::BLOCK) {
                spare.1 -= 1;
            }
        }
        Ok(())
    }
}
