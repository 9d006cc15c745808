//! The precision in which weights are to be stored, as a user states it.

use std::fmt;
use std::str::FromStr;

use crate::bits::Bits;
use crate::config::{Config, Quant};
use crate::recipe::{Recipe, RecipeError};

/// Models with fewer parameters are small enough for 8 bits.
const SMALL: u64 = 1_000_000_000;

/// The precision in which weights are to be stored; [`Self::recipe`] turns it into an encoding of every
/// matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 8 bits for models of less than a billion parameters, 5 bits for others.
    #[default]
    Auto,
    /// A named choice of encodings.
    Quant(Quant),
    /// The best choice of encodings for an average number of bits.
    Bits(Bits),
}

impl Precision {
    /// The precision for a model: never [`Self::Auto`].
    pub fn for_model(self, c: &Config) -> Self {
        match self {
            Self::Auto => Self::Quant(auto(c)),
            chosen => chosen,
        }
    }

    /// The encoding of every matrix of a model.
    ///
    /// # Errors
    /// The model cannot have this number of bits.
    pub fn recipe(self, c: &Config) -> Result<Recipe, RecipeError> {
        match self {
            Self::Auto => Ok(Recipe::of(auto(c), c)),
            Self::Quant(quant) => Ok(Recipe::of(quant, c)),
            Self::Bits(bits) => Recipe::with_bits(bits, c),
        }
    }
}

fn auto(c: &Config) -> Quant {
    if c.parameters() < SMALL { Quant::Q8 } else { Quant::Q5 }
}

impl From<Quant> for Precision {
    fn from(quant: Quant) -> Self {
        Self::Quant(quant)
    }
}

/// `auto`, the name of a [`Quant`], or a number with two decimals.
impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Quant(quant) => f.write_str(quant.name()),
            Self::Bits(bits) => bits.fmt(f),
        }
    }
}

/// A text is not a [`Precision`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected auto, q8, q5, q4, q3, q2, f32, or a number of bits per weight such as 4.25")]
pub struct PrecisionError;

impl FromStr for Precision {
    type Err = PrecisionError;

    fn from_str(text: &str) -> Result<Self, PrecisionError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if let Some(quant) = Quant::ALL.into_iter().find(|q| q.name() == text) {
            return Ok(Self::Quant(quant));
        }
        // Digits only: no `1e1`, `inf` or signs.
        let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let bits = text.parse().ok().filter(|_| plain);
        bits.and_then(Bits::new).map(Self::Bits).ok_or(PrecisionError)
    }
}
