//! The factor of queries in attention whose temperature depends on the position.

use std::f64::consts::{LN_2, SQRT_2};

/// 1 + `scale` · ln(1 + ⌊(`position` + `offset`) / `step`⌋), in f64 arithmetic in a fixed order.
pub fn temperature(position: u64, offset: u64, step: u64, scale: f64) -> f32 {
    match position.saturating_add(offset) / step.max(1) {
        0 => 1.0,
        steps => (1.0 + scale * ln(steps as f64 + 1.0)) as f32,
    }
}

/// The natural logarithm of a number that is at least 1.
fn ln(x: f64) -> f64 {
    // x = m · 2ᵉ with m from √½ to √2.
    let mut exponent = (x.to_bits() >> 52) as i64 - 1023;
    let mut m = f64::from_bits(x.to_bits() & ((1 << 52) - 1) | 1023 << 52);
    if m > SQRT_2 {
        (m, exponent) = (m * 0.5, exponent + 1);
    }
    // ln m = 2 artanh s. For |s| ≤ 0.172 the first omitted term is below 1e-17.
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    let series = (0..11).rev().fold(0.0, |sum, i| sum * s2 + 1.0 / f64::from(2 * i + 1));
    exponent as f64 * LN_2 + 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_accurate() {
        let numbers = (0..62).flat_map(|e| [1u64 << e, (1 << e) + 1, (1 << e) / 2 * 3]);
        for n in (1..10_000).chain(numbers.filter(|n| *n > 0)) {
            let (got, want) = (ln(n as f64), (n as f64).ln());
            assert!((got - want).abs() <= 4e-16 * want.abs(), "ln {n}: {got}, expected {want}");
        }
    }

    #[test]
    fn a_step_has_one_factor() {
        let at = |position| temperature(position, 1, 8, 0.5);
        assert_eq!([0, 6].map(at), [1.0; 2]);
        assert_eq!(at(7), at(14));
        assert_eq!(at(7), (1.0 + 0.5 * 2f64.ln()) as f32);
        assert_eq!(at(23), (1.0 + 0.5 * 4f64.ln()) as f32);
    }
}
