//! What an instruction set with a matrix unit has beside [`Simd`].

use crate::isa::Simd;
use crate::layout::{GROUP_LINES, LANES, LINE, TOKENS, TokenLine};

/// Sums of one group of one tile.
pub(crate) type Dots = [[i32; LANES]; TOKENS];
/// One group of 16 tokens.
pub(crate) type TokenLines = [TokenLine; TOKENS];
/// One group of a panel, made signed: q instead of q + 128.
pub(crate) type SignedLines = [[i8; LINE]; GROUP_LINES];

/// An instruction set with a matrix unit.
pub(crate) trait MatrixUnit: Simd {
    /// The unit while it is set up. Dropping it gives the unit back.
    type Guard: Products;
    /// Sets the unit up for this thread.
    ///
    /// # Panics
    /// If this thread has it open already.
    fn configure(self) -> Self::Guard;
}

/// A matrix unit that is set up.
pub(crate) trait Products {
    /// out[m][r] = Σᵢ x[m][i] · w[i/4][4r + i%4], exact.
    fn dots(&mut self, x: &TokenLines, w: &SignedLines, out: &mut Dots);
    /// The same `products` times or a few more, all in registers; one of the sums.
    fn peak(&mut self, x: &TokenLines, w: &SignedLines, products: usize, out: &mut Dots);
}
