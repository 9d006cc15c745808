//! Rotary position embedding: how far each pair of a head turns per position.
//!
//! Su et al., <https://arxiv.org/abs/2104.09864>. Stored as turns in 64-bit fixed point, because
//! position × turns then wraps around exactly like the angle does: at position 10⁶ the angle is as
//! exact as at position 1. Everything is computed once, here, in f64 with one software `pow`, so
//! that every machine writes the same file.

use std::f64::consts::TAU;

/// How the frequencies of a model deviate from the plain geometric series.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scaling {
    None,
    /// Positions are divided by a factor (Chen et al., <https://arxiv.org/abs/2306.15595>).
    Linear(f64),
    /// Llama 3.1: long wavelengths are divided, short ones kept, those between interpolated.
    Llama3 {
        factor: f64,
        low_freq: f64,
        high_freq: f64,
        original_context: f64,
    },
    /// GGUF's precomputed form: each frequency is divided by its own factor.
    Factors(Vec<f32>),
}

/// Turns per position of each pair, `head_dim / 2` values, as a fraction of 2⁶⁴.
pub(crate) fn turns(head_dim: u32, theta: f64, scaling: &Scaling) -> Vec<u64> {
    let frequencies = (0..head_dim / 2).map(|i| {
        let f = 1.0 / libm::pow(theta, f64::from(2 * i) / f64::from(head_dim));
        scaled(f, i as usize, scaling)
    });
    // Whole turns mean nothing; `as` saturates where the fraction rounds up to one.
    frequencies.map(|f| (f / TAU % 1.0 * 2f64.powi(64)).round() as u64).collect()
}

fn scaled(f: f64, i: usize, scaling: &Scaling) -> f64 {
    match *scaling {
        Scaling::None => f,
        Scaling::Linear(factor) => f / factor,
        Scaling::Factors(ref factors) => f / f64::from(factors[i]),
        Scaling::Llama3 { factor, low_freq, high_freq, original_context } => {
            let periods = original_context * f / TAU; // full turns within the original context
            if periods < low_freq {
                f / factor
            } else if periods > high_freq {
                f
            } else {
                let smooth = (periods - low_freq) / (high_freq - low_freq);
                (1.0 - smooth) * f / factor + smooth * f
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference: the formulas of transformers' `modeling_rope_utils.py`, which selects by
    /// wavelength where this file counts periods, run in NumPy float32 for a head of 16.
    #[test]
    fn agrees_with_the_wavelength_formulas() {
        let llama3 =
            Scaling::Llama3 { factor: 8.0, low_freq: 1.0, high_freq: 4.0, original_context: 64.0 };
        for (theta, scaling, expected) in [
            (10000.0, Scaling::None, DEFAULT),
            (500000.0, llama3, LLAMA3),
            (10000.0, Scaling::Linear(4.0), DEFAULT.map(|f| f / 4.0)),
            (10000.0, Scaling::Factors(vec![2.0; 8]), DEFAULT.map(|f| f / 2.0)),
        ] {
            let got = turns(16, theta, &scaling);
            for (t, e) in got.iter().zip(expected) {
                let f = *t as f64 / 2f64.powi(64) * TAU;
                assert!((f - e).abs() <= 2e-7 * e, "{scaling:?}: {f} for {e}");
            }
        }
    }

    #[test]
    fn one_radian_is_exact() {
        let expected = (2f64.powi(64) / TAU).round() as u64;
        assert_eq!(turns(4, 1e4, &Scaling::None)[0], expected);
    }

    const DEFAULT: [f64; 8] = [
        1.0,
        0.3162277638912201,
        0.10000000149011612,
        0.03162277862429619,
        0.009999999776482582,
        0.003162277862429619,
        0.0010000000474974513,
        0.0003162277862429619,
    ];
    const LLAMA3: [f64; 8] = [
        1.0,
        0.07940301299095154,
        0.004700753837823868,
        0.0009115831344388425,
        0.00017677668074611574,
        3.428102354519069e-05,
        6.647869668086059e-06,
        1.289173155782919e-06,
    ];
}
