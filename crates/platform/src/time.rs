//! Time that the standard library does not measure.

use std::time::Duration;

/// CPU time this process has used so far, over all its threads; `None` except on Unix.
#[cfg(unix)]
pub fn cpu_time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).ok()
}

/// CPU time this process has used so far, over all its threads; `None` except on Unix.
#[cfg(not(unix))]
pub fn cpu_time() -> Option<Duration> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn work_takes_cpu_time() {
        let before = cpu_time().unwrap();
        let mut now = before;
        while now == before {
            now = cpu_time().unwrap();
        }
        assert!(now > before);
    }
}
