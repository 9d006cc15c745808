//! ggml's formats below 4 bits: IQ3, IQ2 and IQ1 have points of a lattice with a table each, TQ1 and TQ2 are
//! ternary, Q1_0 has signs only and Q2_0 four levels.
//!
//! The points are in `grids.bin`, which `tools/make_ggml_grids.py` writes. They are those of ggml
//! (<https://github.com/ggml-org/ggml>, MIT licence, Copyright 2023-2026 The ggml authors).

use super::blocks::{bits_at, half_at, pair};

/// A 16-bit number for each point.
static GRIDS: &[u8; 2 * 4608] = include_bytes!("grids.bin");

/// The first point of each lattice.
const IQ2_XXS: usize = 0;
const IQ2_XS: usize = 256;
const IQ2_S: usize = 768;
const IQ3_XXS: usize = 1792;
const IQ3_S: usize = 2048;
const IQ1: usize = 2560;

/// The values of one position of IQ2; IQ3_XXS; IQ3_S; IQ1.
const IQ2_VALUES: [f32; 4] = [8.0, 25.0, 43.0, 0.0];
const IQ3_XXS_VALUES: [f32; 8] = [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0];
const IQ3_S_VALUES: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];
const IQ1_VALUES: [f32; 4] = [-1.0, 0.0, 1.0, 0.0];

/// The `N` values of a point, each an index of `BITS` bits into `values`.
fn point<const N: usize>(point: usize, values: &[f32]) -> [f32; N] {
    let (bits, code) = (16 / N as u32 - u32::from(N == 4), u16_at(GRIDS, 2 * point));
    std::array::from_fn(|j| values[usize::from(code >> (bits * j as u32)) & (values.len() - 1)])
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

/// Value `i` of a list of nibbles.
fn nibble(b: &[u8], i: usize) -> u8 {
    b[i / 2] >> (i % 2 * 4) & 15
}

/// Multiplies the values of points by `d`, and by −1 where a bit of `signs` is set.
fn signed(d: f32, values: impl IntoIterator<Item = f32>, signs: u8, out: &mut [f32]) {
    for (j, (o, v)) in out.iter_mut().zip(values).enumerate() {
        *o = d * v * if signs >> j & 1 == 0 { 1.0 } else { -1.0 };
    }
}

/// The 8 signs of which 7 are stored: the number of negative ones is even.
fn even(signs: u32) -> u8 {
    let signs = (signs & 127) as u8;
    signs | (signs.count_ones() as u8 & 1) << 7
}

/// 8 sub-blocks of 32, each with four indices, then four times 7 signs and a 4-bit scale.
pub(super) fn iq2_xxs(b: &[u8; 66], out: &mut [f32; 256]) {
    let d = half_at(b, 0);
    for (j, out) in out.chunks_exact_mut(8).enumerate() {
        let sub = &b[2 + j / 4 * 8..][..8];
        let (index, bits) = (sub[j % 4], bits_at(sub, 4));
        let d = d * (0.5 + (bits >> 28) as f32) * 0.25;
        let values = point::<8>(IQ2_XXS + usize::from(index), &IQ2_VALUES);
        signed(d, values, even(bits >> (j % 4 * 7)), out);
    }
}

/// 9 bits of index and 7 signs for 8 values; a 4-bit scale for 16.
pub(super) fn iq2_xs(b: &[u8; 74], out: &mut [f32; 256]) {
    let d = half_at(b, 0);
    for (j, out) in out.chunks_exact_mut(8).enumerate() {
        let code = u16_at(b, 2 + 2 * j);
        let d = d * (0.5 + f32::from(nibble(&b[66..], j / 2))) * 0.25;
        let values = point::<8>(IQ2_XS + usize::from(code & 511), &IQ2_VALUES);
        signed(d, values, even(u32::from(code >> 9)), out);
    }
}

/// 8 low bits of index for 8 values, their signs, 2 high bits; a 4-bit scale for 16.
pub(super) fn iq2_s(b: &[u8; 82], out: &mut [f32; 256]) {
    let d = half_at(b, 0);
    for (j, out) in out.chunks_exact_mut(8).enumerate() {
        let high = b[66 + j / 4] >> (j % 4 * 2) & 3;
        let index = usize::from(b[2 + j]) | usize::from(high) << 8;
        let d = d * (0.5 + f32::from(nibble(&b[74..], j / 2))) * 0.25;
        signed(d, point::<8>(IQ2_S + index, &IQ2_VALUES), b[34 + j], out);
    }
}

/// Two indices for 8 values; four times 7 signs and a 4-bit scale for 32.
pub(super) fn iq3_xxs(b: &[u8; 98], out: &mut [f32; 256]) {
    let d = half_at(b, 0);
    for (j, out) in out.chunks_exact_mut(8).enumerate() {
        let bits = bits_at(b, 66 + j / 4 * 4);
        let d = d * (0.5 + (bits >> 28) as f32) * 0.5;
        let four = |i: usize| point::<4>(IQ3_XXS + usize::from(b[2 + i]), &IQ3_XXS_VALUES);
        let values = four(2 * j).into_iter().chain(four(2 * j + 1));
        signed(d, values, even(bits >> (j % 4 * 7)), out);
    }
}

/// Low 8 bits of index for 4 values, a high bit; signs; a 4-bit scale for 32.
pub(super) fn iq3_s(b: &[u8; 110], out: &mut [f32; 256]) {
    let d = half_at(b, 0);
    for (j, out) in out.chunks_exact_mut(8).enumerate() {
        let d = d * (1.0 + 2.0 * f32::from(nibble(&b[106..], j / 4)));
        let four = |i: usize| {
            let high = b[66 + i / 8] >> (i % 8) & 1;
            let index = usize::from(b[2 + i]) | usize::from(high) << 8;
            point::<4>(IQ3_S + index, &IQ3_S_VALUES)
        };
        let values = four(2 * j).into_iter().chain(four(2 * j + 1));
        signed(d, values, b[74 + j], out);
    }
}

/// `d` times the values of a point, shifted by an eighth.
fn shifted(d: f32, index: usize, down: bool, out: &mut [f32]) {
    let delta = if down { -0.125 } else { 0.125 };
    for (o, v) in out.iter_mut().zip(point::<8>(IQ1 + index, &IQ1_VALUES)) {
        *o = d * (v + delta);
    }
}

/// Low 8 bits of index for 8 values; for 32, four times 3 high bits, a 3-bit scale and the sign of the shift.
pub(super) fn iq1_s(b: &[u8; 50], out: &mut [f32; 256]) {
    let d = half_at(b, 0);
    for (j, out) in out.chunks_exact_mut(8).enumerate() {
        let high = u16_at(b, 34 + j / 4 * 2);
        let d = d * f32::from(2 * (high >> 12 & 7) + 1);
        let index = usize::from(b[2 + j]) | usize::from(high >> (j % 4 * 3) & 7) << 8;
        shifted(d, index, high & 0x8000 != 0, out);
    }
}

/// Low 8 bits of index for 8 values; 3 high bits and the sign of the shift; a 3-bit scale for 16. The scale of
/// all is in the highest 4 bits of the four words of scales.
pub(super) fn iq1_m(b: &[u8; 56], out: &mut [f32; 256]) {
    let word = |i: usize| u16_at(b, 48 + 2 * i);
    let bits = (0..4).fold(0, |bits, i| bits | word(i) >> 12 << (4 * i));
    let d = half::f16::from_bits(bits).to_f32();
    for (j, out) in out.chunks_exact_mut(8).enumerate() {
        let high = nibble(&b[32..], j);
        let scale = word(j / 8) >> (j % 8 / 2 * 3) & 7;
        let index = usize::from(b[j]) | usize::from(high & 7) << 8;
        shifted(d * f32::from(2 * scale + 1), index, high & 8 != 0, out);
    }
}

/// The values −1, 0 and 1 in base 3, five to a byte: 32 bytes, 16 bytes, and 4 bytes with four each. A byte is
/// the fraction of 256 whose next digits in base 3 are the values.
pub(super) fn tq1_0(b: &[u8; 54], out: &mut [f32; 256]) {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let d = half_at(b, 52);
    let values = [(0..32, 5), (32..48, 5), (48..52, 4)].into_iter().flat_map(|(bytes, digits)| {
        POWERS[..digits].iter().flat_map(move |power| {
            b[bytes.clone()].iter().map(|q| (u16::from(q.wrapping_mul(*power)) * 3) >> 8)
        })
    });
    for (o, v) in out.iter_mut().zip(values) {
        *o = d * (f32::from(v) - 1.0);
    }
}

/// Two bits each; four values 32 apart share a byte.
pub(super) fn tq2_0(b: &[u8; 66], out: &mut [f32; 256]) {
    let d = half_at(b, 64);
    for (i, o) in out.iter_mut().enumerate() {
        *o = d * (f32::from(pair(&b[..64], i)) - 1.0);
    }
}

/// One bit each, set for `d` and clear for `−d`.
pub(super) fn q1_0(b: &[u8; 18], out: &mut [f32; 128]) {
    let d = half_at(b, 0);
    for (i, o) in out.iter_mut().enumerate() {
        *o = if b[2 + i / 8] >> (i % 8) & 1 == 0 { -d } else { d };
    }
}

/// Two bits each, for −1, 0, 1 and 2.
pub(super) fn q2_0(b: &[u8; 18], out: &mut [f32; 64]) {
    let d = half_at(b, 0);
    for (i, o) in out.iter_mut().enumerate() {
        *o = (f32::from(b[2 + i / 4] >> (i % 4 * 2) & 3) - 1.0) * d;
    }
}
