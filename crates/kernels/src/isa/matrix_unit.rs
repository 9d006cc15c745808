//! The extension of [`Simd`] for instruction sets with a matrix unit.

use crate::isa::Simd;
use crate::layout::{GROUP_LINES, LANES, LINE, TOKENS, TokenLine};

/// Dot products of one group of one tile.
pub(crate) type Dots = [[i32; LANES]; TOKENS];
/// One group of 16 tokens.
pub(crate) type TokenLines = [TokenLine; TOKENS];
/// One group of a panel as signed q instead of stored q + 128.
pub(crate) type SignedLines = [[i8; LINE]; GROUP_LINES];

/// An instruction set with a matrix unit.
pub(crate) trait MatrixUnit: Simd {
    /// Keeps the unit configured; dropping the guard releases the unit.
    type Guard: Products;
    /// Configures the unit for this thread.
    ///
    /// # Panics
    /// If this thread has already configured it.
    fn configure(self) -> Self::Guard;
    /// Stores a line of weights as signed bytes.
    fn store_signed(self, line: Self::Line, to: &mut [i8; LINE]);
}

/// The products of a configured matrix unit.
pub(crate) trait Products {
    /// out[m][r] = Σᵢ x[m][i] · w[i/4][4r + i%4], exact.
    fn dots(&mut self, x: &TokenLines, w: &SignedLines, out: &mut Dots);
    /// Repeats the product at least `products` times in registers and stores one of the sums.
    fn peak(&mut self, x: &TokenLines, w: &SignedLines, products: usize, out: &mut Dots);
}
