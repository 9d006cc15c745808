//! The sizes that everything is laid out by, each named once.

/// Lanes of every kernel: outputs per weight panel, positions per key panel.
pub const LANES: usize = 16;
/// Inputs that share one activation scale, and the largest Hadamard block.
pub const GROUP: usize = 64;
/// Tokens per tile of packed activations.
pub const TOKENS: usize = 16;
/// Inputs of a row that lie side by side in a Q8 panel: what one lane of a dot instruction adds up.
pub const QUAD: usize = 4;
/// Bytes of a line of a Q8 panel, a quad of each row or its scale: a cache line.
pub const LINE: usize = LANES * QUAD;

/// Lines of a Q8 panel that hold one group.
pub(crate) const GROUP_LINES: usize = GROUP / QUAD;
/// Bytes of one group of a Q8 panel.
pub(crate) const GROUP_BYTES: usize = GROUP_LINES * LINE;
/// Sixteen-lane vectors that hold one group of one token.
pub(crate) const GROUP_LANES: usize = GROUP / LANES;

/// Sixteen floats in memory.
pub(crate) type Lanes = [f32; LANES];
/// A line of a Q8 panel.
pub(crate) type WeightLine = [u8; LINE];
/// One group of one token, quantized.
pub(crate) type TokenLine = [i8; GROUP];

// A scale per row fills exactly one line.
const _: () = assert!(LINE == LANES * size_of::<f32>());

/// Bytes of a Q8 panel of `k` inputs: a line of 16 row scales, then `k/4` lines of weights.
pub const fn q8_panel_bytes(k: usize) -> usize {
    LINE + LANES * k
}

/// Values of an f32 panel of `k` inputs.
pub const fn f32_panel_len(k: usize) -> usize {
    LANES * k
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written in files does not change with a name.
    #[test]
    fn panels_have_the_sizes_of_the_format() {
        assert_eq!((q8_panel_bytes(4), q8_panel_bytes(64)), (16 * (4 + 4), 16 * (64 + 4)));
        assert_eq!(f32_panel_len(64), 1024);
    }
}
