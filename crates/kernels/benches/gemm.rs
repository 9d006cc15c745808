//! Speed of the Q8 matrix product against the int8 peak of the same run.
//!
//! `cargo bench -p nanoinfer-kernels --bench gemm` prints, per instruction set, giga-operations per
//! second of CPU time (two per multiply-add) on one core, for weights that stay in the cache, and
//! the share of the peak: the same instructions on operands that stay in registers.

mod common;

use common::best_seconds;
use nanoinfer_kernels::*;

const PANELS: usize = 16;

/// Operations per second of instructions alone.
fn peak(kernels: &Kernels) -> f64 {
    const DOTS: usize = 1 << 21;
    let dots = if kernels.isa() == Isa::Scalar { DOTS / 64 } else { DOTS };
    let mut out = [0.0; 16];
    (2 * 64 * dots) as f64 / best_seconds(|| kernels.peak_dots(PeakDots { dots, out: &mut out }))
}

/// Operations per second of a product of `m` tokens and `k` inputs.
fn product(kernels: &Kernels, k: usize, m: usize) -> f64 {
    let (w, lines) = (vec![0x55u8; PANELS * 16 * (k + 4)], packed_rows(m) * k / 64);
    let (scales, sums) = (vec![1.0; lines], vec![0; lines]);
    // As the engine has them: on cache lines.
    let q = vec![3i8; 64 * lines + 64];
    let q = &q[q.as_ptr().align_offset(64)..][..64 * lines];
    let mut out = vec![0.0; PANELS * m * 16];
    let acts = Acts { q, scales: &scales, sums: &sums, m };
    let repeat = if kernels.isa() == Isa::Scalar { 1 } else { (256 / m).max(1) };
    let seconds = best_seconds(|| {
        for _ in 0..repeat {
            let out = &mut out;
            kernels.gemm_q8(Gemm { w: &w, k, acts, bias: &[], add: false, out });
        }
    });
    (2 * m * k * PANELS * 16 * repeat) as f64 / seconds
}

fn main() {
    for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
        let (name, peak) = (kernels.isa().name(), peak(&kernels));
        println!("{name:10} peak           : {:6.1} GOPS", peak * 1e-9);
        for k in [576, 2048, 5632] {
            for m in [1, 2, 4, 8, 64, 250, 256] {
                let (speed, isa) = (product(&kernels, k, m), name);
                let share = 100.0 * speed / peak;
                println!("{isa:10} k={k:5} m={m:3}: {:6.1} GOPS, {share:3.0} %", speed * 1e-9);
            }
        }
    }
}
