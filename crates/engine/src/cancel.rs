//! Cancelling a sequence from any thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Cancels one sequence, from any thread. Other sequences of the same engine are not affected.
#[derive(Clone, Debug, Default)]
pub struct Canceller(Arc<AtomicBool>);

impl Canceller {
    /// Cancels the sequence: its answer ends. A pass with no other sequence ends within a layer, with
    /// [`crate::Error::Cancelled`]; a shared pass continues for the others.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a cancellation is pending.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Clears a pending cancellation.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
