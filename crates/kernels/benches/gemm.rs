//! Throughput of the Q8 matrix product, compared with the int8 peak of the same run.
//!
//! For each instruction set, with one thread and with one thread per CPU,
//! `cargo bench -p nanoinfer-kernels --bench gemm` prints the combined throughput of all threads in
//! giga-operations per second (two operations per multiply-add) with weights in the cache, and its share
//! of the peak, measured with the same instructions on registers alone. Product and peak are timed
//! alternately, a millisecond each, so that other load disturbs both equally; the best round counts.

use std::sync::Barrier;
use std::time::Instant;

use nanoinfer_kernels::bench::{PeakDots, peak_dots};
use nanoinfer_kernels::*;

const PANELS: usize = 16;
const ROUNDS: usize = 100;

/// The operands of one thread.
struct Work {
    k: usize,
    m: usize,
    w: Vec<u8>,
    q: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i32>,
    out: Vec<f32>,
}

impl Work {
    fn new(k: usize, m: usize) -> Self {
        let (w, lines) = (vec![0x55; PANELS * q8_panel_bytes(k)], packed_rows(m) * k / GROUP);
        let (scales, sums) = (vec![1.0; lines], vec![0; lines]);
        let (q, out) = (vec![3; GROUP * lines + LINE], vec![0.0; PANELS * m * LANES]);
        Self { k, m, w, q, scales, sums, out }
    }

    fn product(&mut self, kernels: &Kernels) {
        let Self { k, m, w, q, scales, sums, out } = self;
        // Aligned to cache lines, as in the engine.
        let q = &q[q.as_ptr().align_offset(LINE)..][..GROUP * scales.len()];
        let inputs = QuantizedInputs { q, scales, sums, m: *m };
        kernels.gemm_q8(Gemm { w, k: *k, inputs, bias: &[], add: false, out });
    }
}

/// Combined operations per second of all threads, as a number and as a share of the peak.
fn measure(kernels: &Kernels, k: usize, m: usize, threads: usize) -> (f64, f64) {
    let dots: usize = if kernels.isa() == Isa::Scalar { 1 << 15 } else { 1 << 20 };
    let repeat = (LINE * dots).div_ceil(m * k * PANELS * LANES);
    let barrier = Barrier::new(threads);
    let worker = || {
        let (mut work, mut out) = (Work::new(k, m), [0.0; 16]);
        let timed = |f: &mut dyn FnMut()| {
            barrier.wait();
            let start = Instant::now();
            f();
            barrier.wait();
            start.elapsed().as_secs_f64()
        };
        let mut round = || {
            let product = timed(&mut || (0..repeat).for_each(|_| work.product(kernels)));
            let peak = timed(&mut || peak_dots(kernels, PeakDots { dots, out: &mut out }));
            (product, peak)
        };
        round();
        let best = |best: (f64, f64), round: (f64, f64)| (best.0.min(round.0), best.1.min(round.1));
        let (product, peak) = (0..ROUNDS).map(|_| round()).fold((f64::MAX, f64::MAX), best);
        let product = (2 * m * k * PANELS * LANES * repeat * threads) as f64 / product;
        (product, product / ((2 * LINE * dots * threads) as f64 / peak))
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let all = all.into_iter().map(|thread| thread.join().expect("no panic"));
        all.last().expect("a thread")
    })
}

fn main() {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let only = std::env::args().nth(1).filter(|a| !a.starts_with('-'));
    for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
        let isa = kernels.isa().name();
        if only.as_ref().is_some_and(|only| only != isa) {
            continue;
        }
        for k in [576, 2048, 5632] {
            for m in [1, 2, 4, 8, 64, 250, 256] {
                print!("{isa:10} k={k:5} m={m:3}:");
                for threads in [1, cpus] {
                    let (speed, share) = measure(&kernels, k, m, threads);
                    print!(" {:7.1} GOPS {:3.0} % ({threads})", speed * 1e-9, 100.0 * share);
                }
                println!();
            }
        }
    }
}
