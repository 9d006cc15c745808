//! Prefixes in common: what a sequence takes over from others, and from the tree.

use nanoinfer_kernels::BLOCK;

use super::cache::{Cache, Sequence};
use super::plan::{Namespace, SeqId};
use crate::Error;

impl Cache {
    /// Extends a sequence, which must hold a prefix of `tokens`, to the longest prefix available: by any
    /// number of tokens of another open sequence, then by whole blocks of closed sequences, of its namespace or
    /// common ones; in models with recurrent layers, up to a position whose state is known. Returns the number
    /// of positions it now holds.
    pub(crate) fn share(&mut self, id: SeqId, tokens: &[u32]) -> Result<usize, Error> {
        if !self.states.is_empty() {
            return self.share_state(id, tokens);
        }
        let held = self.len(id)?;
        let (common, from) = self.longest_common_prefix(id.index, tokens);
        let begun = held.max(common);
        self.find_blocks(self.namespace(id)?, tokens, begun / BLOCK);
        let whole = (begun / BLOCK + self.found.len()) * BLOCK;
        let n = begun.max(whole);
        if n <= held {
            return Ok(held);
        }
        self.hold_found(); // first, so that nothing below can evict them
        let kept = if whole < n { n.div_ceil(BLOCK) } else { begun / BLOCK };
        if common > held {
            self.truncate(id, 0)?;
            self.copy_table(from, id, kept);
        } else {
            self.truncate(id, kept * BLOCK)?;
        }
        self.take_found(id, &tokens[..n]);
        Ok(n)
    }

    fn share_state(&mut self, id: SeqId, tokens: &[u32]) -> Result<usize, Error> {
        let held = self.len(id)?;
        let (own, from) = self.most_advanced(id.index, tokens).unwrap_or((0, 0));
        let namespace = self.namespace(id)?;
        let (blocks, snapshot) = self.last_snapshot(namespace, tokens).unzip();
        let n = own.max(blocks.unwrap_or(0) * BLOCK);
        if n <= held {
            return Ok(held);
        }
        let slot = if n == own { self.sequences[from].held.slot } else { snapshot };
        // Held meanwhile, and the blocks too, so that nothing below can evict them.
        slot.into_iter().for_each(|slot| self.states.hold(slot));
        self.find_blocks(namespace, tokens, 0);
        self.found.truncate(if n == own { 0 } else { n / BLOCK });
        self.hold_found();
        self.truncate(id, 0)?;
        if n == own {
            self.copy_table(from, id, n.div_ceil(BLOCK));
        } else {
            snapshot.into_iter().for_each(|slot| self.states.touch(slot));
        }
        self.take_found(id, &tokens[..n]);
        self.set_state(id, slot, n);
        slot.into_iter().for_each(|slot| self.states.release(slot));
        Ok(n)
    }

    /// Lets one more sequence hold the blocks that were found.
    fn hold_found(&mut self) {
        for i in 0..self.found.len() {
            self.hold(self.found[i]);
        }
    }

    /// Appends the blocks that were found to those of a sequence, which then holds `tokens`.
    fn take_found(&mut self, id: SeqId, tokens: &[u32]) {
        let s = &mut self.sequences[id.index];
        s.blocks.extend_from_slice(&self.found);
        (s.len, s.written) = (tokens.len(), tokens.len().div_ceil(BLOCK));
        s.tokens.clear();
        s.tokens.extend_from_slice(tokens);
    }

    /// Length of the longest common prefix with `tokens` among open sequences other than `index`, and the
    /// index of the sequence that has it; ties go to the first.
    fn longest_common_prefix(&self, index: usize, tokens: &[u32]) -> (usize, usize) {
        let common = |s: &Sequence| {
            let n = s.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
            // After an overwrite, only the pinned blocks are at their original table indices.
            if s.written > self.per_sequence { n.min(s.pinned * BLOCK) } else { n }
        };
        let all = self.others(index).map(|(i, s)| (common(s), i));
        all.max_by_key(|(n, i)| (*n, usize::MAX - i)).unwrap_or((0, index))
    }

    /// Among other open sequences, the one whose state covers the most of `tokens`: the number, and its index.
    fn most_advanced(&self, index: usize, tokens: &[u32]) -> Option<(usize, usize)> {
        let covers = |(_, s): &(usize, &Sequence)| {
            let base = s.held.base;
            let intact = s.written <= self.per_sequence || base <= s.pinned * BLOCK;
            intact && s.tokens.len() >= base && tokens.starts_with(&s.tokens[..base])
        };
        let all = self.others(index).filter(covers).map(|(i, s)| (s.held.base, i));
        all.max_by_key(|(n, i)| (*n, usize::MAX - i))
    }

    /// The open sequences besides `index` that its namespace sees.
    fn others(&self, index: usize) -> impl Iterator<Item = (usize, &Sequence)> {
        let namespace = self.sequences[index].namespace;
        let seen = move |(i, s): &(usize, &Sequence)| {
            s.serial.is_some() && *i != index && s.namespace.is_seen_from(namespace)
        };
        self.sequences.iter().enumerate().filter(seen)
    }

    /// Finds the blocks in the tree that continue the first `begun` blocks of `tokens`.
    fn find_blocks(&mut self, namespace: Namespace, tokens: &[u32], begun: usize) {
        self.found.clear();
        let tokens = self.shareable(tokens);
        self.found.extend(self.tree.path(namespace, tokens).skip(begun));
    }

    /// The part of `tokens` that can be found in the tree.
    pub(super) fn shareable<'t>(&self, tokens: &'t [u32]) -> &'t [u32] {
        &tokens[..tokens.len().min(self.ctx() / BLOCK * BLOCK)]
    }
}
