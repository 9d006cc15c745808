//! `quantization_config`: how a checkpoint says that it was quantized.

use serde_json::Value;

use super::columns::{self, Order};
use super::{Module, Part, bitsandbytes, fp4, packed, scaled};
use crate::Error;
use crate::dequant::Dtype;
use crate::hf::Settings;
use crate::source::FileTensor;

/// Outputs and inputs that share a scale.
pub(super) type Block = [usize; 2];

/// How a checkpoint was quantized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// GPTQ; `one_more`: zeros are stored less one.
    Gptq {
        one_more: bool,
    },
    Awq,
    /// FP8.
    Scaled {
        block: Option<Block>,
    },
    /// compressed-tensors, with the numbers of bits of integers.
    Compressed {
        block: Option<Block>,
        bits: Vec<usize>,
    },
    BitsAndBytes,
}

const NEXT: &str = "convert the original model (f32, f16 or bf16) or a GGUF version of it";

/// How the checkpoint of this config was quantized, if it was.
///
/// # Errors
/// It was quantized in a way that is not supported.
pub(crate) fn method(c: &Settings) -> Result<Option<Method>, Error> {
    if c.get("quantization").is_some_and(|q| q.get("bits").is_some()) {
        return Err(c.unsupported("a model quantized with \"MLX\"", NEXT));
    }
    let stated = match c.object("quantization_config")? {
        None => c.object("compression_config")?,
        given => given,
    };
    stated.map(|q| of(&q, "an unnamed method")).transpose()
}

/// How a checkpoint was quantized that says so in a file of its own, as before 2024.
///
/// # Errors
/// It was quantized in a way that is not supported.
pub(crate) fn beside(
    mut read: impl FnMut(&str) -> Result<Option<Settings>, Error>,
) -> Result<Option<Method>, Error> {
    for (file, name) in [("quantize_config.json", "gptq"), ("quant_config.json", "awq")] {
        if let Some(q) = read(file)? {
            return of(&q, name).map(Some);
        }
    }
    Ok(None)
}

/// The method of these settings, which has this name unless they state another.
fn of(q: &Settings, name: &str) -> Result<Method, Error> {
    let name = q.str("quant_method")?.unwrap_or(name);
    let other = |key: &str, value: String| {
        q.unsupported(format!("a model quantized with {name:?} with {key} {value}"), NEXT)
    };
    let refuse = |keys: &[&str]| match keys.iter().find(|key| is_set(q.get(key))) {
        None => Ok(()),
        Some(key) => Err(other(key, q.get(key).map_or_else(String::new, Value::to_string))),
    };
    let only = |key: &str, known: &[&str]| match q.str(key)? {
        Some(value) if !known.contains(&value.to_lowercase().as_str()) => {
            Err(other(key, format!("{value:?}")))
        }
        _ => Ok(()),
    };
    let method = match name {
        "gptq" => {
            refuse(&["is_marlin_format", "adapter", "rotation"])?;
            let formats = ["checkpoint_format", "format"];
            formats.iter().try_for_each(|key| only(key, &["gptq", "gptq_v2"]))?;
            let second = |key: &&str| matches!(q.str(key), Ok(Some("gptq_v2")));
            Method::Gptq { one_more: !formats.iter().any(second) }
        }
        "awq" => {
            ["version", "format"].iter().try_for_each(|key| only(key, &["gemm"]))?;
            Method::Awq
        }
        "fp8" if !q.has("weight_block_size") => Method::Scaled { block: Some([128, 128]) },
        "fp8" | "fbgemm_fp8" => Method::Scaled { block: block(q, "weight_block_size")? },
        "compressed-tensors" => compressed(q, &other, &refuse)?,
        "bitsandbytes" => {
            refuse(&["load_in_8bit", "_load_in_8bit"])?;
            Method::BitsAndBytes
        }
        _ => return Err(q.unsupported(format!("a model quantized with {name:?}"), NEXT)),
    };
    Ok(method)
}

/// Whether a setting asks for something.
fn is_set(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Object(map)) => !map.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(_) => true,
    }
}

/// Two sizes.
fn block(q: &Settings, key: &str) -> Result<Option<Block>, Error> {
    let Some(sizes) = q.numbers(key)? else { return Ok(None) };
    let size = |v: f64| (v >= 1.0 && v.fract() == 0.0 && v <= 65536.0).then_some(v as usize);
    match *sizes {
        [rows, columns] => size(rows).zip(size(columns)).map(|(rows, columns)| [rows, columns]),
        _ => None,
    }
    .map(Some)
    .ok_or_else(|| q.error(key, format!("is {sizes:?}, expected two sizes")))
}

/// compressed-tensors.
fn compressed(
    q: &Settings,
    other: &impl Fn(&str, String) -> Error,
    refuse: &impl Fn(&[&str]) -> Result<(), Error>,
) -> Result<Method, Error> {
    const FORMATS: [&str; 8] = [
        "dense",
        "int-quantized",
        "float-quantized",
        "naive-quantized",
        "pack-quantized",
        "nvfp4-pack-quantized",
        "mixed-precision",
        "frozen",
    ];
    refuse(&["transform_config"])?;
    let format = |settings: &Settings| match settings.str("format")? {
        Some(format) if !FORMATS.contains(&format) => Err(other("format", format!("{format:?}"))),
        _ => Ok(()),
    };
    format(q)?;
    if let Some(sparsity) = q.object("sparsity_config")?
        && let Some(format) = sparsity.str("format")?
        && format != "dense"
    {
        return Err(other("sparsity_config.format", format!("{format:?}")));
    }
    let (mut bits, mut blocks) = (Vec::new(), None);
    if let Some(groups) = q.object("config_groups")? {
        for name in groups.keys() {
            let Some(group) = groups.object(name)? else { continue };
            format(&group)?;
            let Some(weights) = group.object("weights")? else { continue };
            bits.extend(
                weights.u32("num_bits")?.map(|bits| bits as usize).filter(|b| (1..=8).contains(b)),
            );
            blocks = blocks.or(block(&weights, "block_structure")?);
        }
    }
    bits.sort_unstable();
    bits.dedup();
    Ok(Method::Compressed { block: blocks, bits })
}

impl Method {
    /// The weight of a module.
    pub(super) fn weight(&self, module: Module) -> Result<FileTensor, Error> {
        match self {
            Self::Gptq { one_more } => {
                columns::weight(module, Order::Gptq { one_more: *one_more }, self)
            }
            Self::Awq => columns::weight(module, Order::Awq, self),
            Self::Scaled { block } => scaled::weight(module, *block, self),
            Self::Compressed { block, bits } => match module.parts.get(&Part::Codes) {
                Some(codes) if codes.dtype() == Dtype::I32 => packed::weight(module, bits, self),
                Some(codes) if codes.dtype() == Dtype::U8 => fp4::weight(module, self),
                _ => scaled::weight(module, *block, self),
            },
            Self::BitsAndBytes => bitsandbytes::weight(module, self),
        }
    }

    /// How the name of the tensor with the codes ends.
    pub(super) fn codes(&self) -> &'static str {
        match self {
            Self::Gptq { .. } | Self::Awq => ".qweight",
            Self::Compressed { .. } => ".weight_packed",
            Self::Scaled { .. } | Self::BitsAndBytes => ".weight",
        }
    }

    /// Whether tensors of this method have names that end so.
    pub(super) fn names(&self, end: &str) -> bool {
        match self {
            Self::Gptq { .. } | Self::Awq => !end.starts_with(".weight"),
            Self::Scaled { .. } => end.ends_with("_inv"),
            Self::Compressed { .. } => end.starts_with(".weight_") && !end.ends_with("_inv"),
            Self::BitsAndBytes => end.starts_with(".weight."),
        }
    }
}
