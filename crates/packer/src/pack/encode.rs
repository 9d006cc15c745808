//! Encodes consecutive blocks as the bytes of the file: read, check, pad, rotate, quantize.

use nanoinfer_format::{Encoding, LANES, TensorSpec};
use nanoinfer_kernels::pack::{f32_panel, hadamard, q8_panel};
use nanoinfer_kernels::{Kernels, Trellis, trellis_panel, trellis_panel_bytes};

use super::layout::{Block, Inputs};
use crate::Error;
use crate::quantize::{Factor, RowQuantizer};
use crate::source::TensorSource;

/// Far above any trained weight; larger values could overflow the sums of a rotation.
const MAX_WEIGHT: f32 = 1.2676506e30; // 2^100

/// The stored bytes of consecutive blocks of one tensor. Codes are chosen by `factor`, if there is one.
pub(crate) fn encode(
    spec: &TensorSpec,
    inputs: Inputs,
    blocks: &[Block],
    factor: Option<&Factor>,
) -> Result<Vec<u8>, Error> {
    let mut store = Store { kernels: &Kernels::best(), factor, quantizer: None, out: Vec::new() };
    for block in blocks {
        let rows = prepare(spec, inputs, block)?;
        store.add(block.encoding, &rows, inputs.stored);
    }
    Ok(store.out)
}

/// The values that the stored rows of a block represent: padded and rotated, not yet quantized.
pub(crate) fn prepare(spec: &TensorSpec, inputs: Inputs, block: &Block) -> Result<Vec<f32>, Error> {
    let mut rows = read(block, inputs)?;
    rotate_rows(&mut rows[..block.rows * inputs.stored], inputs.stored, block.row_hadamard);
    hadamard(&mut rows, spec.rotation_of(block.encoding) as usize);
    Ok(rows)
}

/// The block's rows, padded with zero rows and zero inputs.
fn read(block: &Block, inputs: Inputs) -> Result<Vec<f32>, Error> {
    let Inputs { logical, stored, unit } = inputs;
    let mut rows = vec![0.0; block.padded * stored];
    let Some(source) = block.source.filter(|_| block.rows > 0) else { return Ok(rows) };
    let range = block.first..block.first + block.rows;
    if logical == stored {
        let dense = &mut rows[..block.rows * stored];
        source.read_rows(range, dense)?;
        check(source, block.first, dense, logical)?;
        return Ok(rows);
    }
    let mut dense = vec![0.0; block.rows * logical];
    source.read_rows(range, &mut dense)?;
    check(source, block.first, &dense, logical)?;
    for (row, dense) in rows.chunks_exact_mut(stored).zip(dense.chunks_exact(logical)) {
        for (to, from) in row.chunks_mut(unit.1).zip(dense.chunks_exact(unit.0)) {
            to[..unit.0].copy_from_slice(from);
        }
    }
    Ok(rows)
}

fn check(source: &dyn TensorSource, first: usize, rows: &[f32], k: usize) -> Result<(), Error> {
    let Some(at) = rows.iter().position(|w| w.is_nan() || w.abs() > MAX_WEIGHT) else {
        return Ok(());
    };
    let (path, tensor) = source.name();
    let what = format!(
        "row {}, input {} is {}; the source is damaged or training diverged",
        first + at / k,
        at % k,
        rows[at]
    );
    Err(Error::Tensor { path: path.into(), tensor: tensor.into(), what })
}

/// Hadamard transform across rows: `W ← H·W` on consecutive blocks of `block` rows.
fn rotate_rows(rows: &mut [f32], k: usize, block: usize) {
    if block == 1 {
        return;
    }
    let mut column = vec![0.0; rows.len() / k];
    for j in 0..k {
        for (c, row) in column.iter_mut().zip(rows.chunks_exact(k)) {
            *c = row[j];
        }
        hadamard(&mut column, block);
        for (c, row) in column.iter().zip(rows.chunks_exact_mut(k)) {
            row[j] = *c;
        }
    }
}

/// Stores rows of one tensor.
struct Store<'k> {
    kernels: &'k Kernels,
    factor: Option<&'k Factor>,
    /// The quantizer last used, and the bits of its trellis.
    quantizer: Option<(u8, RowQuantizer<'k>)>,
    out: Vec<u8>,
}

impl Store<'_> {
    fn add(&mut self, encoding: Encoding, rows: &[f32], k: usize) {
        let Some(len) = encoding.panel_bytes(k) else {
            self.out.extend(rows.iter().flat_map(|w| w.to_le_bytes()));
            return;
        };
        let at = self.out.len();
        self.out.resize(at + rows.len() / (LANES * k) * len, 0);
        if let Some(bits) = encoding.trellis_bits() {
            return self.add_coded(Trellis::of(bits), rows, k, at);
        }
        let panels = self.out[at..].chunks_exact_mut(len);
        for (panel, out) in rows.chunks_exact(LANES * k).zip(panels) {
            match encoding {
                Encoding::Q8Panel => q8_panel(panel, k, out),
                _ => f32_panel(panel, k, out),
            }
        }
    }

    fn add_coded(&mut self, trellis: &'static Trellis, rows: &[f32], k: usize, at: usize) {
        if self.quantizer.as_ref().is_none_or(|(bits, _)| *bits != trellis.bits) {
            let quantizer = RowQuantizer::new(self.kernels, trellis, k, self.factor);
            self.quantizer = Some((trellis.bits, quantizer));
        }
        let Some((_, quantizer)) = &mut self.quantizer else { return };
        let quantized = quantizer.quantize(rows);
        let len = trellis_panel_bytes(trellis.bits.into(), k);
        let codes = quantized.codes.chunks_exact(LANES * k);
        let panels = codes.zip(quantized.scales.as_chunks().0);
        for ((codes, scales), out) in panels.zip(self.out[at..].chunks_exact_mut(len)) {
            trellis_panel(trellis, codes, scales, out);
        }
    }
}
