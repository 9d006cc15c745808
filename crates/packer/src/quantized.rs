//! Hugging Face checkpoints that are already quantized.
//!
//! ```text
//! layers.0.mlp.up_proj.qweight  ┐
//! layers.0.mlp.up_proj.qzeros   ├─ resolve ─► layers.0.mlp.up_proj.weight, dequantized as its rows are read
//! layers.0.mlp.up_proj.scales   ┘
//! ```
//!
//! Values are those of the publishers' own dequantization, in the same operations on the same number formats:
//! where they round to f16 or bf16, so does this. Activations are not quantized.

mod bands;
mod bits;
mod bitsandbytes;
mod columns;
mod fp4;
mod packed;
mod scaled;
mod settings;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};

use crate::Error;
use crate::dequant::Dtype;
use crate::source::{FileTensor, TensorSource};

pub(crate) use settings::{Method, beside, method};

/// The parts of a quantized weight, by the end of their names; `None` for those that only concern activations
/// or the KV cache.
const PARTS: [(&str, Option<Part>); 30] = [
    (".qweight", Some(Part::Codes)),
    (".weight_packed", Some(Part::Codes)),
    (".qzeros", Some(Part::Zeros)),
    (".weight_zero_point", Some(Part::Zeros)),
    (".scales", Some(Part::Scales)),
    (".weight_scale", Some(Part::Scales)),
    (".weight_scale_inv", Some(Part::Scales)),
    (".weight.absmax", Some(Part::Scales)),
    (".g_idx", Some(Part::Groups)),
    (".weight_g_idx", Some(Part::Groups)),
    (".weight_shape", Some(Part::Shape)),
    (".weight_global_scale", Some(Part::Global)),
    (".weight.quant_map", Some(Part::Map)),
    (".weight.nested_absmax", Some(Part::NestedScales)),
    (".weight.nested_quant_map", Some(Part::NestedMap)),
    (".weight.quant_state.bitsandbytes__nf4", Some(Part::State)),
    (".weight.quant_state.bitsandbytes__fp4", Some(Part::State)),
    (".input_scale", None),
    (".input_zero_point", None),
    (".input_global_scale", None),
    (".output_scale", None),
    (".output_zero_point", None),
    (".activation_scale", None),
    (".k_scale", None),
    (".k_zero_point", None),
    (".v_scale", None),
    (".v_zero_point", None),
    (".q_scale", None),
    (".kv_scale", None),
    (".prob_output_scale", None),
];

/// What a tensor contributes to a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// The quantized values.
    Codes,
    /// What is subtracted from them.
    Zeros,
    /// What they are multiplied by.
    Scales,
    /// The group of each input.
    Groups,
    /// The shape of the weight.
    Shape,
    /// A scale of the scales.
    Global,
    /// The values that codes stand for.
    Map,
    /// The scales of scales that are quantized themselves.
    NestedScales,
    NestedMap,
    /// Settings of a weight, as JSON.
    State,
}

impl Part {
    /// How the name of a missing tensor ends.
    fn name(self, method: &Method) -> &'static str {
        let own = |end: &&(&'static str, Option<Part>)| end.1 == Some(self) && method.names(end.0);
        PARTS.iter().find(own).map_or("", |(end, _)| end)
    }
}

/// Turns the tensors of a checkpoint into weights, whose values are still in the files. `method` is how the
/// checkpoint says that it was quantized, if it does.
///
/// # Errors
/// A weight lacks a part, its parts do not match, or it is quantized in an unknown way.
pub(crate) fn resolve(
    tensors: Vec<FileTensor>,
    method: Option<&Method>,
) -> Result<Vec<FileTensor>, Error> {
    let Some(method) = method else {
        tensors.iter().try_for_each(refuse_incomplete)?;
        return Ok(tensors);
    };
    let mut modules: BTreeMap<String, Module> = BTreeMap::new();
    let (mut weights, mut plain) = (Vec::new(), Vec::new());
    for tensor in tensors {
        let name = tensor.name().1;
        match PARTS.iter().find_map(|(end, part)| Some((name.strip_suffix(end)?, part))) {
            Some((_, None)) => {}
            Some((module, Some(part))) => {
                let (module, part) = (module.to_owned(), *part);
                let path = tensor.name().0.to_owned();
                let empty = || Module { name: module.clone(), path, parts: BTreeMap::new() };
                let parts = &mut modules.entry(module.clone()).or_insert_with(empty).parts;
                if parts.contains_key(&part) {
                    return Err(fail(&tensor, "repeats a part of its weight"));
                }
                parts.insert(part, tensor);
            }
            None => plain.push(tensor),
        }
    }
    for tensor in plain {
        let module = tensor.name().1.strip_suffix(".weight").and_then(|name| modules.get_mut(name));
        match module {
            Some(module) if !module.parts.contains_key(&Part::Codes) => {
                module.parts.insert(Part::Codes, tensor);
            }
            Some(_) => return Err(fail(&tensor, "is there both quantized and not")),
            None => {
                refuse_incomplete(&tensor)?;
                weights.push(tensor);
            }
        }
    }
    for module in modules.into_values() {
        weights.push(method.weight(module)?);
    }
    Ok(weights)
}

/// The parts of a weight.
struct Module {
    name: String,
    /// The file of one of them.
    path: PathBuf,
    parts: BTreeMap<Part, FileTensor>,
}

impl Module {
    fn take(&mut self, part: Part) -> Option<FileTensor> {
        self.parts.remove(&part)
    }

    /// A part without which there is no weight.
    fn need(&mut self, part: Part, method: &Method) -> Result<FileTensor, Error> {
        self.take(part).ok_or_else(|| {
            let end = if part == Part::Codes { method.codes() } else { part.name(method) };
            let what = "is missing; is the download complete?".into();
            let (path, tensor) = (self.path.clone(), format!("{}{end}", self.name));
            Error::Tensor { path, tensor, what }
        })
    }

    /// The weight, once all parts have been used.
    fn finish(
        self,
        codes: FileTensor,
        shape: [usize; 2],
        values: impl Dequantize + 'static,
    ) -> Result<FileTensor, Error> {
        if let Some(part) = self.parts.values().next() {
            return Err(fail(part, "is not part of such a weight"));
        }
        Ok(codes.quantized(format!("{}.weight", self.name), shape, Arc::new(values)))
    }
}

/// Reads the rows of a quantized weight.
pub(crate) trait Dequantize: Send + Sync {
    /// Name of the format, and bits per value with all scales.
    fn format(&self) -> (&'static str, f64);

    /// Reads `rows` as f32 into `out` of `rows.len() * inputs` values.
    fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), Error>;
}

/// The number format that values are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rounding {
    F32,
    F16,
    Bf16,
}

impl Rounding {
    /// That of a product with values of this format.
    fn of(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::Bf16,
            _ => Self::F32,
        }
    }

    fn round(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            Self::F16 => f16::from_f32(x).to_f32(),
            Self::Bf16 => bf16::from_f32(x).to_f32(),
        }
    }
}

/// An error about a tensor.
fn fail(tensor: &FileTensor, what: impl Into<String>) -> Error {
    let (path, name) = tensor.name();
    Error::Tensor { path: path.into(), tensor: name.into(), what: what.into() }
}

/// Checks the number format of a part.
fn expect(tensor: &FileTensor, formats: &[Dtype]) -> Result<(), Error> {
    if formats.contains(&tensor.dtype()) {
        return Ok(());
    }
    let names: Vec<_> = formats.iter().map(|f| f.name()).collect();
    Err(fail(
        tensor,
        format!("has type {}, expected {}", tensor.dtype().name(), names.join(" or ")),
    ))
}

/// Checks the shape of a part.
fn expect_shape(tensor: &FileTensor, expected: [usize; 2]) -> Result<(), Error> {
    match tensor.shape() {
        shape if shape == expected => Ok(()),
        [n, k] => {
            let [rows, columns] = expected;
            Err(fail(tensor, format!("has shape [{n}, {k}], expected [{rows}, {columns}]")))
        }
    }
}

/// The number formats of scales.
const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

/// Checks that the values of a tensor are weights by themselves.
pub(crate) fn refuse_incomplete(tensor: &FileTensor) -> Result<(), Error> {
    let (path, name) = tensor.name();
    refuse_part(path, name)?;
    let dtype = tensor.dtype();
    if dtype.is_complete() {
        return Ok(());
    }
    let what = format!("has type {} and no scale, expected F32, F16, BF16 or F64", dtype.name());
    Err(fail(tensor, what))
}

/// Rejects a tensor that only quantized checkpoints contain, and names the method.
pub(crate) fn refuse_part(path: &Path, name: &str) -> Result<(), Error> {
    const MADE_BY: [(&str, &str); 10] = [
        (".qweight", "GPTQ or AWQ"),
        (".qzeros", "GPTQ or AWQ"),
        (".scales", "MLX, GPTQ or AWQ"),
        (".g_idx", "GPTQ"),
        (".weight_packed", "compressed-tensors"),
        (".weight_scale", "compressed-tensors or FP8"),
        (".weight_scale_inv", "FP8"),
        (".weight.absmax", "bitsandbytes"),
        (".weight.quant_map", "bitsandbytes"),
        (".SCB", "bitsandbytes"),
    ];
    let Some((_, method)) = MADE_BY.iter().find(|(end, _)| name.ends_with(end)) else {
        return Ok(());
    };
    Err(Error::Unsupported {
        path: path.into(),
        what: format!("a model quantized with {method} (it has the tensor {name:?})"),
        next: "it needs safetensors and a config.json with the method's quantization_config; or \
               convert the original model (f32, f16 or bf16) or a GGUF version of it"
            .into(),
    })
}

#[cfg(test)]
mod tests;
