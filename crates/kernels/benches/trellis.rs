//! Throughput of trellis-coded products relative to the Q8 product of the same shape.
//!
//! For each instruction set, `cargo bench -p nanoinfer-kernels --bench trellis` multiplies a matrix of
//! 2048 inputs by 1 to 256 tokens: with one thread and weights in the cache, and with one thread per
//! CPU and weights in memory. It prints the speed of each encoding as a multiple of Q8's, next to the
//! ratio of their bytes, the most that a product bound by memory can gain. All encodings are timed in
//! turn, so that other load disturbs them equally; the median over the rounds counts.

use std::sync::Barrier;
use std::time::Instant;

use nanoinfer_kernels::*;

const K: usize = 2048;
const ROUNDS: usize = 15;
/// Bits per weight of the encodings; 8 is Q8.
const BITS: [usize; 5] = [8, 5, 4, 3, 2];

/// The operands of one thread.
struct Work {
    m: usize,
    panels: usize,
    w: [Vec<u8>; BITS.len()],
    q: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i32>,
    out: Vec<f32>,
    decoded: Vec<u8>,
}

impl Work {
    fn new(m: usize, panels: usize) -> Self {
        let lines = packed_rows(m) * K / GROUP;
        let w = BITS.map(|bits| vec![0x3b; panels * trellis_panel_bytes(bits, K) + LINE]);
        Self {
            m,
            panels,
            w,
            q: vec![3; GROUP * lines + LINE],
            scales: vec![1.0; lines],
            sums: vec![0; lines],
            out: vec![0.0; panels * m * LANES],
            decoded: vec![0; decoded_panel_bytes(K)],
        }
    }

    fn product(&mut self, kernels: &Kernels, i: usize) {
        let Self { m, panels, w, q, scales, sums, out, decoded } = self;
        // Aligned to cache lines, as in the engine.
        let q = &q[q.as_ptr().align_offset(LINE)..][..GROUP * scales.len()];
        let inputs = QuantizedInputs { q, scales, sums, m: *m };
        let w = &w[i][w[i].as_ptr().align_offset(LINE)..];
        let w = &w[..*panels * trellis_panel_bytes(BITS[i], K)];
        if BITS[i] == 8 {
            kernels.gemm_q8(Gemm { w, k: K, inputs, bias: &[], add: false, out });
            return;
        }
        let bits = BITS[i] as u8;
        kernels.gemm_trellis(GemmTrellis {
            bits,
            w,
            k: K,
            inputs,
            bias: &[],
            add: false,
            out,
            decoded,
        });
    }
}

/// Seconds per product of each encoding.
fn measure(
    kernels: &Kernels,
    m: usize,
    panels: usize,
    repeat: usize,
    threads: usize,
) -> [f64; BITS.len()] {
    let barrier = Barrier::new(threads);
    let worker = || {
        let mut work = Work::new(m, panels);
        let mut times: [Vec<f64>; BITS.len()] = Default::default();
        for round in 0..=ROUNDS {
            for (i, times) in times.iter_mut().enumerate() {
                barrier.wait();
                let start = Instant::now();
                (0..repeat).for_each(|_| work.product(kernels, i));
                barrier.wait();
                if round > 0 {
                    times.push(start.elapsed().as_secs_f64() / repeat as f64);
                }
            }
        }
        times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        })
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
        if isa == "scalar" || only.as_ref().is_some_and(|only| only != isa) {
            continue;
        }
        for m in [1, 4, 8, 16, 32, 256] {
            for (panels, repeat, threads) in [(2, 3000 / m, 1), (2048, 1, cpus)] {
                if m == 256 && panels > 2 {
                    continue; // bound by arithmetic
                }
                let times = measure(&kernels, m, panels, repeat.max(1), threads);
                let lines = (panels * K / QUAD) as f64;
                print!(
                    "{isa:10} m={m:3} {threads} threads: q8 {:5.2} ns/line",
                    times[0] * 1e9 / lines
                );
                for (bits, time) in BITS.iter().zip(times).skip(1) {
                    let bytes =
                        trellis_panel_bytes(8, K) as f64 / trellis_panel_bytes(*bits, K) as f64;
                    print!("  q{bits} {:.2} of {bytes:.2}", times[0] / time);
                }
                println!();
            }
        }
    }
}
