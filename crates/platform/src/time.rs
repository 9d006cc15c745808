//! Clocks that the standard library does not provide.

use std::time::Duration;

/// CPU time used by all threads of this process so far; `None` except on Unix.
#[cfg(unix)]
pub fn cpu_time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).ok()
}

/// CPU time used by all threads of this process so far; `None` except on Unix.
#[cfg(not(unix))]
pub fn cpu_time() -> Option<Duration> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn work_takes_cpu_time() {
        // At most about a second of work; even the coarsest clock ticks every few milliseconds.
        let worked = |_| {
            for i in 0..1_000_000 {
                std::hint::black_box(i);
            }
            cpu_time().unwrap()
        };
        let before = cpu_time().unwrap();
        let now = (0..1000).map(worked).find(|now| *now != before);
        assert!(now.is_some_and(|now| now > before), "{before:?}, then {now:?}");
    }
}
