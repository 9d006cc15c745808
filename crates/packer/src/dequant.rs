//! Number formats of source weights and their conversion to f32.
//!
//! The quantized blocks are ggml's (`ggml-quants.c`); every expression keeps that file's order of
//! operations, so the f32 values are bit-for-bit identical to those of llama.cpp and the `gguf`
//! Python package.

mod blocks;
mod lattice;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// The number format of a source tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)] // ggml's own names
pub(crate) enum Dtype {
    F32,
    F16,
    BF16,
    F64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
    IQ2_XXS,
    IQ2_XS,
    IQ3_XXS,
    IQ1_S,
    IQ3_S,
    IQ2_S,
    IQ1_M,
    TQ1_0,
    TQ2_0,
    NVFP4,
    Q1_0,
    Q2_0,
    F8_E4M3,
    F8_E5M2,
    F8_E8M0,
    I8,
    U8,
    I32,
    I64,
}

impl Dtype {
    /// Name, ggml type number, values per block, bytes per block.
    const TABLE: [(Dtype, &'static str, Option<u32>, usize, usize); 36] = [
        (Dtype::F32, "F32", Some(0), 1, 4),
        (Dtype::F16, "F16", Some(1), 1, 2),
        (Dtype::BF16, "BF16", Some(30), 1, 2),
        (Dtype::F64, "F64", Some(28), 1, 8),
        (Dtype::Q4_0, "Q4_0", Some(2), 32, 18),
        (Dtype::Q4_1, "Q4_1", Some(3), 32, 20),
        (Dtype::Q5_0, "Q5_0", Some(6), 32, 22),
        (Dtype::Q5_1, "Q5_1", Some(7), 32, 24),
        (Dtype::Q8_0, "Q8_0", Some(8), 32, 34),
        (Dtype::Q2_K, "Q2_K", Some(10), 256, 84),
        (Dtype::Q3_K, "Q3_K", Some(11), 256, 110),
        (Dtype::Q4_K, "Q4_K", Some(12), 256, 144),
        (Dtype::Q5_K, "Q5_K", Some(13), 256, 176),
        (Dtype::Q6_K, "Q6_K", Some(14), 256, 210),
        (Dtype::IQ4_NL, "IQ4_NL", Some(20), 32, 18),
        (Dtype::IQ4_XS, "IQ4_XS", Some(23), 256, 136),
        (Dtype::MXFP4, "MXFP4", Some(39), 32, 17),
        (Dtype::IQ2_XXS, "IQ2_XXS", Some(16), 256, 66),
        (Dtype::IQ2_XS, "IQ2_XS", Some(17), 256, 74),
        (Dtype::IQ3_XXS, "IQ3_XXS", Some(18), 256, 98),
        (Dtype::IQ1_S, "IQ1_S", Some(19), 256, 50),
        (Dtype::IQ3_S, "IQ3_S", Some(21), 256, 110),
        (Dtype::IQ2_S, "IQ2_S", Some(22), 256, 82),
        (Dtype::IQ1_M, "IQ1_M", Some(29), 256, 56),
        (Dtype::TQ1_0, "TQ1_0", Some(34), 256, 54),
        (Dtype::TQ2_0, "TQ2_0", Some(35), 256, 66),
        (Dtype::NVFP4, "NVFP4", Some(40), 64, 36),
        (Dtype::Q1_0, "Q1_0", Some(41), 128, 18),
        (Dtype::Q2_0, "Q2_0", Some(42), 64, 18),
        (Dtype::F8_E4M3, "F8_E4M3", None, 1, 1),
        (Dtype::F8_E5M2, "F8_E5M2", None, 1, 1),
        (Dtype::F8_E8M0, "F8_E8M0", None, 1, 1),
        (Dtype::I8, "I8", None, 1, 1),
        (Dtype::U8, "U8", None, 1, 1),
        (Dtype::I32, "I32", None, 1, 4),
        (Dtype::I64, "I64", None, 1, 8),
    ];

    /// The format with this ggml type number.
    pub(crate) fn from_ggml(number: u32) -> Option<Self> {
        Self::TABLE.iter().find(|t| t.2 == Some(number)).map(|t| t.0)
    }

    /// The format with this name in safetensors.
    pub(crate) fn from_safetensors(name: &str) -> Option<Self> {
        let plain = |t: &&(Dtype, &str, Option<u32>, usize, usize)| t.3 == 1 && t.1 == name;
        Self::TABLE.iter().find(plain).map(|t| t.0)
    }

    /// The names of the formats of GGUF files, for messages.
    pub(crate) fn ggml_names() -> String {
        let known = Self::TABLE.iter().filter(|t| t.2.is_some());
        known.map(|t| t.1).collect::<Vec<_>>().join(", ")
    }

    /// Whether the values are weights by themselves, without a scale.
    pub(crate) fn is_complete(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16 | Self::F64) || self.block() > 1
    }

    fn row(self) -> &'static (Dtype, &'static str, Option<u32>, usize, usize) {
        &Self::TABLE[Self::TABLE.iter().position(|t| t.0 == self).expect("every format has a row")]
    }

    pub(crate) fn name(self) -> &'static str {
        self.row().1
    }

    /// Values per block.
    pub(crate) fn block(self) -> usize {
        self.row().3
    }

    /// Bytes per block.
    pub(crate) fn bytes(self) -> usize {
        self.row().4
    }

    /// Converts whole blocks to f32. `raw` and `out` have the same number of blocks.
    pub(crate) fn dequantize(self, raw: &[u8], out: &mut [f32]) {
        debug_assert_eq!(raw.len() / self.bytes(), out.len() / self.block());
        match self {
            Self::F32 => {
                for (b, o) in raw.as_chunks().0.iter().zip(out) {
                    *o = f32::from_le_bytes(*b);
                }
            }
            Self::F16 => f16s(raw, out),
            Self::BF16 => {
                for (b, o) in raw.as_chunks().0.iter().zip(out) {
                    *o = bf16::from_le_bytes(*b).to_f32();
                }
            }
            // Rounded once, to nearest; values beyond the range of f32 become infinite, which packing
            // rejects.
            Self::F64 => {
                for (b, o) in raw.as_chunks().0.iter().zip(out) {
                    *o = f64::from_le_bytes(*b) as f32;
                }
            }
            Self::Q4_0 => each(raw, out, blocks::q4_0),
            Self::Q4_1 => each(raw, out, blocks::q4_1),
            Self::Q5_0 => each(raw, out, blocks::q5_0),
            Self::Q5_1 => each(raw, out, blocks::q5_1),
            Self::Q8_0 => each(raw, out, blocks::q8_0),
            Self::Q2_K => each(raw, out, blocks::q2_k),
            Self::Q3_K => each(raw, out, blocks::q3_k),
            Self::Q4_K => each(raw, out, blocks::q4_k),
            Self::Q5_K => each(raw, out, blocks::q5_k),
            Self::Q6_K => each(raw, out, blocks::q6_k),
            Self::IQ4_NL => each(raw, out, blocks::iq4_nl),
            Self::IQ4_XS => each(raw, out, blocks::iq4_xs),
            Self::MXFP4 => each(raw, out, blocks::mxfp4),
            Self::IQ2_XXS => each(raw, out, lattice::iq2_xxs),
            Self::IQ2_XS => each(raw, out, lattice::iq2_xs),
            Self::IQ3_XXS => each(raw, out, lattice::iq3_xxs),
            Self::IQ1_S => each(raw, out, lattice::iq1_s),
            Self::IQ3_S => each(raw, out, lattice::iq3_s),
            Self::IQ2_S => each(raw, out, lattice::iq2_s),
            Self::IQ1_M => each(raw, out, lattice::iq1_m),
            Self::TQ1_0 => each(raw, out, lattice::tq1_0),
            Self::TQ2_0 => each(raw, out, lattice::tq2_0),
            Self::NVFP4 => each(raw, out, blocks::nvfp4),
            Self::Q1_0 => each(raw, out, lattice::q1_0),
            Self::Q2_0 => each(raw, out, lattice::q2_0),
            Self::F8_E4M3 => each(raw, out, |b: &[u8; 1], o: &mut [f32; 1]| o[0] = e4m3(b[0])),
            Self::F8_E5M2 => each(raw, out, |b: &[u8; 1], o: &mut [f32; 1]| o[0] = e5m2(b[0])),
            Self::F8_E8M0 => each(raw, out, |b: &[u8; 1], o: &mut [f32; 1]| o[0] = e8m0(b[0])),
            Self::I8 => {
                each(raw, out, |b: &[u8; 1], o: &mut [f32; 1]| o[0] = f32::from(b[0] as i8))
            }
            Self::U8 => each(raw, out, |b: &[u8; 1], o: &mut [f32; 1]| o[0] = f32::from(b[0])),
            Self::I32 => each(raw, out, |b, o: &mut [f32; 1]| o[0] = i32::from_le_bytes(*b) as f32),
            Self::I64 => each(raw, out, |b, o: &mut [f32; 1]| o[0] = i64::from_le_bytes(*b) as f32),
        }
    }
}

fn each<const BYTES: usize, const N: usize>(
    raw: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; N]),
) {
    for (b, o) in raw.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        block(b, o);
    }
}

/// Converts slices: the `half` crate selects the CPU's conversion instruction once per call, not
/// per value.
fn f16s(raw: &[u8], out: &mut [f32]) {
    for (raw, out) in raw.chunks(512).zip(out.chunks_mut(256)) {
        let mut halves = [f16::ZERO; 256];
        for (h, b) in halves.iter_mut().zip(raw.as_chunks().0) {
            *h = f16::from_le_bytes(*b);
        }
        halves[..out.len()].convert_to_f32_slice(out);
    }
}

/// The 8-bit float with 4 exponent bits and 3 mantissa bits (E4M3FN): it has no infinities.
pub(crate) fn e4m3(b: u8) -> f32 {
    // The same bits are an f16, but for the bias of the exponent.
    match b & 0x7f {
        0x7f => f32::NAN,
        magnitude => {
            let value = f16::from_bits(u16::from(magnitude) << 7).to_f32() * 256.0;
            if b & 0x80 == 0 { value } else { -value }
        }
    }
}

/// The 8-bit float with 5 exponent bits and 2 mantissa bits: the upper half of an f16.
fn e5m2(b: u8) -> f32 {
    f16::from_bits(u16::from(b) << 8).to_f32()
}

/// A power of two, from −127 to 127.
pub(crate) fn e8m0(b: u8) -> f32 {
    match b {
        0 => f32::from_bits(1 << 22), // subnormal
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(b) << 23),
    }
}
