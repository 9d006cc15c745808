//! The quantization error of a file's weights.
//!
//! The rotation is orthonormal, so the error of the stored, rotated weights equals that of the
//! original weights. The source is read as for packing, and each value is compared with the stored
//! value.

use nanoinfer_format::{Encoding, Entry, LANES, LINE, NanoFile, QUAD, Role, Tensor};
use nanoinfer_kernels::{Trellis, trellis_values};

use crate::pack::encode::prepare;
use crate::pack::layout::{Body, Planned, plan};
use crate::{Error, Input};

/// The error of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorError {
    /// The tensor's role.
    pub role: Role,
    /// The tensor's layer.
    pub layer: Option<u32>,
    /// Square root of the ratio of summed squared errors to summed squared weights.
    pub relative: f64,
    /// Largest error of any stored value.
    pub largest: f64,
}

/// Compares every tensor that `nano` stores in panels with `source`. `progress` is called after
/// each tensor with the bytes compared so far and the total.
///
/// # Errors
/// The source cannot be read, or `nano` was not made from it.
pub fn compare(
    nano: &NanoFile,
    source: &Input,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<TensorError>, Error> {
    let mut model = source.open()?;
    model.config.quant = nano.config().quant;
    model.config.value_rotation = nano.config().value_rotation;
    let as_stored = |entry: &Entry| {
        let stored = nano.tensor(entry.role, entry.layer);
        let encoding = |role| Some(stored?.spec.encoding_of(role)).filter(|e| e.is_panel());
        entry.spec(|role| encoding(role).unwrap_or(Encoding::F32Panel))
    };
    let plan = plan(&model.config, &model.weights, &model.turns, as_stored);
    let bytes = |p: &Planned| p.spec.stored_bytes().unwrap_or(0);
    let (mut done, total) = (0, plan.iter().map(bytes).sum());
    let mut errors = Vec::new();
    for planned in &plan {
        let spec = &planned.spec;
        let same = |t: &&Tensor| match &planned.body {
            Body::Turns(turns) => nano.u64s(t) == *turns,
            Body::Rows { .. } => t.spec == *spec,
        };
        let stored = nano.tensor(spec.role, spec.layer).filter(same);
        let Some(tensor) = stored else {
            let (path, name) = (nano.path().display(), spec.label());
            let what = format!("{path} was not made from this source: {name} differs");
            return Err(Error::source(source.path(), what));
        };
        if let (true, Body::Rows { blocks, inputs }) = (spec.encoding.is_panel(), &planned.body) {
            let mut sum = Sum::default();
            let mut at = 0;
            for block in blocks {
                let rows = prepare(spec, *inputs, block)?;
                let k = inputs.stored;
                let stored = &nano.bytes(tensor)[at..];
                at += sum.add(block.encoding, &rows, k, stored);
            }
            let relative = if sum.weights > 0.0 { (sum.errors / sum.weights).sqrt() } else { 0.0 };
            let (role, layer) = (spec.role, spec.layer);
            errors.push(TensorError { role, layer, relative, largest: sum.largest });
        }
        done += bytes(planned);
        progress(done, total);
    }
    Ok(errors)
}

#[derive(Default)]
struct Sum {
    errors: f64,
    weights: f64,
    largest: f64,
}

impl Sum {
    /// Adds whole panels: the exact `rows`, and their encoding at the start of `stored`. Returns
    /// the size of the encoding in bytes.
    fn add(&mut self, encoding: Encoding, rows: &[f32], k: usize, stored: &[u8]) -> usize {
        let Some(len) = encoding.panel_bytes(k) else { return 0 };
        let rows = rows.chunks_exact(LANES * k);
        let bytes = rows.len() * len;
        let mut values = vec![0.0; k];
        for (rows, panel) in rows.zip(stored.chunks_exact(len)) {
            for (r, row) in rows.chunks_exact(k).enumerate() {
                read_row(encoding, panel, r, &mut values);
                for (&w, &value) in row.iter().zip(&values) {
                    let error = f64::from(w) - f64::from(value);
                    self.errors += error * error;
                    self.weights += f64::from(w) * f64::from(w);
                    self.largest = self.largest.max(error.abs());
                }
            }
        }
        bytes
    }
}

/// The values in row `r` of a panel.
fn read_row(encoding: Encoding, panel: &[u8], r: usize, out: &mut [f32]) {
    match encoding.trellis_bits() {
        Some(bits) => trellis_values(Trellis::of(bits), panel, r, out),
        None => out.iter_mut().enumerate().for_each(|(j, x)| *x = value(encoding, panel, r, j)),
    }
}

/// The value in row `r` at input `j` of a q8 or f32 panel, as specified in docs/FORMAT.md.
fn value(encoding: Encoding, panel: &[u8], r: usize, j: usize) -> f32 {
    let float = |line: usize| {
        let bytes = panel[line * LINE..][r * size_of::<f32>()..].first_chunk();
        f32::from_le_bytes(*bytes.expect("16 rows"))
    };
    match encoding {
        Encoding::Q8Panel => {
            let q = i16::from(panel[LINE + LINE * (j / QUAD) + QUAD * r + j % QUAD]) - 128;
            float(0) * f32::from(q)
        }
        _ => float(j),
    }
}
