//! Basic sizes of the format, and functions that read little-endian integers.

/// Output rows per panel: the number of f32 values in a 512-bit register, and the width of every
/// kernel's tile.
pub const LANES: usize = 16;

/// Maximum number of inputs per activation scale, and the multiple to which the inputs of every panel
/// are padded.
pub const GROUP: usize = 64;

/// Bytes per f32.
pub(crate) const F32_BYTES: usize = size_of::<f32>();

/// Bytes per line of a panel, one f32 for each row: one cache line.
pub const LINE: usize = LANES * F32_BYTES;

/// Number of adjacent inputs of a row in a line of 8-bit weights.
pub const QUAD: usize = LINE / LANES;

/// Alignment of sections, tensors and the section table: one cache line.
pub const ALIGN: u64 = 64;

/// Alignment of the data section.
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
