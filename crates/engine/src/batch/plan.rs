//! The tokens of a pass: one for every answer, then as much of the prompts as fits into its time.
//!
//! If no answer is being generated, nobody waits for the pass to end, and prompts get full passes. Prompts
//! share a pass in the order of urgency, then of the time given to their keys, then of what remains of
//! them; what remains counts half for every pass in which a prompt made no progress.

use nanoinfer_kernels::{BLOCK, TOKENS};

use super::Batch;
use super::cost::attended;
use crate::{Error, Sequence};

/// Rows of prompts in a pass before its costs are known.
const FIRST_ROWS: usize = 32;
/// Share of a pass's time that prompts get even if answers take more than the rest: the last of many prompts
/// would otherwise be read very slowly.
const FOR_PROMPTS: f64 = 2.0 / 3.0;
/// Passes without progress after which nobody waits for a prompt with the same beginning.
const PATIENCE: u32 = 4;

impl Batch {
    /// Plans the next pass. It is empty if nothing can be done.
    pub(super) fn plan(&mut self) -> Result<(), Error> {
        self.batch.clear();
        for job in &mut self.running {
            (job.rows, job.positions) = (0, 0.0);
        }
        self.follow_leaders()?;
        self.secure_blocks()?;
        let spare = self.plan_answers()?;
        self.plan_prompts(spare)
    }

    /// Lets prompts take over what others have computed.
    fn follow_leaders(&mut self) -> Result<(), Error> {
        for i in 0..self.running.len() {
            let Some((id, common)) = self.running[i].leader else { continue };
            let leader = self.running.iter().position(|job| job.id == id);
            if let Some(at) = leader
                && self.running[at].starved < PATIENCE
                && !self.running[at].paused
                && self.engine().len(self.sequences[at].id())? < common
            {
                continue;
            }
            self.running[i].leader = None;
            self.sequences[i].follow(&mut self.engines)?;
        }
        Ok(())
    }

    /// Number of blocks for the next pass. In a session, which has nothing to preempt, a full cache is the
    /// engine's error.
    fn spare_blocks(&self) -> usize {
        if self.is_session { usize::MAX } else { self.engine().kv_blocks().1 }
    }

    /// Preempts requests until every answer can have one more token, and any prompt can be continued.
    fn secure_blocks(&mut self) -> Result<(), Error> {
        loop {
            let (mut answers, mut prompt) = (0, usize::MAX);
            for (i, sequence) in self.sequences.iter().enumerate() {
                if self.decodes(i) {
                    answers += self.engine().blocks_for(sequence.id(), 1)?;
                } else if self.prefills(i) {
                    prompt = prompt.min(self.engine().blocks_for(sequence.id(), 1)?);
                }
            }
            let decodes = (0..self.running.len()).any(|i| self.decodes(i));
            let needed = if decodes || prompt == usize::MAX { answers } else { prompt };
            if needed <= self.spare_blocks() {
                return Ok(());
            }
            match self.least_urgent() {
                Some(victim) if self.running.len() > 1 => self.park(victim)?,
                _ => self.sequences.iter_mut().for_each(Sequence::exhaust),
            }
        }
    }

    /// Plans the next token of every answer, and drafts. Returns the number of blocks left.
    fn plan_answers(&mut self) -> Result<usize, Error> {
        let (engine, mut spare) = (&self.engines.target, self.spare_blocks());
        let mut needed = 0;
        for i in (0..self.running.len()).filter(|&i| self.decodes(i)) {
            needed += engine.blocks_for(self.sequences[i].id(), 1)?;
        }
        let alone = self.running.len() == 1;
        let most = engine.max_batch().min(engine.max_logits());
        // In company, every request may need a row of logits, and prompts need room in the pass.
        let rows = engine.max_logits() - self.running.len();
        let rows = rows.min(engine.max_batch().saturating_sub(self.running.len() + TOKENS));
        self.plan_drafts((rows, spare.saturating_sub(needed)))?;
        for i in 0..self.sequences.len() {
            if self.decodes(i) {
                let rows = if alone { most } else { 1 + self.running[i].draft };
                spare = spare.saturating_sub(self.append(i, rows)?);
            }
        }
        Ok(spare)
    }

    /// Appends up to `rows` tokens of a sequence to the pass. Returns the number of blocks they may take.
    fn append(&mut self, i: usize, rows: usize) -> Result<usize, Error> {
        let (sequence, job) = (&mut self.sequences[i], &mut self.running[i]);
        let before = self.batch.len();
        sequence.plan(&mut self.engines, rows, &mut self.batch)?;
        let (engine, seq) = (&self.engines.target, sequence.id());
        job.rows = self.batch.len() - before;
        job.positions = attended(engine.len(seq)?, job.rows);
        engine.blocks_for(seq, job.rows)
    }

    /// Plans parts of the prompts that fit into the time of the pass and into `spare` blocks.
    fn plan_prompts(&mut self, mut spare: usize) -> Result<(), Error> {
        let mut positions: f64 = self.running.iter().map(|job| job.positions).sum();
        let (answers, ms) = (self.batch.len(), self.options.pass_ms);
        let budget = match self.costs.predict(answers, positions) {
            _ if answers == 0 => f64::INFINITY,
            for_answers => ms.max(for_answers.unwrap_or(0.0) + FOR_PROMPTS * ms),
        };
        self.order_prompts()?;
        let tile = self.engine().at_once();
        for at in 0..self.order.len() {
            let i = self.order[at];
            let (engine, seq) = (&self.engines.target, self.sequences[i].id());
            let (rows, depth) = (self.batch.len(), engine.len(seq)?);
            let left = self.sequences[i].tokens().len() - depth;
            let most = left.min(engine.max_batch() - rows);
            let mut n = match self.costs.predict(rows, positions) {
                _ if budget.is_infinite() => most,
                Some(_) => self.costs.rows_within(budget, (rows, positions), depth, most),
                None => most.min(FIRST_ROWS),
            };
            if rows == answers {
                n = n.max(most.min(tile)); // prompts get on even if answers take all of the time
            }
            let part_of_tile = (rows + n) % tile;
            if n < left && n > part_of_tile {
                n -= part_of_tile;
            }
            n = self.rows_in_blocks(i, n, spare)?;
            if n > 0 {
                spare = spare.saturating_sub(self.append(i, n)?);
                positions += self.running[i].positions;
            }
        }
        for &i in &self.order {
            let job = &mut self.running[i];
            job.starved = if job.rows == 0 { job.starved.saturating_add(1) } else { 0 };
        }
        Ok(())
    }

    /// Sorts the prompts that do not wait for another one.
    fn order_prompts(&mut self) -> Result<(), Error> {
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        let ready = |&i: &usize| self.prefills(i) && self.running[i].leader.is_none();
        order.extend((0..self.running.len()).filter(ready));
        self.order = order;
        let Self { order, running, sequences, engines, accounts, .. } = self;
        for &i in &*order {
            let left = sequences[i].tokens().len() - engines.target.len(sequences[i].id())?;
            running[i].rows = left >> running[i].starved.min(31); // the plan replaces it
        }
        order.sort_unstable_by(|&a, &b| {
            let (a, b) = (&running[a], &running[b]);
            (a.rank.cmp(&b.rank))
                .then(accounts.paid(a.key).total_cmp(&accounts.paid(b.key)))
                .then(a.rows.cmp(&b.rows))
                .then(a.id.cmp(&b.id))
        });
        order.iter().for_each(|&i| running[i].rows = 0);
        Ok(())
    }

    /// Maximum number of rows, up to `n`, that fit into `spare` blocks.
    fn rows_in_blocks(&self, i: usize, n: usize, spare: usize) -> Result<usize, Error> {
        let (engine, seq) = (self.engine(), self.sequences[i].id());
        let needed = engine.blocks_for(seq, n)?;
        if needed <= spare {
            return Ok(n);
        }
        let len = engine.len(seq)?;
        let end = ((len + n).div_ceil(BLOCK) - (needed - spare)) * BLOCK;
        Ok(end.saturating_sub(len))
    }
}
