//! The basic sizes of all layouts, each defined once.

/// Lanes per vector: outputs per weight panel, positions per key panel.
pub const LANES: usize = 16;
/// Inputs per activation scale, and the size of the largest Hadamard block.
pub const GROUP: usize = 64;
/// Tokens per tile of packed inputs.
pub const TOKENS: usize = 16;
/// Adjacent inputs of a row in a Q8 panel, summed by one lane of a dot instruction.
pub const QUAD: usize = 4;
/// Bytes per line of a Q8 panel (one cache line), which holds a quad or the scale of each row.
pub const LINE: usize = LANES * QUAD;

/// Lines per group of a Q8 panel.
pub(crate) const GROUP_LINES: usize = GROUP / QUAD;
/// Bytes per group of a Q8 panel.
pub(crate) const GROUP_BYTES: usize = GROUP_LINES * LINE;
/// Sixteen-lane vectors per group of one token.
pub(crate) const GROUP_LANES: usize = GROUP / LANES;

/// Sixteen floats in memory.
pub(crate) type Lanes = [f32; LANES];
/// A line of a Q8 panel.
pub(crate) type WeightLine = [u8; LINE];
/// One group of one token, quantized.
pub(crate) type TokenLine = [i8; GROUP];

// One scale per row fills exactly one line.
const _: () = assert!(LINE == LANES * size_of::<f32>());

/// Bytes of a Q8 panel of `k` inputs: a line of 16 row scales, then `k/4` lines of weights.
pub const fn q8_panel_bytes(k: usize) -> usize {
    LINE + LANES * k
}

/// Bytes of a panel of 16 keys of the 4-bit cache, `h` values each: a line of 16 scales, then `h/8` lines of
/// two values per byte.
pub(crate) const fn q4_panel_bytes(h: usize) -> usize {
    LINE + LANES * h / 2
}

/// Length of an f32 panel of `k` inputs, in values.
pub const fn f32_panel_len(k: usize) -> usize {
    LANES * k
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file format depends on these sizes.
    #[test]
    fn panel_sizes_match_the_file_format() {
        assert_eq!((q8_panel_bytes(4), q8_panel_bytes(64)), (16 * (4 + 4), 16 * (64 + 4)));
        assert_eq!(f32_panel_len(64), 1024);
    }
}
