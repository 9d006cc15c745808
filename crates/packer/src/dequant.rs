//! Number formats of source weights and their conversion to f32.
//!
//! The quantized blocks are ggml's (`ggml-quants.c`); every expression keeps that file's order of
//! operations, so the f32 values are bit-for-bit identical to those of llama.cpp and the `gguf`
//! Python package.

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
}

impl Dtype {
    /// Name, ggml type number, values per block, bytes per block.
    const TABLE: [(Dtype, &'static str, u32, usize, usize); 17] = [
        (Dtype::F32, "F32", 0, 1, 4),
        (Dtype::F16, "F16", 1, 1, 2),
        (Dtype::BF16, "BF16", 30, 1, 2),
        (Dtype::F64, "F64", 28, 1, 8),
        (Dtype::Q4_0, "Q4_0", 2, 32, 18),
        (Dtype::Q4_1, "Q4_1", 3, 32, 20),
        (Dtype::Q5_0, "Q5_0", 6, 32, 22),
        (Dtype::Q5_1, "Q5_1", 7, 32, 24),
        (Dtype::Q8_0, "Q8_0", 8, 32, 34),
        (Dtype::Q2_K, "Q2_K", 10, 256, 84),
        (Dtype::Q3_K, "Q3_K", 11, 256, 110),
        (Dtype::Q4_K, "Q4_K", 12, 256, 144),
        (Dtype::Q5_K, "Q5_K", 13, 256, 176),
        (Dtype::Q6_K, "Q6_K", 14, 256, 210),
        (Dtype::IQ4_NL, "IQ4_NL", 20, 32, 18),
        (Dtype::IQ4_XS, "IQ4_XS", 23, 256, 136),
        (Dtype::MXFP4, "MXFP4", 39, 32, 17),
    ];

    /// The format with this ggml type number.
    pub(crate) fn from_ggml(number: u32) -> Option<Self> {
        Self::TABLE.iter().find(|t| t.2 == number).map(|t| t.0)
    }

    /// The format with this name in safetensors.
    pub(crate) fn from_safetensors(name: &str) -> Option<Self> {
        Self::TABLE[..4].iter().find(|t| t.1 == name).map(|t| t.0)
    }

    /// The names of all formats, for messages.
    pub(crate) fn all_names() -> String {
        Self::TABLE.map(|t| t.1).join(", ")
    }

    fn row(self) -> &'static (Dtype, &'static str, u32, usize, usize) {
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
            Self::Q4_0 => each(raw, out, q4_0),
            Self::Q4_1 => each(raw, out, q4_1),
            Self::Q5_0 => each(raw, out, q5_0),
            Self::Q5_1 => each(raw, out, q5_1),
            Self::Q8_0 => each(raw, out, q8_0),
            Self::Q2_K => each(raw, out, q2_k),
            Self::Q3_K => each(raw, out, q3_k),
            Self::Q4_K => each(raw, out, q4_k),
            Self::Q5_K => each(raw, out, q5_k),
            Self::Q6_K => each(raw, out, q6_k),
            Self::IQ4_NL => each(raw, out, iq4_nl),
            Self::IQ4_XS => each(raw, out, iq4_xs),
            Self::MXFP4 => each(raw, out, mxfp4),
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

fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

fn bits_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

// Value i of the first half of a block is the low nibble of byte i; value i of the second half is
// its high nibble.

fn q4_0(b: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(b, 0);
    for (i, &q) in b[2..].iter().enumerate() {
        out[i] = d * (f32::from(q & 15) - 8.0);
        out[i + 16] = d * (f32::from(q >> 4) - 8.0);
    }
}

fn q4_1(b: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    for (i, &q) in b[4..].iter().enumerate() {
        out[i] = d * f32::from(q & 15) + m;
        out[i + 16] = d * f32::from(q >> 4) + m;
    }
}

/// The fifth bit of value `i` is bit `i` of a u32.
fn q5(quants: &[u8], high: u32, mut put: impl FnMut(usize, f32)) {
    for (i, &q) in quants.iter().enumerate() {
        let (h0, h1) = ((high >> i) & 1, (high >> (i + 16)) & 1);
        put(i, (u32::from(q & 15) | h0 << 4) as f32);
        put(i + 16, (u32::from(q >> 4) | h1 << 4) as f32);
    }
}

fn q5_0(b: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(b, 0);
    q5(&b[6..], bits_at(b, 2), |i, q| out[i] = d * (q - 16.0));
}

fn q5_1(b: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    q5(&b[8..], bits_at(b, 4), |i, q| out[i] = d * q + m);
}

fn q8_0(b: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(b, 0);
    for (o, &q) in out.iter_mut().zip(&b[2..]) {
        *o = f32::from(q as i8) * d;
    }
}

/// Q2_K and Q3_K: bit pair `i` of 256; four values 32 apart share a byte.
fn pair(quants: &[u8], i: usize) -> u8 {
    quants[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

/// Q2_K: 16 sub-blocks of 16, each with a 4-bit scale and a 4-bit minimum.
fn q2_k(b: &[u8; 84], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(b, 80), half_at(b, 82));
    for (i, o) in out.iter_mut().enumerate() {
        let scale = b[i / 16];
        let (d, m) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
        *o = d * f32::from(pair(&b[16..80], i)) - m;
    }
}

/// Q3_K: 16 sub-blocks of 16; 32 bytes of high bits (set = nothing subtracted), 64 bytes of low bit
/// pairs, and 12 bytes of 6-bit scales (first the low nibbles, then the high bit pairs).
fn q3_k(b: &[u8; 110], out: &mut [f32; 256]) {
    let d = half_at(b, 108);
    for (i, o) in out.iter_mut().enumerate() {
        let s = i / 16;
        let (low, high) = (b[96 + s % 8] >> (s / 8 * 4) & 15, b[104 + s % 4] >> (s / 4 * 2) & 3);
        let scale = f32::from((low | high << 4) as i8 - 32);
        let below = if b[i % 32] >> (i / 32) & 1 == 0 { 4 } else { 0 };
        *o = d * scale * f32::from(pair(&b[32..96], i) as i8 - below);
    }
}

/// Scale and minimum of sub-block `j` of 8, 6 bits each, packed in 12 bytes.
fn scale_min(s: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// Q4_K and Q5_K: 8 sub-blocks of 32; two sub-blocks share 32 bytes, as low and high nibbles.
fn qx_k(head: &[u8], quants: &[u8], high: impl Fn(usize, usize) -> u8, out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(head, 0), half_at(head, 2));
    let scales = &head[4..16];
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_min(scales, j);
        let (d, m) = (d * scale, dmin * min);
        for (i, o) in out.iter_mut().enumerate() {
            let low = quants[j / 2 * 32 + i] >> (j % 2 * 4) & 15;
            *o = d * f32::from(low | high(j, i) << 4) - m;
        }
    }
}

fn q4_k(b: &[u8; 144], out: &mut [f32; 256]) {
    qx_k(&b[..16], &b[16..], |_, _| 0, out);
}

fn q5_k(b: &[u8; 176], out: &mut [f32; 256]) {
    qx_k(&b[..16], &b[48..], |j, i| b[16 + i] >> j & 1, out);
}

/// Q6_K: two halves of 128 values, each with 64 bytes of low nibbles, 32 bytes of high bit pairs
/// and 8 scales.
fn q6_k(b: &[u8; 210], out: &mut [f32; 256]) {
    let d = half_at(b, 208);
    for (h, out) in out.chunks_exact_mut(128).enumerate() {
        let (low, high) = (&b[64 * h..64 * h + 64], &b[128 + 32 * h..160 + 32 * h]);
        let scales = &b[192 + 8 * h..200 + 8 * h];
        for (i, o) in out.iter_mut().enumerate() {
            let l = low[i % 64] >> (i / 64 * 4) & 15;
            let q = l | (high[i % 32] >> (i / 32 * 2) & 3) << 4;
            *o = d * f32::from(scales[i / 16] as i8) * (f32::from(q) - 32.0);
        }
    }
}

/// The 16 values of IQ4_NL and IQ4_XS: finer near zero, where weights are dense.
const NONLINEAR: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Decodes 16 bytes of indices into `values` and multiplies by `d`: low nibbles first, then high
/// nibbles.
fn codes(d: f32, quants: &[u8], values: &[i8; 16], out: &mut [f32]) {
    for (i, &q) in quants.iter().enumerate() {
        out[i] = d * f32::from(values[usize::from(q & 15)]);
        out[i + 16] = d * f32::from(values[usize::from(q >> 4)]);
    }
}

fn iq4_nl(b: &[u8; 18], out: &mut [f32; 32]) {
    codes(half_at(b, 0), &b[2..], &NONLINEAR, out);
}

/// IQ4_XS: 8 sub-blocks of 32, each with a 6-bit scale: the low 4 bits in bytes 4..8, the high 2
/// bits in bytes 2..4.
fn iq4_xs(b: &[u8; 136], out: &mut [f32; 256]) {
    let (d, high) = (half_at(b, 0), u16::from_le_bytes([b[2], b[3]]));
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let low = b[4 + j / 2] >> (j % 2 * 4) & 15;
        let scale = i16::from(low) | ((high >> (2 * j) & 3) << 4) as i16;
        codes(d * f32::from(scale - 32), &b[8 + 16 * j..24 + 16 * j], &NONLINEAR, out);
    }
}

/// MXFP4 (OCP Microscaling v1.0): a power-of-two scale for 32 values, each with 1 sign bit, 2
/// exponent bits and 1 mantissa bit. The values are doubled here and the scale halved, so that the
/// values are integers.
fn mxfp4(b: &[u8; 17], out: &mut [f32; 32]) {
    const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
    // The two smallest scales are subnormal once halved.
    let bits = if b[0] < 2 { 0x0020_0000 << b[0] } else { u32::from(b[0] - 1) << 23 };
    codes(f32::from_bits(bits), &b[1..], &DOUBLED, out);
}
