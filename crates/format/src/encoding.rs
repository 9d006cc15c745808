//! How numbers are stored, and what that means for the activations they are multiplied by.

use crate::units::{F32_BYTES, LANES, LINE};

/// How numbers are stored. `Q4Panel` is specified in `docs/FORMAT.md` and reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Encoding {
    /// Plain f32, row-major, K padded with zeros.
    F32 = 0,
    /// Plain u64.
    U64 = 1,
    /// Panels of 16 rows; line `j` of 64 bytes holds input `j` of the 16 rows.
    F32Panel = 2,
    /// Panels of 16 rows; one line of 16 f32 row scales, then `K/4` lines of 8-bit weights.
    Q8Panel = 3,
}

/// The type of the activations that a product takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActType {
    /// 8-bit integers with a scale for each group of inputs, in the Hadamard domain.
    Int8,
    /// f32, as they are.
    F32,
}

impl Encoding {
    /// The encoding with this number in a file.
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

    /// The activations that a product with weights in this encoding takes; `None` where there are
    /// no such products, as they are not panels.
    pub const fn act_type(self) -> Option<ActType> {
        match self {
            Self::F32 | Self::U64 => None,
            Self::F32Panel => Some(ActType::F32),
            Self::Q8Panel => Some(ActType::Int8),
        }
    }

    /// Whether rows come in panels of 16.
    pub fn is_panel(self) -> bool {
        self.act_type().is_some()
    }

    /// Bytes of one panel with `k` stored inputs; `None` if there are no panels or on overflow.
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

    /// Bytes of one value of an encoding without panels.
    pub(crate) fn plain_bytes(self) -> Option<usize> {
        match self {
            Self::F32 => Some(F32_BYTES),
            Self::U64 => Some(size_of::<u64>()),
            Self::F32Panel | Self::Q8Panel => None,
        }
    }
}
