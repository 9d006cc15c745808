//! GPTQ (<https://arxiv.org/abs/2210.17323>) and AWQ (<https://arxiv.org/abs/2306.00978>): codes of a few bits, an
//! input after the other, with a scale and a zero for each output and group of inputs.
//!
//! ```text
//! GPTQ  qweight [inputs · bits / 32, outputs]   the codes of an output follow each other in words
//! AWQ   qweight [inputs, outputs / 8]           those of an input do, in another order
//! both  qzeros  [groups, outputs · bits / 32]
//!       scales  [groups, outputs]
//! ```
//!
//! Weights are `(code − zero) · scale`, rounded to the format of the scales, as `dequantize_weight` of GPTQModel and
//! `dequantize_gemm` of AutoAWQ compute them.

use std::ops::Range;

use super::bands::Bands;
use super::bits::{code, words};
use super::parts::{FLOATS, Module, Part, Rounding, expect, expect_shape, fail};
use crate::Error;
use crate::dequant::Dtype;
use crate::source::{Dequantize, FileTensor, TensorSource};

/// The position in a word of AWQ, in codes, of each of 8 outputs.
const AWQ_ORDER: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The order of codes in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// `one_more`: zeros are stored less one.
    Gptq {
        one_more: bool,
    },
    Awq,
}

/// A weight.
struct Columns {
    order: Order,
    bits: usize,
    shape: [usize; 2],
    codes: FileTensor,
    zeros: FileTensor,
    scales: FileTensor,
    /// The group of each input; without it, groups are consecutive inputs.
    groups: Option<FileTensor>,
    bands: Bands,
}

/// The weight of a module.
pub(super) fn weight(mut m: Module, order: Order) -> Result<FileTensor, Error> {
    let codes = m.need(Part::Codes, ".qweight")?;
    let zeros = m.need(Part::Zeros, ".qzeros")?;
    let scales = m.need(Part::Scales, ".scales")?;
    let listed = m.take(Part::Groups);
    for tensor in [&codes, &zeros] {
        expect(tensor, &[Dtype::I32])?;
    }
    expect(&scales, &FLOATS)?;
    let ([groups, n], rows, zero_words) = (scales.shape(), codes.shape()[0], zeros.shape()[1]);
    // Settings may differ by module; its shapes say how many bits it has.
    let bits = zero_words.checked_mul(32).filter(|b| b.is_multiple_of(n)).map(|b| b / n);
    let k = match (order, bits) {
        (Order::Awq, Some(4)) => rows,
        (Order::Gptq { .. }, Some(bits @ (2 | 3 | 4 | 8))) => rows.saturating_mul(32) / bits,
        _ => {
            let what = format!(
                "has {zero_words} words for {n} outputs, which is no supported number of bits"
            );
            return Err(fail(&zeros, what));
        }
    };
    let bits = bits.unwrap_or(4);
    match order {
        Order::Awq => expect_shape(&codes, [k, zero_words])?,
        Order::Gptq { .. } => expect_shape(&codes, [(k * bits).div_ceil(32), n])?,
    }
    expect_shape(&zeros, [groups, zero_words])?;
    match &listed {
        Some(listed) => {
            expect(listed, &[Dtype::I32])?;
            expect_shape(listed, [k, 1])?;
        }
        None if k.is_multiple_of(groups) => {}
        None => {
            return Err(fail(
                &scales,
                format!("has {groups} groups, which do not divide {k} inputs"),
            ));
        }
    }
    let shape = [n, k];
    let (bands, packed) = (Bands::new(shape), codes.clone());
    m.finish(
        packed,
        shape,
        Columns { order, bits, shape, codes, zeros, scales, groups: listed, bands },
    )
}

impl Columns {
    /// The group of each input.
    fn groups(&self) -> Result<Vec<usize>, Error> {
        let ([groups, _], [_, k]) = (self.scales.shape(), self.shape);
        let Some(listed) = &self.groups else {
            return Ok((0..k).map(|j| j / (k / groups)).collect());
        };
        let listed = words(&listed.bytes(0..k)?).into_iter().enumerate();
        let checked = |(j, group): (usize, u32)| match group as usize {
            group if group < groups => Ok(group),
            group => {
                let what = format!("has group {group} at input {j}, of {groups} groups");
                Err(fail(self.groups.as_ref().unwrap_or(&self.codes), what))
            }
        };
        listed.map(checked).collect()
    }

    /// The values of some outputs, whose words hold no others.
    fn read(&self, rows: Range<usize>) -> Result<Vec<f32>, Error> {
        let (k, bits, len) = (self.shape[1], self.bits, rows.len());
        let groups = self.groups()?;
        let word_range = rows.start * bits / 32..(rows.end * bits).div_ceil(32);
        let wide = word_range.len();
        let n_groups = self.scales.shape()[0];
        let scales = self.scales.block(0..n_groups, rows.clone())?;
        let zero_words = words(&self.zeros.block_bytes(0..n_groups, word_range.clone())?);
        let mut zeros = Vec::with_capacity(n_groups * len);
        for group in zero_words.chunks_exact(wide) {
            zeros.extend((0..len).map(|r| match self.order {
                Order::Awq => code(4, r / 8 * 8 + AWQ_ORDER[r % 8], |w| group[w]),
                Order::Gptq { one_more } => {
                    // The highest code is −1 plus one.
                    (code(bits, r, |w| group[w]) + u32::from(one_more)) & ((1 << bits) - 1)
                }
            }));
        }
        let code_columns = if self.order == Order::Awq { word_range } else { rows };
        let width = code_columns.len();
        let codes = words(&self.codes.block_bytes(0..self.codes.shape()[0], code_columns)?);
        let rounding = Rounding::of(self.scales.dtype());
        let mut out = vec![0.0; len * k];
        for first in (0..k).step_by(32) {
            let inputs = first..k.min(first + 32);
            for (r, row) in out.chunks_exact_mut(k).enumerate() {
                for j in inputs.clone() {
                    let code = match self.order {
                        Order::Awq => {
                            code(4, r / 8 * 8 + AWQ_ORDER[r % 8], |w| codes[j * width + w])
                        }
                        Order::Gptq { .. } => code(bits, j, |w| codes[w * width + r]),
                    };
                    let at = groups[j] * len + r;
                    let level = code as f32 - zeros[at] as f32;
                    row[j] = rounding.round(level * scales[at]);
                }
            }
        }
        Ok(out)
    }
}

impl Dequantize for Columns {
    fn format(&self) -> (&'static str, f64) {
        let [n, k] = self.shape;
        let side = self.scales.stored_bytes() + self.zeros.stored_bytes();
        let bits = self.bits as f64 + 8.0 * side as f64 / (n * k) as f64;
        (if self.order == Order::Awq { "AWQ" } else { "GPTQ" }, bits)
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        self.bands.rows(rows, out, |band| self.read(band))
    }
}
