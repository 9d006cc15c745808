//! Time since the process began.

use std::time::{Duration, Instant};

use nanoinfer_platform::time::cpu_time;

/// Counts from the start of the process, not of `main`.
///
/// The kernel reports a process's start time with a resolution of 10 ms, as long as all of loading
/// may take. Before `main` (exec, the dynamic linker, the runtime) a single thread computes without
/// waiting, so its CPU time approximates wall time; only time in which the scheduler ran something
/// else is missing.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    main: Instant,
    before: Duration,
}

impl Clock {
    /// Call this first in `main`.
    pub(crate) fn start() -> Self {
        Self { before: cpu_time().unwrap_or_default(), main: Instant::now() }
    }

    /// Time since the process began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.before + self.main.elapsed()
    }
}
