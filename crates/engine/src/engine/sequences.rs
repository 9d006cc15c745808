//! Operations on an engine's sequences: open, fork, share, roll back and close.

use super::Engine;
use crate::cancel::Canceller;
use crate::memory::Namespace;
use crate::{Error, SeqId};

impl Engine {
    /// Opens an empty sequence.
    ///
    /// # Errors
    /// [`crate::EngineOptions::sequences`] sequences are already open.
    pub fn open(&mut self) -> Result<SeqId, Error> {
        self.open_in(Namespace::COMMON)
    }

    /// Opens an empty sequence whose content is only shared within a namespace.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_in(&mut self, namespace: Namespace) -> Result<SeqId, Error> {
        self.check()?;
        self.cache.open(namespace)
    }

    /// Closes a sequence. Its full blocks stay available to new sequences with the same prefix until
    /// the space is needed.
    ///
    /// # Errors
    /// As for every method with a sequence parameter: the sequence is not open in this engine.
    pub fn close(&mut self, seq: SeqId) -> Result<(), Error> {
        self.check()?;
        self.cache.close(seq)
    }

    /// Opens a copy of a sequence. Cache blocks are shared until either sequence writes to them.
    ///
    /// # Errors
    /// The sequence is not open, or [`crate::EngineOptions::sequences`] sequences are already open.
    pub fn fork(&mut self, seq: SeqId) -> Result<SeqId, Error> {
        self.check()?;
        self.cache.fork(seq)
    }

    /// The namespace of a sequence.
    pub(crate) fn namespace(&self, seq: SeqId) -> Result<Namespace, Error> {
        self.cache.namespace(seq)
    }

    /// A handle that cancels a sequence.
    ///
    /// # Errors
    /// The sequence is not open.
    pub fn canceller(&self, seq: SeqId) -> Result<Canceller, Error> {
        self.check()?;
        self.cache.canceller(seq).cloned()
    }

    /// Replaces the handle that cancels a sequence.
    pub(crate) fn set_canceller(&mut self, seq: SeqId, canceller: Canceller) -> Result<(), Error> {
        self.check()?;
        self.cache.set_canceller(seq, canceller)
    }

    /// Length of a sequence in positions, including evicted ones.
    ///
    /// # Errors
    /// The sequence is not open.
    pub fn len(&self, seq: SeqId) -> Result<usize, Error> {
        self.check()?;
        self.cache.len(seq)
    }

    /// Number of positions evicted by a sliding context.
    ///
    /// # Errors
    /// The sequence is not open.
    pub fn evicted(&self, seq: SeqId) -> Result<usize, Error> {
        let last = self.len(seq)?.saturating_sub(1);
        Ok(self.cache.slid(seq, last).evicted)
    }

    /// Rolls a sequence back to its first `len` positions, in O(1) per released block. Returns the number
    /// of remaining positions, which is less than `len` if the context has since slid too far. In a model with
    /// recurrent layers, a state has to be known: it is after each token of the last pass if that had 2 to 16,
    /// and at some multiples of 64 positions.
    ///
    /// # Errors
    /// The sequence is not open.
    pub fn truncate(&mut self, seq: SeqId, len: usize) -> Result<usize, Error> {
        self.check()?;
        self.cache.truncate(seq, len)
    }

    /// Extends a sequence that holds a prefix of `tokens` with the longest prefix available: any number
    /// of tokens from another open sequence, or whole blocks of 64 from closed sequences; in a model with
    /// recurrent layers, up to a position whose state is known. Returns the
    /// number of positions it now holds; the remaining `tokens` must still be processed.
    ///
    /// # Errors
    /// The sequence is not open.
    pub fn share(&mut self, seq: SeqId, tokens: &[u32]) -> Result<usize, Error> {
        self.check()?;
        self.cache.share(seq, tokens)
    }

    /// Where the most similar context that is known to a sequence differs from `tokens`: the number of equal
    /// tokens, and the other token after them.
    pub(crate) fn difference(
        &self,
        seq: SeqId,
        tokens: &[u32],
    ) -> Result<Option<(usize, u32)>, Error> {
        self.check()?;
        self.cache.difference(seq, tokens)
    }

    /// Number of full blocks at the beginning of `tokens` that sequences hold.
    pub(crate) fn held_blocks(&self, namespace: Namespace, tokens: &[u32]) -> Result<usize, Error> {
        self.check()?;
        Ok(self.cache.held_blocks(namespace, tokens))
    }

    /// Number of full blocks at the beginning of `tokens` in the cache, whether sequences hold them or not.
    pub(crate) fn known_blocks(
        &self,
        namespace: Namespace,
        tokens: &[u32],
    ) -> Result<usize, Error> {
        self.check()?;
        Ok(self.cache.known_blocks(namespace, tokens))
    }

    /// Pins the first positions of a sequence, so that they remain when the context slides: whole blocks
    /// of 64, one by default, at most half the context. Call this before the context slides.
    ///
    /// # Errors
    /// The sequence is not open.
    pub fn pin(&mut self, seq: SeqId, positions: usize) -> Result<(), Error> {
        self.check()?;
        self.cache.pin(seq, positions)
    }

    /// Whether single tokens appended to a sequence from now on can be rolled back without computing others
    /// again, in models with recurrent layers. Replaying them takes time in every pass.
    pub(crate) fn pin_state(&mut self, seq: SeqId, pinned: bool) -> Result<(), Error> {
        self.check()?;
        self.cache.pin_state(seq, pinned)
    }

    /// Number of positions that can be appended to a sequence before the cache is full, regardless of its
    /// context size.
    pub(crate) fn room(&self, seq: SeqId) -> Result<usize, Error> {
        self.check()?;
        self.cache.room(seq)
    }

    /// Number of unused blocks that `n` more positions of a sequence require at most.
    pub(crate) fn blocks_for(&self, seq: SeqId, n: usize) -> Result<usize, Error> {
        self.check()?;
        self.cache.blocks_for(seq, n)
    }
}
