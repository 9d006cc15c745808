//! Numbers of bits per weight.

use std::fmt;

/// An average number of bits per weight, in steps of 0.01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bits(u32);

impl Bits {
    /// Rounds down to hundredths. `None` unless `1 <= bits < 100`.
    pub fn new(bits: f64) -> Option<Self> {
        // The number that was meant: 4.35 · 100 is slightly less than 435.
        let hundredths = (bits * 100.0 + 1e-6) as u32;
        (1.0..100.0).contains(&bits).then_some(Self(hundredths))
    }

    /// The number of bits.
    pub fn get(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// Rounds up to hundredths.
    pub(crate) fn at_least(bits: f64) -> Self {
        Self((bits * 100.0).ceil() as u32)
    }

    /// The number of bytes that `weights` weights may have.
    pub(crate) fn bytes(self, weights: u128) -> u128 {
        weights.saturating_mul(self.0.into()) / 800
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}
