//! The recurrent state of a sequence: where it is, and what a pass does with it.
//!
//! A sequence holds its state at one position, its base. The tokens after the base are in the log, so that
//! the state at any of them can be computed from there without reading a weight:
//!
//! ```text
//! position   0 ────────── base ▒▒▒▒▒▒▒▒▒▒ len ────────────►
//!                           │    logged    │  tokens of the pass
//!                         state   replayed    processed, in a drafted pass also logged
//! ```
//!
//! A pass of several tokens that may be rejected stores the state before them; any other pass stores it
//! behind its tokens. Where a pass completes a block of the cache, it also takes a snapshot, so that other
//! sequences can continue there, or this one after it was rolled back. A prefix is reused only up to a position
//! whose state is known.

use std::ops::Range;

use nanoinfer_kernels::BLOCK;

use super::cache::Cache;
use super::plan::SeqId;
use super::states::{Held, REVERSIBLE, StateSlot};
use crate::Error;

/// Of the snapshots of a sequence, one for as many blocks is not replaced by the next.
const SNAPSHOT_BLOCKS: usize = 16;

/// What a pass does with the state of a sequence.
#[derive(Clone, Debug)]
pub(crate) struct StateRun {
    pub seq: SeqId,
    /// Number of the log.
    pub log: usize,
    /// The sequence's part of [`StateRuns::rows`].
    pub rows: Range<usize>,
    /// The slot to begin with; `None` for zero.
    pub from: Option<StateSlot>,
    /// Its position.
    pub base: usize,
    /// Number of logged tokens to replay.
    pub replay: usize,
    /// Whether to log the tokens.
    pub logs: bool,
    /// What to store: part of [`StateRuns::stores`].
    pub stores: Range<usize>,
    /// The number of tokens before the state that the sequence will hold, and its slot, unless it stays.
    next: Option<(usize, StateSlot)>,
    /// The number of tokens before the snapshot of a block, and its slot.
    snapshot: Option<(usize, StateSlot)>,
}

/// A state to store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Store {
    /// Number of the pass's tokens of this sequence before it.
    pub after: usize,
    pub slot: StateSlot,
}

/// The runs of a pass.
#[derive(Default)]
pub(crate) struct StateRuns {
    pub all: Vec<StateRun>,
    /// Batch rows, by sequence and in order of position.
    pub rows: Vec<u16>,
    /// Ascending by `after` within a run.
    pub stores: Vec<Store>,
}

impl StateRuns {
    /// Room for passes of up to `tokens` tokens, if there are recurrent layers.
    pub(crate) fn new(cache: &Cache, tokens: usize) -> Self {
        let tokens = if cache.states.is_empty() { 0 } else { tokens };
        let sequences = cache.max_sequences().min(tokens);
        Self {
            all: Vec::with_capacity(sequences),
            rows: Vec::with_capacity(tokens),
            stores: Vec::with_capacity(2 * sequences),
        }
    }

    /// The batch rows of a run.
    pub(crate) fn rows(&self, run: &StateRun) -> &[u16] {
        &self.rows[run.rows.clone()]
    }

    /// The states to store in a run.
    pub(crate) fn stores(&self, run: &StateRun) -> &[Store] {
        &self.stores[run.stores.clone()]
    }
}

impl Cache {
    /// Plans the runs of a pass over tokens of these sequences, and takes the slots that they store to.
    pub(crate) fn begin_states(
        &mut self,
        batch: impl Iterator<Item = SeqId> + Clone,
        runs: &mut StateRuns,
    ) -> Result<(), Error> {
        runs.all.clear();
        runs.rows.clear();
        runs.stores.clear();
        if self.states.is_empty() {
            return Ok(());
        }
        for (first, seq) in batch.clone().enumerate() {
            if runs.all.iter().any(|run| run.seq == seq) {
                continue;
            }
            let from = runs.rows.len();
            let rows = batch.clone().enumerate().skip(first).filter(|(_, other)| *other == seq);
            runs.rows.extend(rows.map(|(row, _)| row as u16));
            self.plan_run(seq, from..runs.rows.len(), runs)?;
        }
        Ok(())
    }

    fn plan_run(
        &mut self,
        seq: SeqId,
        rows: Range<usize>,
        runs: &mut StateRuns,
    ) -> Result<(), Error> {
        let (n, len, held) = (rows.len(), self.len(seq)?, *self.held(seq));
        let replay = len - held.base;
        let logs = n <= REVERSIBLE && (n > 1 || held.pinned);
        let after = if held.pinned && replay + n <= REVERSIBLE {
            None
        } else if logs {
            (replay > 0).then_some(0) // without a replay, the base already is here
        } else {
            Some(n)
        };
        let first = runs.stores.len();
        let mut next = None;
        if let Some(after) = after {
            let slot = self.states.take().ok_or(Error::CacheFull { what: "no free state" })?;
            runs.stores.push(Store { after, slot });
            next = Some((after, slot));
        }
        let mut snapshot = None;
        if let Some(after) = ((len + n) / BLOCK * BLOCK).checked_sub(len).filter(|&after| after > 0)
        {
            let slot = match next {
                Some((same, slot)) if same == after => Some(slot),
                _ => self.states.take(),
            };
            snapshot = slot.map(|slot| (after, slot));
            let other = snapshot.filter(|same| next != Some(*same));
            runs.stores.extend(other.map(|(after, slot)| Store { after, slot }));
        }
        runs.stores[first..].sort_unstable_by_key(|store| store.after);
        let stores = first..runs.stores.len();
        let (from, base) = (held.slot, held.base);
        let log = seq.index;
        runs.all.push(StateRun {
            seq,
            log,
            rows,
            from,
            base,
            replay,
            logs,
            stores,
            next,
            snapshot,
        });
        Ok(())
    }

    /// Lets sequences hold what a pass has stored, and the prefix tree its snapshots. Call this after its
    /// tokens were counted.
    pub(crate) fn keep_states(&mut self, runs: &mut StateRuns) {
        for run in runs.all.drain(..) {
            let len = run.base + run.replay;
            if let Some((after, slot)) = run.snapshot {
                self.keep_snapshot(&run, len + after, slot);
                if run.next != run.snapshot {
                    self.states.release(slot);
                }
            }
            if let Some((after, slot)) = run.next {
                let held = self.held_mut(run.seq);
                held.base = len + after;
                let old = held.slot.replace(slot);
                old.into_iter().for_each(|old| self.states.release(old));
            }
        }
        runs.stores.clear();
    }

    /// Keeps the state behind the block that ends at `position`, if the block is in the tree. Of the snapshots
    /// of a prompt, and of those of its answer, a sequence keeps the last one and some of the others.
    fn keep_snapshot(&mut self, run: &StateRun, position: usize, slot: StateSlot) {
        let index = position / BLOCK - 1;
        let Some(block) = self.tree_block(run.seq, index) else { return };
        let answers = run.rows.len() <= REVERSIBLE;
        self.states.remember(block, slot);
        let kept = |index: usize| (index + 1).is_multiple_of(SNAPSHOT_BLOCKS);
        let last = (!kept(index)).then_some((block, answers));
        let before = std::mem::replace(&mut self.held_mut(run.seq).last, last);
        if let Some((other, same)) = before
            && same == answers
            && other != block
        {
            self.states.forget(other);
        }
    }

    /// Gives back the slots of a pass that failed.
    pub(crate) fn drop_states(&mut self, runs: &mut StateRuns) {
        runs.all.clear();
        runs.stores.drain(..).for_each(|store| self.states.release(store.slot));
    }

    /// Number of positions that the state of a sequence covers; all without recurrent layers.
    pub(crate) fn covered(&self, seq: SeqId) -> Result<usize, Error> {
        let len = self.len(seq)?;
        Ok(if self.states.is_empty() { len } else { self.held(seq).base })
    }

    /// The largest number of positions up to `len` to which a sequence can be rolled back.
    pub(super) fn reachable(&self, seq: SeqId, len: usize) -> usize {
        if self.states.is_empty() || len >= self.held(seq).base {
            return len;
        }
        let known = |&blocks: &usize| self.own_snapshot(seq, blocks).is_some();
        (1..=len / BLOCK).rev().find(known).unwrap_or(0) * BLOCK
    }

    /// The state behind the first `blocks` blocks of a sequence, if there is a snapshot.
    pub(super) fn own_snapshot(&self, seq: SeqId, blocks: usize) -> Option<StateSlot> {
        self.states.snapshot(self.tree_block(seq, blocks.checked_sub(1)?)?)
    }

    /// Rolls the state of a sequence back to `len` positions, which must be [reachable](Self::reachable).
    /// Call this before blocks are released.
    pub(super) fn truncate_state(&mut self, seq: SeqId, len: usize) {
        if len < self.held(seq).base {
            self.set_state(seq, self.own_snapshot(seq, len / BLOCK), len);
        }
    }

    /// Lets a sequence hold the state in a slot, of which it becomes another holder.
    pub(super) fn set_state(&mut self, seq: SeqId, slot: Option<StateSlot>, base: usize) {
        slot.into_iter().for_each(|slot| self.states.hold(slot));
        let held = self.held_mut(seq);
        let old = std::mem::replace(&mut held.slot, slot);
        (held.base, held.last) = (base, None);
        old.into_iter().for_each(|old| self.states.release(old));
    }

    /// Gives a fork the state of the original, and its log.
    pub(super) fn fork_state(&mut self, from: SeqId, to: SeqId) {
        if self.states.is_empty() {
            return;
        }
        let Held { slot, base, .. } = *self.held(from);
        self.set_state(to, slot, base);
        self.states.copy_log(from.index, to.index);
    }

    /// Whether single tokens appended to a sequence from now on can be rolled back one by one, as far as the
    /// log reaches.
    pub(crate) fn pin_state(&mut self, seq: SeqId, pinned: bool) -> Result<(), Error> {
        self.len(seq)?;
        self.held_mut(seq).pinned = pinned;
        Ok(())
    }
}
