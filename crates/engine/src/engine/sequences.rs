//! Sequences of an engine: opened, forked, shared, rolled back and closed.

use super::Engine;
use crate::cancel::Canceller;
use crate::{Error, SeqId};

impl Engine {
    /// Opens an empty sequence.
    ///
    /// # Errors
    /// All of [`crate::EngineOptions::sequences`] are open.
    pub fn open(&mut self) -> Result<SeqId, Error> {
        self.check()?;
        self.cache.open()
    }

    /// Closes a sequence. Its full blocks stay available to new sequences with the same prefix until
    /// the space is needed.
    ///
    /// # Errors
    /// Like every method that takes a sequence: it is not open in this engine.
    pub fn close(&mut self, seq: SeqId) -> Result<(), Error> {
        self.check()?;
        self.cache.close(seq)
    }

    /// Opens a copy of a sequence. Cache blocks are shared until one of the two writes.
    ///
    /// # Errors
    /// It is not open, or all of [`crate::EngineOptions::sequences`] are.
    pub fn fork(&mut self, seq: SeqId) -> Result<SeqId, Error> {
        self.check()?;
        self.cache.fork(seq)
    }

    /// A handle that cancels a sequence.
    ///
    /// # Errors
    /// It is not open.
    pub fn canceller(&self, seq: SeqId) -> Result<Canceller, Error> {
        self.check()?;
        self.cache.canceller(seq).cloned()
    }

    /// Cached positions of a sequence, including evicted ones.
    ///
    /// # Errors
    /// It is not open.
    pub fn len(&self, seq: SeqId) -> Result<usize, Error> {
        self.check()?;
        self.cache.len(seq)
    }

    /// Positions evicted by a sliding context.
    ///
    /// # Errors
    /// It is not open.
    pub fn evicted(&self, seq: SeqId) -> Result<usize, Error> {
        let last = self.len(seq)?.saturating_sub(1);
        Ok(self.cache.slid(seq, last).evicted)
    }

    /// Rolls a sequence back to its first `len` positions, in O(1) per released block. Returns the
    /// remaining positions: fewer than `len` if the context has since slid too far.
    ///
    /// # Errors
    /// It is not open.
    pub fn truncate(&mut self, seq: SeqId, len: usize) -> Result<usize, Error> {
        self.check()?;
        self.cache.truncate(seq, len)
    }

    /// Extends a sequence, which holds a prefix of `tokens`, with the longest prefix available: that
    /// of another open sequence, to the token, or of closed ones, in whole blocks of 64. Returns the
    /// positions it now holds; the rest of `tokens` is still to be processed.
    ///
    /// # Errors
    /// It is not open.
    pub fn share(&mut self, seq: SeqId, tokens: &[u32]) -> Result<usize, Error> {
        self.check()?;
        self.cache.share(seq, tokens)
    }

    /// Pins the first positions of a sequence, so that they stay when the context slides: whole
    /// blocks of 64, one by default, at most half of the context. Call it before the context slides.
    ///
    /// # Errors
    /// It is not open.
    pub fn pin(&mut self, seq: SeqId, positions: usize) -> Result<(), Error> {
        self.check()?;
        self.cache.pin(seq, positions)
    }

    /// Positions that a sequence can append before the cache is full, regardless of its context.
    pub(crate) fn room(&self, seq: SeqId) -> Result<usize, Error> {
        self.check()?;
        self.cache.room(seq)
    }
}
