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
mod mxfp4;
mod packed;
mod parts;
mod scaled;
mod settings;

use std::collections::BTreeMap;

use crate::Error;
use crate::dequant::Dtype;
use crate::source::{FileTensor, TensorSource};
use columns::Order;
use parts::{Module, PARTS, Part, fail, refuse_incomplete};

pub(crate) use parts::refuse_part;
pub(crate) use settings::{Method, beside, method};

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
        weights.push(weight(module, method)?);
    }
    Ok(weights)
}

/// The weight of a module.
fn weight(module: Module, method: &Method) -> Result<FileTensor, Error> {
    let dtype = |part| module.parts.get(&part).map(FileTensor::dtype);
    let (codes, scales) = (dtype(Part::Codes), dtype(Part::Scales));
    match method {
        Method::Gptq { one_more } => columns::weight(module, Order::Gptq { one_more: *one_more }),
        Method::Awq => columns::weight(module, Order::Awq),
        Method::Scaled { block } => scaled::weight(module, *block, false),
        Method::Compressed { bits, .. } if codes == Some(Dtype::I32) => {
            packed::weight(module, bits)
        }
        Method::Compressed { .. } if codes == Some(Dtype::U8) && scales == codes => {
            mxfp4::weight(module, [".weight_packed", ".weight_scale"])
        }
        Method::Compressed { .. } if codes == Some(Dtype::U8) => fp4::weight(module),
        Method::Compressed { block, .. } => scaled::weight(module, *block, true),
        Method::BitsAndBytes => bitsandbytes::weight(module),
        Method::Mxfp4 => mxfp4::weight(module, ["_blocks", "_scales"]),
    }
}

#[cfg(test)]
mod tests;
