//! Allocates the engine's buffers, or only adds up their sizes, from the same description.

use super::{Plain, Pool, Shared};

/// Allocates zeroed buffers and counts their bytes, or only counts, in which case every buffer is empty.
/// So one description of `Scratch` and its contents serves both purposes.
pub(crate) struct Buffers<'p> {
    pool: Option<&'p Pool>,
    bytes: u64,
}

impl<'p> Buffers<'p> {
    /// Allocates buffers for a pool's jobs.
    pub(crate) fn new(pool: &'p Pool) -> Self {
        Self { pool: Some(pool), bytes: 0 }
    }

    /// Counts without allocating.
    pub(crate) fn tally() -> Self {
        Self { pool: None, bytes: 0 }
    }

    /// Bytes of all buffers so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A buffer shared by all workers.
    pub(crate) fn shared<T: Plain>(&mut self, len: usize) -> Shared<T> {
        self.count::<T>(len);
        self.pool.map_or_else(Shared::empty, |pool| pool.shared(len))
    }

    /// A buffer for one worker.
    pub(crate) fn own<T: Copy + Default>(&mut self, len: usize) -> Vec<T> {
        self.count::<T>(len);
        self.pool.map_or_else(Vec::new, |_| vec![T::default(); len])
    }

    /// An empty list for one worker, with the given capacity.
    pub(crate) fn list<T>(&mut self, capacity: usize) -> Vec<T> {
        self.count::<T>(capacity);
        self.pool.map_or_else(Vec::new, |_| Vec::with_capacity(capacity))
    }

    fn count<T>(&mut self, len: usize) {
        let bytes = (len as u64).saturating_mul(size_of::<T>() as u64);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}
