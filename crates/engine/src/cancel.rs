//! Cancelling a sequence from any thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Cancels one sequence, from any thread. Other sequences in the same engine are not affected.
#[derive(Clone, Debug, Default)]
pub struct Canceller(Arc<AtomicBool>);

impl Canceller {
    /// Cancels the sequence, which ends its answer. A pass of this sequence alone ends within one layer,
    /// with [`crate::Error::Cancelled`]; a pass shared with other sequences continues for them.
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
