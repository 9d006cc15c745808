//! Tests the loops that measure machine limits in benchmarks.

use nanoinfer_kernels::bench::{PeakDots, ReadLines, peak_dots, read_lines};
use nanoinfer_kernels::{Isa, Kernels};

#[test]
fn every_value_is_read() {
    for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
        for streams in [1, 2, 4, 8] {
            for at in 0..1024 {
                let mut values = vec![-1.0f32; 1024];
                values[at] = at as f32;
                let mut out = [0.0; 16];
                read_lines(&kernels, ReadLines { values: &values, streams, out: &mut out });
                let lane = |l: usize| if l == at % 16 { at as f32 } else { 0.0 };
                assert_eq!(out, std::array::from_fn(lane), "{streams} streams, value {at}");
            }
        }
    }
}

#[test]
fn dots_are_exact_for_any_number_of_iterations() {
    for kernels in Isa::ALL.into_iter().filter_map(Kernels::new) {
        for dots in [0, 1, 1_000_003] {
            let mut out = [7.0; 16];
            peak_dots(&kernels, PeakDots { dots, out: &mut out });
            assert_eq!(out, [0.0; 16], "{} {dots}", kernels.isa().name());
        }
    }
}
