//! Stopping what a sequence is doing, from any thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Cancels what one sequence is doing, from any thread. Others of the same engine are not affected.
#[derive(Clone, Debug, Default)]
pub struct Canceller(Arc<AtomicBool>);

impl Canceller {
    /// Cancels the sequence: its answer ends. A pass that nobody else is in ends within a layer,
    /// with [`crate::Error::Cancelled`]; one that other sequences share goes on for them.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a cancellation is pending.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Forgets a pending cancellation.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
