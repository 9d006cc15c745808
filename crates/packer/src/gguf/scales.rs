//! Scales of whole NVFP4 weights, in tensors of their own.
//!
//! ```text
//! blk.0.attn_q.weight       NVFP4
//! blk.0.attn_q.scale        what its values are multiplied by; for a stack of matrices, one each
//! blk.0.attn_q.input_scale  only for activations, left out
//! ```

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use crate::Error;
use crate::dequant::Dtype;
use crate::source::{Dequantize, FileTensor, TensorSource};

struct Scaled {
    values: FileTensor,
    scales: FileTensor,
    /// Rows that share a scale.
    rows: usize,
}

/// Applies the scales of weights. Tensors with such names beside weights of other types stay.
pub(super) fn apply(tensors: Vec<FileTensor>) -> Result<Vec<FileTensor>, Error> {
    let stem = |t: &FileTensor, end: &str| t.name().1.strip_suffix(end).map(str::to_owned);
    let scaled = tensors.iter().filter(|t| t.dtype() == Dtype::NVFP4);
    let scaled: HashSet<String> = scaled.filter_map(|t| stem(t, ".weight")).collect();
    let is_part = |t: &FileTensor, end| stem(t, end).is_some_and(|name| scaled.contains(&name));
    let (scales, weights): (Vec<_>, Vec<_>) =
        tensors.into_iter().partition(|t| is_part(t, ".scale"));
    let of = |weight: FileTensor| {
        let name = stem(&weight, ".weight").map(|name| format!("{name}.scale"));
        let own = scales.iter().find(|t| name.as_deref() == Some(t.name().1));
        let (Some(scales), [n, _]) = (own, weight.shape()) else { return Ok(weight) };
        let matrices = weight.experts().unwrap_or(1);
        if scales.shape() != [matrices, 1] || scales.dtype() != Dtype::F32 {
            let (path, name) = scales.name();
            let what = format!(
                "has {} values of type {}, expected {matrices} of type F32",
                scales.shape()[0],
                scales.dtype().name()
            );
            return Err(Error::Tensor { path: path.into(), tensor: name.into(), what });
        }
        let values = Scaled { values: weight.clone(), scales: scales.clone(), rows: n / matrices };
        Ok(weight.computed(Arc::new(values)))
    };
    let weights = weights.into_iter().filter(|t| !is_part(t, ".input_scale"));
    weights.map(of).collect()
}

impl Dequantize for Scaled {
    fn format(&self) -> (&'static str, f64) {
        let dtype = self.values.dtype();
        (dtype.name(), 8.0 * dtype.bytes() as f64 / dtype.block() as f64)
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        let mut scales = vec![0.0; self.scales.shape()[0]];
        self.scales.read_rows(0..scales.len(), &mut scales)?;
        self.values.read_rows(rows.clone(), out)?;
        for (row, out) in rows.zip(out.chunks_exact_mut(self.values.shape()[1])) {
            out.iter_mut().for_each(|w| *w *= scales[row / self.rows]);
        }
        Ok(())
    }
}
