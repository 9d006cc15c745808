//! The tensors that a quantized weight consists of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};

use crate::Error;
use crate::dequant::Dtype;
use crate::source::{Dequantize, FileTensor, TensorSource};

/// The parts of a quantized weight, by the end of their names; `None` for those that only concern activations
/// or the KV cache.
pub(super) const PARTS: [(&str, Option<Part>); 32] = [
    (".qweight", Some(Part::Codes)),
    (".weight_packed", Some(Part::Codes)),
    ("_blocks", Some(Part::Codes)),
    (".qzeros", Some(Part::Zeros)),
    (".weight_zero_point", Some(Part::Zeros)),
    (".scales", Some(Part::Scales)),
    ("_scales", Some(Part::Scales)),
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
pub(super) enum Part {
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

/// The parts of a weight.
pub(super) struct Module {
    pub(super) name: String,
    /// The file of one of them.
    pub(super) path: PathBuf,
    pub(super) parts: BTreeMap<Part, FileTensor>,
}

impl Module {
    pub(super) fn take(&mut self, part: Part) -> Option<FileTensor> {
        self.parts.remove(&part)
    }

    /// A part without which there is no weight; if it is missing, its name ends with `end`.
    pub(super) fn need(&mut self, part: Part, end: &str) -> Result<FileTensor, Error> {
        self.take(part).ok_or_else(|| {
            let what = "is missing; is the download complete?".into();
            let (path, tensor) = (self.path.clone(), format!("{}{end}", self.name));
            Error::Tensor { path, tensor, what }
        })
    }

    /// The weight, once all parts have been used.
    pub(super) fn finish(
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

/// The number format that values are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    F32,
    F16,
    Bf16,
}

impl Rounding {
    /// That of a product with values of this format.
    pub(super) fn of(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::Bf16,
            _ => Self::F32,
        }
    }

    pub(super) fn round(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            Self::F16 => f16::from_f32(x).to_f32(),
            Self::Bf16 => bf16::from_f32(x).to_f32(),
        }
    }
}

/// An error about a tensor.
pub(super) fn fail(tensor: &FileTensor, what: impl Into<String>) -> Error {
    let (path, name) = tensor.name();
    Error::Tensor { path: path.into(), tensor: name.into(), what: what.into() }
}

/// Checks the number format of a part.
pub(super) fn expect(tensor: &FileTensor, formats: &[Dtype]) -> Result<(), Error> {
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
pub(super) fn expect_shape(tensor: &FileTensor, expected: [usize; 2]) -> Result<(), Error> {
    match tensor.shape() {
        shape if shape == expected => Ok(()),
        [n, k] => {
            let [rows, columns] = expected;
            Err(fail(tensor, format!("has shape [{n}, {k}], expected [{rows}, {columns}]")))
        }
    }
}

/// The number formats of scales.
pub(super) const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

/// Checks that the values of a tensor are weights by themselves.
pub(super) fn refuse_incomplete(tensor: &FileTensor) -> Result<(), Error> {
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
    const MADE_BY: [(&str, &str); 12] = [
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
        ("_blocks", "MXFP4"),
        ("_scales", "MXFP4"),
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
