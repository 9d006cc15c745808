//! Measured hardware limits: memory bandwidth and 8-bit multiply-adds.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use nanoinfer_engine::{Isa, available_memory};
use nanoinfer_kernels::Kernels;
use nanoinfer_kernels::bench::{PeakDots, ReadLines, peak_dots, read_lines};
use nanoinfer_platform::cpu::last_level_cache;
use nanoinfer_platform::pages;

/// Minimum number of bytes to read; more if the caches could hold many of them.
const MIN_READ: usize = 512 << 20;
/// Values per work item (2 MiB).
const CHUNK: usize = 512 << 10;
/// 64-byte dot products per thread and measurement, which take roughly 10 ms.
const DOTS: usize = 1 << 25;
/// Numbers of interleaved read streams to try; the fastest depends on the machine.
const STREAMS: [usize; 4] = [1, 2, 4, 8];

/// The limits for a given number of threads, measured once per round.
pub(crate) struct Limits {
    pub(crate) threads: usize,
    /// For multiply-adds: the engine's instruction set, even if it is forced.
    engine: Kernels,
    /// For reads: the fastest instruction set, because bandwidth does not depend on the engine's.
    best: Kernels,
    memory: Arc<Vec<f32>>,
    /// Bytes per second, one value per round.
    pub(crate) bandwidth: Vec<f64>,
    /// 8-bit operations per second, two per multiply-add, one value per round.
    pub(crate) int8: Vec<f64>,
}

impl Limits {
    /// One `Limits` for each number of threads, for an engine that uses `isa`.
    pub(crate) fn each(threads: &[usize], isa: Isa) -> Result<Vec<Self>> {
        let engine = Kernels::new(isa)
            .with_context(|| format!("this CPU does not support {}", isa.name()))?;
        // In large pages, as weights are: with small ones, translating addresses would be the limit.
        let mut memory = vec![0.0; read_size() / size_of::<f32>()];
        pages::make_large(&mut memory, 0..0);
        memory.fill(1.0);
        let memory = Arc::new(memory);
        let new = |&threads| Self {
            threads,
            engine,
            best: Kernels::best(),
            memory: Arc::clone(&memory),
            bandwidth: Vec::new(),
            int8: Vec::new(),
        };
        Ok(threads.iter().map(new).collect())
    }

    /// The instruction set for which multiply-adds are measured.
    pub(crate) fn isa(&self) -> Isa {
        self.engine.isa()
    }

    /// Adds one measurement of each limit.
    pub(crate) fn measure(&mut self) {
        let bandwidth = STREAMS.iter().map(|&streams| self.read(streams)).fold(0.0, f64::max);
        let int8 = (0..2).map(|_| self.multiply()).fold(0.0, f64::max);
        self.bandwidth.push(bandwidth);
        self.int8.push(int8);
    }

    /// Reads the buffer once with all threads; returns bytes per second.
    fn read(&self, streams: usize) -> f64 {
        let next = AtomicUsize::new(0);
        let seconds = time_threads(self.threads, || {
            let mut out = [0.0; 16];
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(values) = self.memory.chunks_exact(CHUNK).nth(index) else { break };
                read_lines(&self.best, ReadLines { values, streams, out: &mut out });
                black_box(&out);
            }
        });
        let read = self.memory.len() / CHUNK * CHUNK * size_of::<f32>();
        read as f64 / seconds
    }

    /// Computes dot products on all threads; returns operations per second.
    fn multiply(&self) -> f64 {
        let dots = if self.engine.isa() == Isa::Scalar { DOTS / 64 } else { DOTS };
        let seconds = time_threads(self.threads, || {
            let mut out = [0.0; 16];
            peak_dots(&self.engine, PeakDots { dots, out: &mut out });
            black_box(&out);
        });
        (self.threads * dots * 2 * 64) as f64 / seconds
    }
}

/// Read bandwidth of `threads` threads in bytes per second: the best of several rounds.
pub(crate) fn memory_bandwidth(threads: usize) -> Result<f64> {
    let limits = Limits::each(&[threads], Kernels::best().isa())?;
    let rounds = (0..3).flat_map(|_| STREAMS).map(|streams| limits[0].read(streams));
    Ok(rounds.fold(0.0, f64::max))
}

/// Runs `work` on `threads` threads at once; returns the seconds until all have finished.
fn time_threads(threads: usize, work: impl Fn() + Sync) -> f64 {
    let ready = Barrier::new(threads);
    let run = || {
        ready.wait();
        let start = Instant::now();
        work();
        (start, Instant::now())
    };
    let times: Vec<_> = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let own = run();
        let join = |t: thread::ScopedJoinHandle<'_, _>| t.join().expect("the work does not panic");
        others.into_iter().map(join).chain([own]).collect()
    });
    let start = times.iter().map(|t| t.0).min();
    let end = times.iter().map(|t| t.1).max();
    start.zip(end).map_or(f64::INFINITY, |(start, end)| (end - start).as_secs_f64())
}

/// Twice the last-level cache, at least 512 MiB, at most a quarter of the free memory.
fn read_size() -> usize {
    let size = MIN_READ.max(2 * last_level_cache().unwrap_or(0));
    let free = available_memory().unwrap_or(u64::MAX) / 4;
    size.min(free as usize).max(CHUNK * size_of::<f32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_run_the_work() {
        let count = AtomicUsize::new(0);
        let seconds = time_threads(3, || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 3);
        assert!(seconds.is_finite() && seconds >= 0.0);
    }
}
