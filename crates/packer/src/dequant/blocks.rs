//! ggml's formats of 4 bits and more, and those of Q2_K and Q3_K.

use half::f16;

pub(super) fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

pub(super) fn bits_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

// Value i of the first half of a block is the low nibble of byte i; value i of the second half is
// its high nibble.

pub(super) fn q4_0(b: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(b, 0);
    for (i, &q) in b[2..].iter().enumerate() {
        out[i] = d * (f32::from(q & 15) - 8.0);
        out[i + 16] = d * (f32::from(q >> 4) - 8.0);
    }
}

pub(super) fn q4_1(b: &[u8; 20], out: &mut [f32; 32]) {
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

pub(super) fn q5_0(b: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(b, 0);
    q5(&b[6..], bits_at(b, 2), |i, q| out[i] = d * (q - 16.0));
}

pub(super) fn q5_1(b: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    q5(&b[8..], bits_at(b, 4), |i, q| out[i] = d * q + m);
}

pub(super) fn q8_0(b: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(b, 0);
    for (o, &q) in out.iter_mut().zip(&b[2..]) {
        *o = f32::from(q as i8) * d;
    }
}

/// Q2_K and Q3_K: bit pair `i` of 256; four values 32 apart share a byte.
pub(super) fn pair(quants: &[u8], i: usize) -> u8 {
    quants[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

/// Q2_K: 16 sub-blocks of 16, each with a 4-bit scale and a 4-bit minimum.
pub(super) fn q2_k(b: &[u8; 84], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(b, 80), half_at(b, 82));
    for (i, o) in out.iter_mut().enumerate() {
        let scale = b[i / 16];
        let (d, m) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
        *o = d * f32::from(pair(&b[16..80], i)) - m;
    }
}

/// Q3_K: 16 sub-blocks of 16; 32 bytes of high bits (set = nothing subtracted), 64 bytes of low bit
/// pairs, and 12 bytes of 6-bit scales (first the low nibbles, then the high bit pairs).
pub(super) fn q3_k(b: &[u8; 110], out: &mut [f32; 256]) {
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

pub(super) fn q4_k(b: &[u8; 144], out: &mut [f32; 256]) {
    qx_k(&b[..16], &b[16..], |_, _| 0, out);
}

pub(super) fn q5_k(b: &[u8; 176], out: &mut [f32; 256]) {
    qx_k(&b[..16], &b[48..], |j, i| b[16 + i] >> j & 1, out);
}

/// Q6_K: two halves of 128 values, each with 64 bytes of low nibbles, 32 bytes of high bit pairs
/// and 8 scales.
pub(super) fn q6_k(b: &[u8; 210], out: &mut [f32; 256]) {
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

/// Decodes bytes of indices into `values` and multiplies by `d`: low nibbles first, then high nibbles.
fn codes(d: f32, quants: &[u8], values: &[i8; 16], out: &mut [f32]) {
    for (i, &q) in quants.iter().enumerate() {
        out[i] = d * f32::from(values[usize::from(q & 15)]);
        out[i + quants.len()] = d * f32::from(values[usize::from(q >> 4)]);
    }
}

pub(super) fn iq4_nl(b: &[u8; 18], out: &mut [f32; 32]) {
    codes(half_at(b, 0), &b[2..], &NONLINEAR, out);
}

/// IQ4_XS: 8 sub-blocks of 32, each with a 6-bit scale: the low 4 bits in bytes 4..8, the high 2
/// bits in bytes 2..4.
pub(super) fn iq4_xs(b: &[u8; 136], out: &mut [f32; 256]) {
    let (d, high) = (half_at(b, 0), u16::from_le_bytes([b[2], b[3]]));
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let low = b[4 + j / 2] >> (j % 2 * 4) & 15;
        let scale = i16::from(low) | ((high >> (2 * j) & 3) << 4) as i16;
        codes(d * f32::from(scale - 32), &b[8 + 16 * j..24 + 16 * j], &NONLINEAR, out);
    }
}

/// The values of 4-bit floats (1 sign bit, 2 exponent bits, 1 mantissa bit), doubled to make them integers.
const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// MXFP4 (OCP Microscaling v1.0): a power-of-two scale for 32 values. The values are doubled here and the scale
/// halved.
pub(super) fn mxfp4(b: &[u8; 17], out: &mut [f32; 32]) {
    // The two smallest scales are subnormal once halved.
    let bits = if b[0] < 2 { 0x0020_0000 << b[0] } else { u32::from(b[0] - 1) << 23 };
    codes(f32::from_bits(bits), &b[1..], &E2M1_DOUBLED, out);
}

/// NVFP4: four scales without a sign, each of 4 exponent bits and 3 mantissa bits, for 16 values. The values are
/// doubled here and the scale halved.
pub(super) fn nvfp4(b: &[u8; 36], out: &mut [f32; 64]) {
    for (j, out) in out.chunks_exact_mut(16).enumerate() {
        // As an f16, but for the bias of the exponent. ggml ignores the highest bit, and reads 0x7f as 0.
        let scale = f16::from_bits(u16::from(b[j] & 0x7f) << 7).to_f32() * 128.0;
        let d = if b[j] == 0x7f { 0.0 } else { scale };
        codes(d, &b[4 + 8 * j..12 + 8 * j], &E2M1_DOUBLED, out);
    }
}
