//! Time since the process started.

use std::time::{Duration, Instant};

use nanoinfer_platform::time::cpu_time;

/// Counts from the start of the process, not of `main`.
///
/// The kernel reports a process's start time with a resolution of 10 ms, but loading may take no
/// longer than that. Before `main` (exec, the dynamic linker, the runtime), a single thread computes
/// without blocking, so its CPU time approximates wall time, missing only the time when the scheduler
/// ran something else.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    main: Instant,
    before: Duration,
}

impl Clock {
    /// Call this at the start of `main`.
    pub(crate) fn start() -> Self {
        Self { before: cpu_time().unwrap_or_default(), main: Instant::now() }
    }

    /// Time since the process started.
    pub(crate) fn elapsed(&self) -> Duration {
        self.before + self.main.elapsed()
    }
}
