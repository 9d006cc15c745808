//! Time since the process began.

use std::time::{Duration, Instant};

use nanoinfer_platform::time::cpu_time;

/// Counts from the start of the process, not of `main`.
///
/// The kernel gives a process's start only to a hundredth of a second, which is as long as all of
/// loading may take. What runs before `main` (exec, the dynamic linker, the runtime) is one thread
/// that computes and waits for nothing, so the CPU time used until then stands for its wall time.
/// Only time in which the scheduler ran something else before `main` goes unseen.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    main: Instant,
    before: Duration,
}

impl Clock {
    /// To be called first thing in `main`.
    pub(crate) fn start() -> Self {
        Self { before: cpu_time().unwrap_or_default(), main: Instant::now() }
    }

    /// Time since the process began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.before + self.main.elapsed()
    }
}
