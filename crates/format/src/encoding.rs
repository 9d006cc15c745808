//! Encodings of tensors, and the types of activations they are multiplied by.

use crate::units::{F32_BYTES, LANES, LINE};

/// Encoding of a tensor's numbers.
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
    /// Panels of 16 rows; a line of 16 f32 row scales, then trellis codes of 5 bits.
    Q5Panel = 5,
    /// The same with 4 bits.
    Q4Panel = 6,
    /// The same with 3 bits.
    Q3Panel = 7,
    /// The same with 2 bits.
    Q2Panel = 8,
}

/// States of the trellis code of all trellis-coded encodings.
pub(crate) const TRELLIS_STATES: u32 = 16;

/// Type of the activations in a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActType {
    /// 8-bit integers in the Hadamard domain with one scale per group of inputs.
    Int8,
    /// Unmodified f32.
    F32,
}

impl Encoding {
    const ALL: [Encoding; 8] = [
        Self::F32,
        Self::U64,
        Self::F32Panel,
        Self::Q8Panel,
        Self::Q5Panel,
        Self::Q4Panel,
        Self::Q3Panel,
        Self::Q2Panel,
    ];

    /// The encoding with the given number in a file.
    pub fn from_u32(v: u32) -> Option<Encoding> {
        Self::ALL.into_iter().find(|&e| e as u32 == v)
    }

    /// The trellis-coded encoding with `bits` bits per weight.
    pub fn trellis(bits: u8) -> Option<Encoding> {
        Self::ALL.into_iter().find(|e| e.trellis_bits() == Some(bits))
    }

    /// Bits per weight of a trellis-coded encoding; `None` for others.
    pub const fn trellis_bits(self) -> Option<u8> {
        match self {
            Self::F32 | Self::U64 | Self::F32Panel | Self::Q8Panel => None,
            Self::Q5Panel => Some(5),
            Self::Q4Panel => Some(4),
            Self::Q3Panel => Some(3),
            Self::Q2Panel => Some(2),
        }
    }

    /// Short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::U64 => "u64",
            Self::F32Panel => "f32 panel",
            Self::Q8Panel => "q8 panel",
            Self::Q5Panel => "q5 panel",
            Self::Q4Panel => "q4 panel",
            Self::Q3Panel => "q3 panel",
            Self::Q2Panel => "q2 panel",
        }
    }

    /// The activation type of products with weights in this encoding; `None` for encodings without
    /// panels, which no product uses.
    pub const fn act_type(self) -> Option<ActType> {
        match self {
            Self::F32 | Self::U64 => None,
            Self::F32Panel => Some(ActType::F32),
            _ => Some(ActType::Int8),
        }
    }

    /// Whether rows are stored in panels of 16.
    pub fn is_panel(self) -> bool {
        self.act_type().is_some()
    }

    /// Bytes per panel of `k` stored inputs; `None` for encodings without panels or on overflow.
    pub const fn panel_bytes(self, k: usize) -> Option<usize> {
        let Some(bits) = self.weight_bits() else { return None };
        let Some(weights) = (LANES * bits / 8).checked_mul(k) else { return None };
        // A line of scales precedes quantized weights.
        if matches!(self, Self::F32Panel) { Some(weights) } else { weights.checked_add(LINE) }
    }

    /// Bits per weight in a panel, without scales; `None` for encodings without panels.
    const fn weight_bits(self) -> Option<usize> {
        match (self, self.trellis_bits()) {
            (_, Some(bits)) => Some(bits as usize),
            (Self::F32Panel, _) => Some(8 * F32_BYTES),
            (Self::Q8Panel, _) => Some(8),
            _ => None,
        }
    }

    /// Bytes per value of an encoding without panels.
    pub(crate) fn plain_bytes(self) -> Option<usize> {
        match self {
            Self::F32 => Some(F32_BYTES),
            Self::U64 => Some(size_of::<u64>()),
            _ => None,
        }
    }
}
