//! How fast this machine multiplies by weights of each encoding.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use nanoinfer_kernels::{
    GROUP, Gemm, GemmTrellis, Kernels, LANES, LINE, QuantizedInputs, decoded_panel_bytes,
    packed_rows, trellis_panel_bytes,
};

use super::findings::Speed;

/// Bits per weight; 8 is q8.
const BITS: [usize; 5] = [8, 5, 4, 3, 2];
/// Inputs of the matrix.
const K: usize = 2048;
/// Rows, in panels, per thread. All encodings together exceed the caches, and they are timed in turn, so
/// that each is read from memory.
const PANELS: usize = 1024;
const ROUNDS: usize = 5;

/// The speed of products with one token, relative to q8, when all threads read weights from memory.
pub(super) fn measure(kernels: &Kernels, threads: usize) -> Vec<Speed> {
    let barrier = Barrier::new(threads);
    let times: Vec<[f64; BITS.len()]> = thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(|| time(kernels, &barrier))).collect();
        all.into_iter().map(|thread| thread.join().expect("the product does not panic")).collect()
    });
    let slowest = |i: usize| times.iter().map(|times| times[i]).fold(0.0, f64::max);
    let name = |i: usize| Speed {
        encoding: format!("q{}", BITS[i]),
        relative: slowest(0) / slowest(i),
        gain: trellis_panel_bytes(8, K) as f64 / trellis_panel_bytes(BITS[i], K) as f64,
    };
    (0..BITS.len()).map(name).collect()
}

/// Seconds per product of each encoding: the median of several rounds.
fn time(kernels: &Kernels, barrier: &Barrier) -> [f64; BITS.len()] {
    let lines = packed_rows(1) * K / GROUP;
    let weights = BITS.map(|bits| vec![0x3b; PANELS * trellis_panel_bytes(bits, K) + LINE]);
    let (q, scales, sums) = (vec![3; GROUP * lines + LINE], vec![1.0; lines], vec![0; lines]);
    let (mut out, mut decoded) = (vec![0.0; PANELS * LANES], vec![0; decoded_panel_bytes(K)]);
    // Aligned to cache lines, as in the engine.
    let q = &q[q.as_ptr().align_offset(LINE)..][..GROUP * lines];
    let inputs = QuantizedInputs { q, scales: &scales, sums: &sums, m: 1 };
    let mut times: [Vec<f64>; BITS.len()] = Default::default();
    for round in 0..=ROUNDS {
        for (i, &bits) in BITS.iter().enumerate() {
            let w = &weights[i][weights[i].as_ptr().align_offset(LINE)..];
            let w = &w[..PANELS * trellis_panel_bytes(bits, K)];
            let (k, bias, add, out) = (K, &[][..], false, &mut out[..]);
            barrier.wait();
            let start = Instant::now();
            if bits == 8 {
                kernels.gemm_q8(Gemm { w, k, inputs, bias, add, out });
            } else {
                let (bits, decoded) = (bits as u8, &mut decoded[..]);
                kernels.gemm_trellis(GemmTrellis { bits, w, k, inputs, bias, add, out, decoded });
            }
            barrier.wait();
            if round > 0 {
                times[i].push(start.elapsed().as_secs_f64());
            }
        }
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    })
}
