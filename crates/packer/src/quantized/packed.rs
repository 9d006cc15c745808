//! The format `pack-quantized` of compressed-tensors: integers of 1 to 8 bits in 32-bit words.
//!
//! ```text
//! weight_packed      [outputs, inputs · bits / 32]   the codes of an output follow each other
//! weight_scale       [outputs, groups]
//! weight_zero_point  [outputs · bits / 32, groups]   those of a group follow each other
//! weight_g_idx       [inputs]                        the group of each input, in files before 2026
//! weight_shape       outputs and inputs
//! ```
//!
//! Weights are `(code − zero) · scale`, rounded to the format of the scales, as `dequantize` of compressed-tensors
//! computes them; without a zero, it is half the range of codes.

use std::ops::Range;

use super::bits::{code, words};
use super::parts::{FLOATS, Module, Part, Rounding, expect, expect_shape, fail};
use crate::Error;
use crate::dequant::Dtype;
use crate::source::{Dequantize, FileTensor, TensorSource};

struct Packed {
    bits: usize,
    shape: [usize; 2],
    codes: FileTensor,
    zeros: Option<FileTensor>,
    scales: FileTensor,
    /// The group of each input, if groups are not consecutive inputs.
    groups: Option<Vec<usize>>,
}

/// The weight of a module, of one of these numbers of bits.
pub(super) fn weight(mut m: Module, bits: &[usize]) -> Result<FileTensor, Error> {
    let codes = m.need(Part::Codes, ".weight_packed")?;
    let scales = m.need(Part::Scales, ".weight_scale")?;
    let stated = m.need(Part::Shape, ".weight_shape")?;
    let (zeros, listed) = (m.take(Part::Zeros), m.take(Part::Groups));
    m.take(Part::Global); // that of the activations
    expect(&codes, &[Dtype::I32])?;
    expect(&scales, &FLOATS)?;
    let shape = shape(&stated)?;
    let ([n, k], [rows, wide]) = (shape, codes.shape());
    let fits =
        |bits: &&usize| rows == n && k.checked_mul(**bits).is_some_and(|b| b.div_ceil(32) == wide);
    let Some(&bits) = bits.iter().find(fits) else {
        let what = format!(
            "has shape [{rows}, {wide}], which does not fit {bits:?} bits and the shape [{n}, {k}]"
        );
        return Err(fail(&codes, what));
    };
    let [a, groups] = scales.shape();
    if !(a == n || [a, groups] == [1, 1]) || !k.is_multiple_of(groups) {
        let what =
            format!("has shape [{a}, {groups}], which does not fit a weight of shape [{n}, {k}]");
        return Err(fail(&scales, what));
    }
    if let Some(zeros) = &zeros {
        expect(zeros, &[Dtype::I32])?;
        expect_shape(zeros, [(a * bits).div_ceil(32), groups])?;
    }
    let groups = listed.map(|listed| groups_of(&listed, k, groups)).transpose()?.flatten();
    let packed = codes.clone();
    m.finish(packed, shape, Packed { bits, shape, codes, zeros, scales, groups })
}

/// The stated shape.
fn shape(tensor: &FileTensor) -> Result<[usize; 2], Error> {
    expect(tensor, &[Dtype::I64, Dtype::I32])?;
    expect_shape(tensor, [2, 1])?;
    let bytes = tensor.bytes(0..2)?;
    let size = |i: usize| {
        let bytes = &bytes[i * bytes.len() / 2..][..bytes.len() / 2];
        let value = bytes.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        usize::try_from(value).ok().filter(|n| (1..1 << 32).contains(n))
    };
    match (size(0), size(1)) {
        (Some(n), Some(k)) => Ok([n, k]),
        _ => Err(fail(tensor, "is not the shape of a matrix")),
    }
}

/// The group of each input; `None` if they are not listed after all.
fn groups_of(tensor: &FileTensor, k: usize, groups: usize) -> Result<Option<Vec<usize>>, Error> {
    expect(tensor, &[Dtype::I32])?;
    expect_shape(tensor, [k, 1])?;
    let listed = words(&tensor.bytes(0..k)?);
    if listed.iter().all(|&group| group == u32::MAX) {
        return Ok(None);
    }
    match listed.iter().position(|&group| group as usize >= groups) {
        None => Ok(Some(listed.into_iter().map(|group| group as usize).collect())),
        Some(j) => {
            let what = format!("has group {} at input {j}, of {groups} groups", listed[j] as i32);
            Err(fail(tensor, what))
        }
    }
}

impl Dequantize for Packed {
    fn format(&self) -> (&'static str, f64) {
        const NAMES: [&str; 8] = ["INT1", "INT2", "INT3", "INT4", "INT5", "INT6", "INT7", "INT8"];
        let [n, k] = self.shape;
        let bits = self.bits as f64 + 8.0 * self.scales.stored_bytes() as f64 / (n * k) as f64;
        (NAMES[self.bits - 1], bits)
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        let (bits, k, wide) = (self.bits, self.shape[1], self.codes.shape()[1]);
        let [a, groups] = self.scales.shape();
        let codes = words(&self.codes.bytes(rows.clone())?);
        // One scale for all outputs is that of the first.
        let scaled = if a == 1 { 0..1 } else { rows.clone() };
        let mut scales = vec![0.0; scaled.len() * groups];
        self.scales.read_rows(scaled.clone(), &mut scales)?;
        let first = scaled.start * bits / 32;
        let zeros = match &self.zeros {
            None => None,
            Some(zeros) => Some(words(&zeros.bytes(first..(scaled.end * bits).div_ceil(32))?)),
        };
        let rounding = Rounding::of(self.scales.dtype());
        for ((i, codes), out) in codes.chunks_exact(wide).enumerate().zip(out.chunks_exact_mut(k)) {
            let i = if a == 1 { 0 } else { i };
            let zero = |group: usize| match &zeros {
                None => (1 << (bits - 1)) as f32,
                Some(zeros) => {
                    let at = (scaled.start + i) * bits - first * 32;
                    let word = |w: usize| zeros[(at / 32 + w) * groups + group];
                    let low = u64::from(word(0)) >> (at % 32);
                    let high =
                        if at % 32 + bits > 32 { u64::from(word(1)) << (32 - at % 32) } else { 0 };
                    ((low | high) & ((1 << bits) - 1)) as f32
                }
            };
            let levels: Vec<_> = (0..groups).map(|g| (zero(g), scales[i * groups + g])).collect();
            for (j, w) in out.iter_mut().enumerate() {
                let group = self.groups.as_ref().map_or(j / (k / groups), |listed| listed[j]);
                let (zero, scale) = levels[group];
                *w = rounding.round((code(bits, j, |w| codes[w]) as f32 - zero) * scale);
            }
        }
        Ok(())
    }
}
