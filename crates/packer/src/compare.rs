//! How far a file's weights are from those it was made of.
//!
//! The rotation is orthonormal, so the error of the rotated weights, which is what is stored, is
//! that of the weights themselves. A source is read as for packing, and each value is compared
//! with what its 8 bits stand for.

use nanoinfer_format::{Encoding, LANES, NanoFile, Quant, Role, Tensor, TensorSpec, panel_bytes};

use crate::encode::prepare;
use crate::layout::{Body, Planned, plan};
use crate::{Error, Input};

/// The error of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorError {
    /// What it is for.
    pub role: Role,
    /// Its layer.
    pub layer: Option<u32>,
    /// Root of the sum of squared errors over that of squared weights.
    pub relative: f64,
    /// Largest error of one stored value.
    pub largest: f64,
}

/// Compares every tensor of `nano` that is stored as a panel with its `source`. `progress` is
/// called after each with the bytes compared and the bytes of all.
///
/// # Errors
/// The source cannot be read, or is not one of this file.
pub fn compare(
    nano: &NanoFile,
    source: &Input,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<TensorError>, Error> {
    let mut model = source.open()?;
    model.config.quant = nano.config().quant;
    if model.config.quant == Quant::Q8 {
        model.config.value_rotation = nano.config().value_rotation;
    }
    let plan = plan(&model.config, &model.weights, &model.turns);
    let bytes = |p: &Planned| p.spec.encoding.stored_bytes(p.spec.stored).unwrap_or(0);
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
            let layer = spec.layer.map_or(String::new(), |l| format!(" of layer {l}"));
            let name = spec.role.name();
            let what =
                format!("is not what {} was made of: {name}{layer} differs", nano.path().display());
            return Err(Error::source(source.path(), what));
        };
        if let (true, Body::Rows { blocks, inputs }) = (spec.encoding.is_panel(), &planned.body) {
            let mut sum = Sum::default();
            let mut at = 0;
            for block in blocks {
                let rows = prepare(spec, *inputs, block)?;
                let bytes =
                    rows.len() / inputs.stored / LANES * panel_bytes(spec.encoding, inputs.stored);
                sum.add(spec, &rows, inputs.stored, &nano.bytes(tensor)[at..at + bytes]);
                at += bytes;
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
    /// Adds whole panels: `rows` as they should be, `stored` as they are.
    fn add(&mut self, spec: &TensorSpec, rows: &[f32], k: usize, stored: &[u8]) {
        let panels = stored.chunks_exact(panel_bytes(spec.encoding, k));
        for (rows, panel) in rows.chunks_exact(LANES * k).zip(panels) {
            for (r, row) in rows.chunks_exact(k).enumerate() {
                for (j, &w) in row.iter().enumerate() {
                    let error = f64::from(w) - f64::from(value(spec.encoding, panel, r, j));
                    self.errors += error * error;
                    self.weights += f64::from(w) * f64::from(w);
                    self.largest = self.largest.max(error.abs());
                }
            }
        }
    }
}

/// Row `r`, input `j` of a panel, as docs/FORMAT.md says.
fn value(encoding: Encoding, panel: &[u8], r: usize, j: usize) -> f32 {
    let float = |at: usize| f32::from_le_bytes(panel[at..at + 4].try_into().expect("4 bytes"));
    match encoding {
        Encoding::Q8Panel => {
            let q = i16::from(panel[64 + 64 * (j / 4) + 4 * r + j % 4]) - 128;
            float(4 * r) * f32::from(q)
        }
        _ => float(64 * j + 4 * r),
    }
}
