//! MXFP4: 4-bit floats, two to a byte, with a power of two as the scale of 32 inputs (OCP Microscaling v1.0). As gpt-oss
//! stores its experts, or in the format `mxfp4-pack-quantized` of compressed-tensors:
//!
//! ```text
//! gate_up_proj_blocks  [experts, outputs, groups, 16]   the lower half of a byte is the first of two inputs
//! gate_up_proj_scales  [experts, outputs, groups]       the exponent, plus 127
//!
//! weight_packed        [outputs, groups · 16]
//! weight_scale         [outputs, groups]
//! ```
//!
//! Weights are `value · 2^exponent` in bf16, as `convert_moe_packed_tensors` of transformers and
//! `MXFP4PackedCompressor` of compressed-tensors compute them. The former also transposes each matrix to the order of a
//! model that is not quantized; rows here are outputs, as stored.

use std::ops::Range;

use super::fp4;
use super::parts::{Module, Part, Rounding, expect, expect_shape, fail};
use crate::Error;
use crate::dequant::{Dtype, e8m0};
use crate::source::{Dequantize, FileTensor, TensorSource};

/// Bytes of a group of 32 inputs.
const BYTES: usize = 16;

struct Mxfp4 {
    blocks: FileTensor,
    scales: FileTensor,
}

/// The weight of a module, or those of all experts. The names of its parts end with `ends`.
pub(super) fn weight(mut m: Module, ends: [&str; 2]) -> Result<FileTensor, Error> {
    let blocks = m.need(Part::Codes, ends[0])?;
    let scales = m.need(Part::Scales, ends[1])?;
    expect(&blocks, &[Dtype::U8])?;
    expect(&scales, &[Dtype::U8])?;
    let [n, bytes] = blocks.shape();
    if !bytes.is_multiple_of(BYTES) {
        let what = format!("has rows of {bytes} bytes, expected groups of {BYTES}");
        return Err(fail(&blocks, what));
    }
    expect_shape(&scales, [n, bytes / BYTES])?;
    let experts = blocks.experts();
    if scales.experts() != experts {
        let count = |experts: Option<usize>| experts.map_or("no".into(), |n| n.to_string());
        let (found, expected) = (count(scales.experts()), count(experts));
        return Err(fail(&scales, format!("is for {found} experts, expected {expected}")));
    }
    let codes = blocks.clone();
    let weight = m.finish(codes, [n, 2 * bytes], Mxfp4 { blocks, scales })?;
    Ok(weight.with_experts(experts))
}

/// The power of two that a byte stands for; infinity for the largest one, as in transformers and compressed-tensors.
pub(super) fn scale(byte: u8) -> f32 {
    if byte == u8::MAX { f32::INFINITY } else { e8m0(byte) }
}

impl Dequantize for Mxfp4 {
    fn format(&self) -> (&'static str, f64) {
        ("MXFP4", 4.0 + 8.0 / (2 * BYTES) as f64)
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        let (blocks, scales) = (self.blocks.bytes(rows.clone())?, self.scales.bytes(rows)?);
        let groups = blocks.chunks_exact(BYTES).zip(out.chunks_exact_mut(2 * BYTES));
        for (scale, (block, out)) in scales.into_iter().map(scale).zip(groups) {
            for (byte, pair) in block.iter().zip(out.chunks_exact_mut(2)) {
                pair[0] = Rounding::Bf16.round(fp4::value(byte & 15) * scale);
                pair[1] = Rounding::Bf16.round(fp4::value(byte >> 4) * scale);
            }
        }
        Ok(())
    }
}
