//! Helpers shared by the tests of this crate.
#![allow(dead_code)] // each test binary uses only some of them

use nanoinfer_kernels::{Isa, Kernels};

/// The ISAs to test; panics if an ISA required by the environment is missing.
pub(crate) fn isas() -> Vec<Kernels> {
    let found: Vec<_> = Isa::ALL.into_iter().filter_map(Kernels::new).collect();
    let names: Vec<_> = found.iter().map(|k| k.isa().name()).collect();
    println!("testing on {}", names.join(", "));
    let required = std::env::var("NANOINFER_REQUIRE_ISA").unwrap_or_default();
    for name in ["scalar"].into_iter().chain(required.split(',').filter(|n| !n.is_empty())) {
        assert!(
            names.contains(&name),
            "this machine does not support {name}, which NANOINFER_REQUIRE_ISA requires"
        );
    }
    found
}

/// Reproducible noise in [-1, 1).
pub(crate) fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}
