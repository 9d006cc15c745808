//! Sizes that everything in a file is a multiple of, and how its numbers are read.

/// Output rows per panel: the width of one 512-bit register of f32, and of every kernel's tile.
pub const LANES: usize = 16;

/// Longest block of inputs one activation scale covers, and the multiple to which every panel's
/// input dimension is padded.
pub const GROUP: usize = 64;

/// Bytes of one f32.
pub(crate) const F32_BYTES: usize = size_of::<f32>();

/// Bytes of one line of a panel, one f32 for each of its rows: one cache line.
pub const LINE: usize = LANES * F32_BYTES;

/// Inputs of a row that lie side by side in a line of 8-bit weights.
pub const QUAD: usize = LINE / LANES;

/// Sections, tensors and the section table begin at multiples of this: one cache line.
pub const ALIGN: u64 = 64;

/// Tensor data starts at this multiple.
pub const DATA_ALIGN: u64 = 64 * 1024;

/// Rounds `n` up to a multiple of `to`.
///
/// ```
/// assert_eq!(nanoinfer_format::pad(100, 64), 128);
/// ```
pub const fn pad(n: usize, to: usize) -> usize {
    n.div_ceil(to) * to
}

pub(crate) fn le_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("2 bytes"))
}

pub(crate) fn le_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

pub(crate) fn le_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}
