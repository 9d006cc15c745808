//! Rotary position embedding: how far each pair of a head rotates per position.
//!
//! Su et al., <https://arxiv.org/abs/2104.09864>. Rotations are stored as turns in 64-bit fixed
//! point, because position × turns then wraps around exactly as the angle does: at position 10⁶ the
//! angle is as exact as at position 1. Everything is computed once, here, in f64 with a software
//! `pow`, so that every machine writes the same file.
//!
//! Frequencies that would otherwise depend on the length of the text depend on the session's
//! capacity instead: the file has a row of frequencies for each range of capacities (see
//! [`nanoinfer_format::Rope`]).

use std::f64::consts::TAU;

use nanoinfer_format::Rope;

/// How the frequencies of a model deviate from the plain geometric series.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scaling {
    None,
    /// Positions are divided by a factor (Chen et al., <https://arxiv.org/abs/2306.15595>).
    Linear(f64),
    /// The base grows with the length beyond the original context ("dynamic NTK").
    Dynamic {
        factor: f64,
        original_context: u32,
    },
    /// Low frequencies are divided, high frequencies kept, those in between interpolated, and
    /// attention is sharpened (Peng et al., <https://arxiv.org/abs/2309.00071>).
    Yarn(Yarn),
    /// Llama 3.1: like YaRN, with different bounds.
    Llama3 {
        factor: f64,
        low_freq: f64,
        high_freq: f64,
        original_context: f64,
    },
    /// Frequency factors found by search: one set up to the original context, and one beyond it
    /// (Ding et al., <https://arxiv.org/abs/2402.13753>).
    LongRope {
        short: Vec<f64>,
        long: Vec<f64>,
        original_context: u32,
        magnitude: f64,
    },
    /// GGUF's precomputed form: each frequency is divided by its own factor.
    Factors(Vec<f32>),
    /// Frequencies as for whole heads, of which only those of the first pairs are used.
    Proportional {
        pairs: u32,
    },
    /// Heads of `dim` values, in a model with others that are wider.
    Narrow {
        dim: u32,
    },
}

/// The parameters of YaRN.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Yarn {
    pub(crate) factor: f64,
    pub(crate) original_context: f64,
    /// A frequency is kept if it makes at least `beta_fast` turns within the original context, and
    /// divided if it makes at most `beta_slow`.
    pub(crate) beta_fast: f64,
    pub(crate) beta_slow: f64,
    /// Whether to round the bounds to whole pairs.
    pub(crate) truncate: bool,
    pub(crate) magnitude: f64,
}

/// A RoPE of a model, before its frequencies are computed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RopeSpec {
    pub(crate) theta: f64,
    pub(crate) scaling: Scaling,
}

/// [`Scaling::Dynamic`] follows the session's capacity in steps of 1/`DYNAMIC_STEPS` of the
/// original context, up to `MAX_STEPS` steps.
const DYNAMIC_STEPS: u32 = 8;
const MAX_STEPS: u32 = 56;

/// YaRN's default multiplier of cosine and sine.
pub(crate) fn yarn_magnitude(factor: f64, weight: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * weight * libm::log(factor) + 1.0 }
}

/// The same for LongRoPE, when the context is `factor` times the original one.
pub(crate) fn longrope_magnitude(factor: f64, original_context: u32) -> f64 {
    if factor <= 1.0 {
        return 1.0;
    }
    (1.0 + libm::log(factor) / libm::log(f64::from(original_context))).sqrt()
}

impl RopeSpec {
    /// The form stored in the config of the `.nano` file.
    pub(crate) fn rope(&self) -> Rope {
        let (magnitude, limits) = match &self.scaling {
            Scaling::Yarn(yarn) => (yarn.magnitude, Vec::new()),
            Scaling::LongRope { magnitude, original_context, .. } => {
                (*magnitude, vec![*original_context])
            }
            Scaling::Dynamic { factor, original_context } => {
                let steps = ((factor - 1.0) * f64::from(DYNAMIC_STEPS)).ceil() as u32;
                let limit = |step| dynamic_capacity(*original_context, step);
                (1.0, (0..=steps.min(MAX_STEPS)).map(limit).collect())
            }
            _ => (1.0, Vec::new()),
        };
        Rope { magnitude, limits }
    }

    /// Turns per position of each pair, in units of 2⁻⁶⁴ turns: `dim / 2` values for each row of
    /// [`Self::rope`].
    pub(crate) fn turns(&self, dim: u32) -> Vec<u64> {
        (0..self.rope().rows()).flat_map(|row| self.row(dim, row)).collect()
    }

    fn row(&self, dim: u32, row: usize) -> impl Iterator<Item = u64> {
        let theta = match self.scaling {
            Scaling::Dynamic { factor, original_context } => {
                let capacity = f64::from(dynamic_capacity(original_context, row as u32));
                let growth = factor * capacity / f64::from(original_context) - (factor - 1.0);
                self.theta * libm::pow(growth, f64::from(dim) / f64::from(dim - 2))
            }
            _ => self.theta,
        };
        let own = if let Scaling::Narrow { dim } = self.scaling { dim } else { dim };
        (0..dim / 2).map(move |i| {
            let f = 1.0 / libm::pow(theta, f64::from(2 * i) / f64::from(own));
            let f = self.scaled(f, i as usize, dim, row);
            // Whole turns drop out; the fraction is below 1, so its product with 2⁶⁴ fits.
            (f / TAU % 1.0 * 2f64.powi(64)).round() as u64
        })
    }

    fn scaled(&self, f: f64, i: usize, dim: u32, row: usize) -> f64 {
        match self.scaling {
            Scaling::None | Scaling::Dynamic { .. } => f,
            Scaling::Proportional { pairs } if i >= pairs as usize => 0.0,
            Scaling::Narrow { dim } if i >= dim as usize / 2 => 0.0,
            Scaling::Proportional { .. } | Scaling::Narrow { .. } => f,
            Scaling::Linear(factor) => f / factor,
            Scaling::Factors(ref factors) => f / f64::from(factors[i]),
            Scaling::LongRope { ref short, ref long, .. } => f / [short, long][row][i],
            Scaling::Yarn(ref yarn) => {
                let kept = 1.0 - yarn.ramp(i, dim, self.theta);
                f / yarn.factor * (1.0 - kept) + f * kept
            }
            Scaling::Llama3 { factor, low_freq, high_freq, original_context } => {
                let periods = original_context * f / TAU; // full turns within the original context
                if periods < low_freq {
                    f / factor
                } else if periods > high_freq || low_freq == high_freq {
                    f
                } else {
                    let smooth = (periods - low_freq) / (high_freq - low_freq);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            }
        }
    }
}

/// The session capacity for which a step of [`Scaling::Dynamic`] is computed; step 0 is the
/// original context.
fn dynamic_capacity(original_context: u32, step: u32) -> u32 {
    let capacity = u64::from(original_context) * u64::from(DYNAMIC_STEPS + step);
    u32::try_from(capacity.div_ceil(u64::from(DYNAMIC_STEPS))).unwrap_or(u32::MAX)
}

impl Yarn {
    /// 0 for pairs that are kept, 1 for pairs that are divided.
    fn ramp(&self, i: usize, dim: u32, theta: f64) -> f64 {
        let dim = f64::from(dim);
        let pair_of = |turns: f64| {
            dim * libm::log(self.original_context / (turns * TAU)) / (2.0 * libm::log(theta))
        };
        let (mut low, mut high) = (pair_of(self.beta_fast), pair_of(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        ((i as f64 - low) / (high - low)).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference values: the formulas of transformers' `modeling_rope_utils.py`, which compare
    /// wavelengths where this file counts periods, evaluated in NumPy float32 for a head size of
    /// 16.
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
            let got = RopeSpec { theta, scaling }.turns(16);
            for (t, e) in got.iter().zip(expected) {
                let f = *t as f64 / 2f64.powi(64) * TAU;
                assert!((f - e).abs() <= 2e-7 * e, "{theta}: {f}, expected {e}");
            }
        }
    }

    #[test]
    fn one_radian_is_exact() {
        let expected = (2f64.powi(64) / TAU).round() as u64;
        assert_eq!(RopeSpec { theta: 1e4, scaling: Scaling::None }.turns(4)[0], expected);
    }

    #[test]
    fn dynamic_scaling_follows_the_capacity_in_steps() {
        let plain = RopeSpec { theta: 1e4, scaling: Scaling::None }.turns(16);
        let scaling = Scaling::Dynamic { factor: 2.0, original_context: 100 };
        let kind = RopeSpec { theta: 1e4, scaling };
        let (rope, turns) = (kind.rope(), kind.turns(16));
        assert_eq!(rope.limits, [100, 113, 125, 138, 150, 163, 175, 188, 200]);
        assert_eq!((rope.row(100), rope.row(101), rope.row(200), rope.row(201)), (0, 1, 8, 9));
        assert_eq!(turns[..8], plain);
        // The slowest pair at twice the context: θ' = θ · 3^(16/14).
        let theta = 1e4 * 3f64.powf(16.0 / 14.0);
        let (got, want) = (turns[8 * 8 + 7] as f64, theta.powf(-14.0 / 16.0) / TAU * 2f64.powi(64));
        assert!((got - want).abs() <= 1e-12 * want, "{got}, expected {want}");
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
