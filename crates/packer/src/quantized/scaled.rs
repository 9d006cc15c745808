//! Values of 8 bits with scales: for the whole weight, for each output, for groups of inputs, or for blocks of
//! outputs and inputs.
//!
//! ```text
//! weight            [outputs, inputs]   F8_E4M3, F8_E5M2 or I8
//! weight_scale(_inv) [outputs / rows, inputs / columns]   U8: the exponent of a power of two, plus 127 (MXFP8)
//! ```
//!
//! Weights are `(value − zero) · scale`, rounded to the format of the scales, as compressed-tensors' `dequantize`,
//! transformers' `Fp8Dequantize` and DeepSeek's `weight_dequant` compute them.

use std::ops::Range;

use super::mxfp4;
use super::parts::{FLOATS, Module, Part, Rounding, expect, expect_shape, fail};
use crate::Error;
use crate::dequant::Dtype;
use crate::source::{Dequantize, FileTensor, TensorSource};

struct Scaled {
    values: FileTensor,
    zeros: Option<FileTensor>,
    scales: FileTensor,
    /// Outputs and inputs that share a scale.
    block: [usize; 2],
}

/// The weight of a module. `block` is what a scale is for, if the settings say so; `exponents`: scales of 8-bit floats may
/// be bytes, as in MXFP8.
pub(super) fn weight(
    mut m: Module,
    block: Option<[usize; 2]>,
    exponents: bool,
) -> Result<FileTensor, Error> {
    let values = m.need(Part::Codes, ".weight")?;
    let scales = m.need(Part::Scales, ".weight_scale")?;
    let zeros = m.take(Part::Zeros);
    m.take(Part::Shape);
    expect(&values, &[Dtype::F8_E4M3, Dtype::F8_E5M2, Dtype::I8])?;
    let bytes = exponents && values.dtype() == Dtype::F8_E4M3;
    let other: &[_] = if bytes { &[Dtype::F8_E8M0, Dtype::U8] } else { &[Dtype::F8_E8M0] };
    expect(&scales, &[&FLOATS[..], other].concat())?;
    let ([n, k], [a, b]) = (values.shape(), scales.shape());
    let block = match block {
        _ if [a, b] == [1, 1] => [n, k],
        Some([rows, columns]) if [a, b] == [n.div_ceil(rows), k.div_ceil(columns)] => {
            [rows, columns]
        }
        _ if a == n && k.is_multiple_of(b) => [1, k / b],
        _ => {
            let blocks = block
                .map_or(String::new(), |[rows, columns]| format!(" in blocks of {rows}×{columns}"));
            let what = format!(
                "has shape [{a}, {b}], which does not fit a weight of shape [{n}, {k}]{blocks}"
            );
            return Err(fail(&scales, what));
        }
    };
    if let Some(zeros) = &zeros {
        expect(zeros, &[Dtype::I8, Dtype::F8_E4M3])?;
        expect_shape(zeros, [a, b])?;
    }
    let codes = values.clone();
    m.finish(codes, [n, k], Scaled { values, zeros, scales, block })
}

impl Dequantize for Scaled {
    fn format(&self) -> (&'static str, f64) {
        let [n, k] = self.values.shape();
        let bits = 8.0 + 8.0 * self.scales.stored_bytes() as f64 / (n * k) as f64;
        (self.values.dtype().name(), bits)
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        let (k, b) = (self.values.shape()[1], self.scales.shape()[1]);
        let [height, width] = self.block;
        self.values.read_rows(rows.clone(), out)?;
        let first = rows.start / height;
        let used = first..rows.end.div_ceil(height);
        let read = |tensor: &FileTensor| {
            let mut values = vec![0.0; used.len() * b];
            tensor.read_rows(used.clone(), &mut values).map(|()| values)
        };
        let (scales, rounding) = match self.scales.dtype() {
            Dtype::U8 => {
                let exponents = self.scales.bytes(used.clone())?;
                (exponents.into_iter().map(mxfp4::scale).collect(), Rounding::Bf16)
            }
            other => (read(&self.scales)?, Rounding::of(other)),
        };
        let zeros = self.zeros.as_ref().map(read).transpose()?;
        for (row, out) in rows.zip(out.chunks_exact_mut(k)) {
            let at = (row / height - first) * b;
            for (j, out) in out.chunks_mut(width).enumerate() {
                let (scale, zero) = (scales[at + j], zeros.as_ref().map_or(0.0, |z| z[at + j]));
                for w in out {
                    *w = rounding.round((*w - zero) * scale);
                }
            }
        }
        Ok(())
    }
}
