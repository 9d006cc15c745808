//! The format `nvfp4-pack-quantized` of compressed-tensors: 4-bit floats, two to a byte, with an 8-bit float as the
//! scale of 16 inputs and a scale of scales.
//!
//! Weights are `value · (scale / global scale)` in f32, rounded to bf16, as `NVFP4PackedCompressor` of
//! compressed-tensors computes them.

use std::ops::Range;

use super::parts::{Module, Part, Rounding, expect, expect_shape};
use crate::Error;
use crate::dequant::Dtype;
use crate::source::{Dequantize, FileTensor, TensorSource};

/// Inputs that share a scale.
const GROUP: usize = 16;
const VALUES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// The value of a code: 1 sign bit, 2 exponent bits, 1 mantissa bit.
pub(super) fn value(code: u8) -> f32 {
    let magnitude = VALUES[usize::from(code & 7)];
    if code & 8 == 0 { magnitude } else { -magnitude }
}

struct Fp4 {
    codes: FileTensor,
    scales: FileTensor,
    global: FileTensor,
}

/// The weight of a module.
pub(super) fn weight(mut m: Module) -> Result<FileTensor, Error> {
    let codes = m.need(Part::Codes, ".weight_packed")?;
    let scales = m.need(Part::Scales, ".weight_scale")?;
    let global = m.need(Part::Global, ".weight_global_scale")?;
    expect(&codes, &[Dtype::U8])?;
    expect(&scales, &[Dtype::F8_E4M3])?;
    expect(&global, &[Dtype::F32])?;
    let [n, bytes] = codes.shape();
    expect_shape(&scales, [n, bytes.div_ceil(GROUP / 2)])?;
    expect_shape(&global, [1, 1])?;
    let packed = codes.clone();
    m.finish(packed, [n, 2 * bytes], Fp4 { codes, scales, global })
}

impl Dequantize for Fp4 {
    fn format(&self) -> (&'static str, f64) {
        ("NVFP4", 4.0 + 8.0 / GROUP as f64)
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        let (wide, groups) = (self.codes.shape()[1], self.scales.shape()[1]);
        let codes = self.codes.bytes(rows.clone())?;
        let mut global = [0.0];
        self.global.read_rows(0..1, &mut global)?;
        let mut scales = vec![0.0; rows.len() * groups];
        self.scales.read_rows(rows, &mut scales)?;
        let rows = codes.chunks_exact(wide).zip(scales.chunks_exact(groups));
        for ((codes, scales), out) in rows.zip(out.chunks_exact_mut(2 * wide)) {
            let groups = codes.chunks(GROUP / 2).zip(out.chunks_mut(GROUP));
            for (scale, (codes, out)) in scales.iter().zip(groups) {
                let scale = scale / global[0];
                for (i, w) in out.iter_mut().enumerate() {
                    let code = codes[i / 2] >> (i % 2 * 4) & 15;
                    *w = Rounding::Bf16.round(value(code) * scale);
                }
            }
        }
        Ok(())
    }
}
