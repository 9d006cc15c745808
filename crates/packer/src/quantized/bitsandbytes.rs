//! 4-bit values of bitsandbytes (QLoRA, <https://arxiv.org/abs/2305.14314>): codes of 16 values between −1 and 1, with
//! the largest magnitude of each block of the whole weight, row after row. Those may be quantized too, to 8 bits.
//!
//! ```text
//! weight                [outputs · inputs / 2, 1]   the high four bits first
//! weight.absmax         [blocks]                    F32, or U8 with
//! weight.nested_absmax, weight.nested_quant_map     and an offset
//! weight.quant_state.bitsandbytes__nf4              block sizes, shape and number format, as JSON
//! ```
//!
//! Weights are `value · absmax` in f32, rounded to the format of the original weight, as bitsandbytes' kernels
//! compute them.

use std::ops::Range;

use serde::Deserialize;

use super::parts::{Module, Part, Rounding, expect, expect_shape, fail};
use crate::Error;
use crate::dequant::Dtype;
use crate::source::{Dequantize, FileTensor, TensorSource};

/// NormalFloat: quantiles of a normal distribution.
const NF4: [f32; 16] = [
    -1.0,
    -0.6961928,
    -0.52507305,
    -0.3949175,
    -0.28444138,
    -0.18477343,
    -0.091050036,
    0.0,
    0.0795803,
    0.1609302,
    0.2461123,
    0.33791524,
    0.44070983,
    0.562617,
    0.72295684,
    1.0,
];
/// 4-bit floats, divided by the largest.
const FP4: [f32; 16] = {
    let magnitudes = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0];
    let mut values = [0.0; 16];
    let mut i = 0;
    while i < 8 {
        values[i] = magnitudes[i] / 12.0;
        values[i + 8] = 0.0 - magnitudes[i] / 12.0;
        i += 1;
    }
    values
};

/// Maximum size of the settings of a weight; real ones have about 200 bytes.
const MAX_STATE: usize = 1 << 16;

#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f64>,
}

struct Blocks {
    codes: FileTensor,
    scales: FileTensor,
    nested: Option<Nested>,
    block: usize,
    values: &'static [f32; 16],
    shape: [usize; 2],
    rounding: Rounding,
}

/// How scales are quantized.
struct Nested {
    scales: FileTensor,
    map: FileTensor,
    block: usize,
    offset: f32,
}

/// The weight of a module.
pub(super) fn weight(mut m: Module) -> Result<FileTensor, Error> {
    let stated = m.need(Part::State, ".weight.quant_state.bitsandbytes__nf4")?;
    let codes = m.need(Part::Codes, ".weight")?;
    let scales = m.need(Part::Scales, ".weight.absmax")?;
    let map = m.need(Part::Map, ".weight.quant_map")?;
    let state = state(&stated)?;
    let wrong = |what: String| Err(fail(&stated, what));
    let values = match &*state.quant_type {
        "nf4" => &NF4,
        "fp4" => &FP4,
        other => return wrong(format!("has quant_type {other:?}, expected nf4 or fp4")),
    };
    let rounding = match &*state.dtype {
        "float32" => Rounding::F32,
        "float16" => Rounding::F16,
        "bfloat16" => Rounding::Bf16,
        other => {
            return wrong(format!("has dtype {other:?}, expected float32, float16 or bfloat16"));
        }
    };
    let (&[n, k], block) = (&*state.shape, state.blocksize) else {
        return wrong(format!("has shape {:?}, expected that of a matrix", state.shape));
    };
    let Some(len) = n.checked_mul(k).filter(|len| *len > 0 && block > 0) else {
        return wrong(format!("has shape {:?} in blocks of {block}", state.shape));
    };
    expect(&codes, &[Dtype::U8])?;
    if codes.stored_bytes() != len.div_ceil(2) as u64 {
        let what = format!(
            "has {} bytes, expected {} for shape {:?}",
            codes.stored_bytes(),
            len.div_ceil(2),
            state.shape
        );
        return Err(fail(&codes, what));
    }
    let blocks = len.div_ceil(block);
    expect_shape(&scales, [blocks, 1])?;
    expect_shape(&map, [16, 1])?;
    expect(&map, &[Dtype::F32])?;
    let mut stored = [0.0; 16];
    map.read_rows(0..16, &mut stored)?;
    if stored.iter().zip(values).any(|(a, b)| (a - b).abs() > 1e-6) {
        return Err(fail(&map, format!("has other values than {}", state.quant_type)));
    }
    let nested = match (m.take(Part::NestedScales), m.take(Part::NestedMap), state.nested_blocksize)
    {
        (None, None, None) => None,
        (Some(scales), Some(map), Some(block)) if block > 0 => {
            expect(&scales, &[Dtype::F32])?;
            expect(&map, &[Dtype::F32])?;
            expect_shape(&scales, [blocks.div_ceil(block), 1])?;
            expect_shape(&map, [256, 1])?;
            let offset = state.nested_offset.unwrap_or(0.0) as f32;
            Some(Nested { scales, map, block, offset })
        }
        _ => {
            return wrong(
                "has only some of the parts of nested scales; is the download complete?".into(),
            );
        }
    };
    expect(&scales, &[if nested.is_some() { Dtype::U8 } else { Dtype::F32 }])?;
    let (packed, shape) = (codes.clone(), [n, k]);
    m.finish(packed, shape, Blocks { codes, scales, nested, block, values, shape, rounding })
}

/// The settings of a weight.
fn state(tensor: &FileTensor) -> Result<State, Error> {
    expect(tensor, &[Dtype::U8])?;
    let [n, k] = tensor.shape();
    if n * k > MAX_STATE {
        return Err(fail(tensor, format!("has {} bytes, expected at most {MAX_STATE}", n * k)));
    }
    let bytes = tensor.bytes(0..n)?;
    serde_json::from_slice(&bytes)
        .map_err(|e| fail(tensor, format!("is not the JSON of a quant_state: {e}")))
}

impl Blocks {
    /// The largest magnitudes of blocks.
    fn scales(&self, blocks: Range<usize>) -> Result<Vec<f32>, Error> {
        let mut scales = vec![0.0; blocks.len()];
        let Some(nested) = &self.nested else {
            self.scales.read_rows(blocks, &mut scales)?;
            return Ok(scales);
        };
        let codes = self.scales.bytes(blocks.clone())?;
        let first = blocks.start / nested.block;
        let outer = first..blocks.end.div_ceil(nested.block);
        let (mut largest, mut map) = (vec![0.0; outer.len()], [0.0; 256]);
        nested.scales.read_rows(outer, &mut largest)?;
        nested.map.read_rows(0..256, &mut map)?;
        for ((scale, code), block) in scales.iter_mut().zip(codes).zip(blocks) {
            *scale = map[usize::from(code)] * largest[block / nested.block - first] + nested.offset;
        }
        Ok(scales)
    }
}

impl Dequantize for Blocks {
    fn format(&self) -> (&'static str, f64) {
        let name = if std::ptr::eq(self.values, &NF4) { "NF4" } else { "FP4" };
        let [n, k] = self.shape;
        (name, 4.0 + 8.0 * self.scales.stored_bytes() as f64 / (n * k) as f64)
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        let k = self.shape[1];
        let values = rows.start * k..rows.end * k;
        let first = values.start / 2;
        let codes = self.codes.flat_bytes(first..values.end.div_ceil(2))?;
        let blocks = values.start / self.block..values.end.div_ceil(self.block);
        let first_block = blocks.start;
        let scales = self.scales(blocks)?;
        for (i, w) in values.zip(out) {
            let code = codes[i / 2 - first] >> ((i + 1) % 2 * 4) & 15;
            let value = self.values[usize::from(code)];
            *w = self.rounding.round(value * scales[i / self.block - first_block]);
        }
        Ok(())
    }
}
