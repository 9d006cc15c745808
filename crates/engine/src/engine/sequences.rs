//! Sequences of an engine: opened, forked, shared, rolled back and closed.

use super::Engine;
use crate::cancel::Canceller;
use crate::{Error, SeqId};

impl Engine {
    /// Opens an empty sequence.
    ///
    /// # Errors
    /// All of [`EngineOptions::sequences`] are open.
    pub fn open(&mut self) -> Result<SeqId, Error> {
        self.check()?;
        self.cache.open()
    }

    /// Closes a sequence. What it computed is kept for others that begin alike, until the space is
    /// needed.
    ///
    /// # Errors
    /// Like every method that takes a sequence: it is not open in this engine.
    pub fn close(&mut self, seq: SeqId) -> Result<(), Error> {
        self.check()?;
        self.cache.close(seq)
    }

    /// Opens a sequence with all that another holds. Blocks of the cache are shared until one of
    /// them writes.
    ///
    /// # Errors
    /// It is not open, or all of [`EngineOptions::sequences`] are.
    pub fn fork(&mut self, seq: SeqId) -> Result<SeqId, Error> {
        self.check()?;
        self.cache.fork(seq)
    }

    /// A handle that cancels what a sequence is doing.
    ///
    /// # Errors
    /// It is not open.
    pub fn canceller(&self, seq: SeqId) -> Result<Canceller, Error> {
        self.check()?;
        self.cache.canceller(seq).cloned()
    }

    /// Cached positions of a sequence, those that have slid out of sight included.
    ///
    /// # Errors
    /// It is not open.
    pub fn len(&self, seq: SeqId) -> Result<usize, Error> {
        self.check()?;
        self.cache.len(seq)
    }

    /// Cached positions that have slid out of sight.
    ///
    /// # Errors
    /// It is not open.
    pub fn evicted(&self, seq: SeqId) -> Result<usize, Error> {
        let last = self.len(seq)?.saturating_sub(1);
        Ok(self.cache.slid(seq, last).evicted)
    }

    /// Rolls a sequence back to its first `len` positions, in O(1) for each block that it gives
    /// up. Returns what remains: less than `len` where the context has slid on too far since.
    ///
    /// # Errors
    /// It is not open.
    pub fn truncate(&mut self, seq: SeqId, len: usize) -> Result<usize, Error> {
        self.check()?;
        self.cache.truncate(seq, len)
    }

    /// Lets a sequence, which holds a beginning of `tokens`, share what another sequence has in
    /// common with them, or whole blocks of 64 of what closed ones had, if that is more. Returns the
    /// positions that it holds then, so that the rest of `tokens` can follow.
    ///
    /// # Errors
    /// It is not open.
    pub fn share(&mut self, seq: SeqId, tokens: &[u32]) -> Result<usize, Error> {
        self.check()?;
        self.cache.share(seq, tokens)
    }

    /// Lets the first positions of a sequence stay when the context slides: whole blocks of 64,
    /// one by default, at most half of the context. To be said before it slides.
    ///
    /// # Errors
    /// It is not open.
    pub fn pin(&mut self, seq: SeqId, positions: usize) -> Result<(), Error> {
        self.check()?;
        self.cache.pin(seq, positions)
    }

    /// Positions that a sequence can still take before the cache is full, its context aside.
    pub(crate) fn room(&self, seq: SeqId) -> Result<usize, Error> {
        self.check()?;
        self.cache.room(seq)
    }
}
