//! Where the engine's buffers come from, and what they take: one description does both.

use super::{Plain, Pool, Shared};

/// Hands out zeroed buffers and counts their bytes, or only counts: then every buffer is empty and
/// nothing is allocated. What is built from it, `Scratch` and all below, is described once.
pub(crate) struct Buffers<'p> {
    pool: Option<&'p Pool>,
    bytes: u64,
}

impl<'p> Buffers<'p> {
    /// Buffers for the jobs of a pool.
    pub(crate) fn of(pool: &'p Pool) -> Self {
        Self { pool: Some(pool), bytes: 0 }
    }

    /// Counts, and allocates nothing.
    pub(crate) fn tally() -> Self {
        Self { pool: None, bytes: 0 }
    }

    /// Bytes of all buffers so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A buffer that all workers share.
    pub(crate) fn shared<T: Plain>(&mut self, len: usize) -> Shared<T> {
        self.count::<T>(len);
        self.pool.map_or_else(Shared::empty, |pool| pool.shared(len))
    }

    /// A buffer of one worker.
    pub(crate) fn own<T: Copy + Default>(&mut self, len: usize) -> Vec<T> {
        self.count::<T>(len);
        self.pool.map_or_else(Vec::new, |_| vec![T::default(); len])
    }

    /// An empty list of one worker, with room for `capacity` entries.
    pub(crate) fn list<T>(&mut self, capacity: usize) -> Vec<T> {
        self.count::<T>(capacity);
        self.pool.map_or_else(Vec::new, |_| Vec::with_capacity(capacity))
    }

    fn count<T>(&mut self, len: usize) {
        let bytes = (len as u64).saturating_mul(size_of::<T>() as u64);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}
