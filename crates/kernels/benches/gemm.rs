//! Speed of the Q8 matrix product against the int8 peak of the same run.
//!
//! `cargo bench -p nanoinfer-kernels` prints, per ISA, giga-operations per second of CPU time (two
//! per multiply-add) on one core, for weights that stay in the cache, and the share of the peak.

use nanoinfer_kernels::*;
use rustix::time::{ClockId, clock_gettime};

/// CPU time of this thread: what other processes take does not count.
fn cpu_seconds() -> f64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

fn time(mut f: impl FnMut()) -> f64 {
    f();
    let mut best = f64::MAX;
    for _ in 0..9 {
        let start = cpu_seconds();
        f();
        best = best.min(cpu_seconds() - start);
    }
    best
}

fn main() {
    for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
        if kernels.isa() == Isa::Scalar {
            continue;
        }
        for k in [576, 2048, 5632] {
            for m in [1, 2, 4, 8, 64, 256] {
                let panels = 16;
                let w = vec![0x55u8; panels * 16 * (k + 4)];
                let (q, scales, sums) = (
                    vec![3i8; packed_rows(m) * k],
                    vec![1.0; packed_rows(m) * k / 64],
                    vec![0; packed_rows(m) * k / 64],
                );
                let mut out = vec![0.0; panels * m * 16];
                let acts = Acts { q: &q, scales: &scales, sums: &sums, m };
                let repeat = (256 / m).max(1);
                let seconds = time(|| {
                    for _ in 0..repeat {
                        kernels.gemm_q8(Gemm {
                            w: &w,
                            k,
                            acts,
                            bias: &[],
                            add: false,
                            out: &mut out,
                        });
                    }
                });
                let gops = 2e-9 * (m * k * panels * 16 * repeat) as f64 / seconds;
                println!("{:10} k={k:5} m={m:3}: {gops:6.1} GOPS", kernels.isa().name());
            }
        }
    }
}
