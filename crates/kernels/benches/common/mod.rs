//! Timing shared by the benchmarks.

use rustix::time::{ClockId, clock_gettime};

/// CPU time of this thread: what other processes take does not count.
fn cpu_seconds() -> f64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// The shortest of nine runs, after one to warm up.
pub(crate) fn best_seconds(mut f: impl FnMut()) -> f64 {
    f();
    let run = |_| {
        let start = cpu_seconds();
        f();
        cpu_seconds() - start
    };
    (0..9).map(run).fold(f64::MAX, f64::min)
}
