//! Attention time per query and block of 64 positions, in nanoseconds.

use std::time::Instant;

use nanoinfer_kernels::*;

/// The shortest of many runs, after a warm-up run.
fn best_seconds(mut f: impl FnMut()) -> f64 {
    f();
    let run = |_| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    (0..100).map(run).fold(f64::MAX, f64::min)
}

fn main() {
    for kernels in Isa::ALL.into_iter().filter(|i| *i != Isa::Scalar).filter_map(Kernels::new) {
        for (head, seen) in [(64, 64), (64, 1), (64, 32), (128, 64), (128, 1)] {
            let v_scales = vec![1.0; BLOCK];
            let (k, v) = (vec![100u8; q8_key_block(head)], vec![3i8; BLOCK * head]);
            measure(
                &kernels,
                "q8",
                (head, seen),
                KvBlock::Q8 { k: &k, v: &v, v_scales: &v_scales },
            );
            let (k, v) = (vec![100u8; q4_key_block(head)], vec![3u8; q4_value_block(head)]);
            measure(
                &kernels,
                "q4",
                (head, seen),
                KvBlock::Q4 { k: &k, v: &v, v_scales: &v_scales },
            );
        }
    }
}

fn measure(kernels: &Kernels, kind: &str, (head, seen): (usize, usize), block: KvBlock<'_>) {
    for n in [1, kernels.tile()] {
        let q = vec![1i8; n * head];
        let (scales, sums) = (vec![1.0; n], vec![-128 * head as i32; n]);
        let mut states = vec![0.0; n * AttendBlock::state_len(head)];
        let visible = vec![(0, seen); n];
        let best = best_seconds(|| {
            for _ in 0..1000 {
                kernels.attend(AttendBlock {
                    queries: Queries::Q8 { q: &q, scales: &scales, sums: &sums },
                    first: 0,
                    block,
                    next: None,
                    head,
                    value: head,
                    visible: &visible,
                    scale: 1e-9,
                    softcap: 0.0,
                    states: &mut states,
                });
            }
        });
        let nanoseconds = best * 1e6 / n as f64;
        println!(
            "{:10} {kind} head {head:3}, {seen:2} positions, {n:2} queries: {nanoseconds:6.1} ns",
            kernels.isa().name()
        );
    }
}
