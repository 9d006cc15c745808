//! Encodings of tensors, and the types of activations they are multiplied by.

use crate::units::{F32_BYTES, LANES, LINE};

/// Encoding of a tensor's numbers. `Q4Panel` is specified in `docs/FORMAT.md` and reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Encoding {
    /// Plain row-major f32, with K zero-padded.
    F32 = 0,
    /// Plain u64.
    U64 = 1,
    /// Panels of 16 rows; line `j` of 64 bytes holds input `j` of the 16 rows.
    F32Panel = 2,
    /// Panels of 16 rows; a line of 16 f32 row scales, then `K/4` lines of 8-bit weights.
    Q8Panel = 3,
}

/// Type of the activations in a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActType {
    /// 8-bit integers in the Hadamard domain with one scale per group of inputs.
    Int8,
    /// Unmodified f32.
    F32,
}

impl Encoding {
    /// The encoding with the given number in a file.
    pub fn from_u32(v: u32) -> Option<Encoding> {
        [Self::F32, Self::U64, Self::F32Panel, Self::Q8Panel].into_iter().find(|&e| e as u32 == v)
    }

    /// Short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::U64 => "u64",
            Self::F32Panel => "f32 panel",
            Self::Q8Panel => "q8 panel",
        }
    }

    /// The activation type of products with weights in this encoding; `None` for encodings without
    /// panels, which no product uses.
    pub const fn act_type(self) -> Option<ActType> {
        match self {
            Self::F32 | Self::U64 => None,
            Self::F32Panel => Some(ActType::F32),
            Self::Q8Panel => Some(ActType::Int8),
        }
    }

    /// Whether rows are stored in panels of 16.
    pub fn is_panel(self) -> bool {
        self.act_type().is_some()
    }

    /// Bytes per panel of `k` stored inputs; `None` for encodings without panels or on overflow.
    pub const fn panel_bytes(self, k: usize) -> Option<usize> {
        match self {
            Self::F32 | Self::U64 => None,
            Self::F32Panel => LINE.checked_mul(k),
            Self::Q8Panel => match LANES.checked_mul(k) {
                Some(weights) => weights.checked_add(LINE), // the scales
                None => None,
            },
        }
    }

    /// Bytes per value of an encoding without panels.
    pub(crate) fn plain_bytes(self) -> Option<usize> {
        match self {
            Self::F32 => Some(F32_BYTES),
            Self::U64 => Some(size_of::<u64>()),
            Self::F32Panel | Self::Q8Panel => None,
        }
    }
}
