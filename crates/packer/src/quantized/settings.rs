//! `quantization_config`: how a checkpoint says that it was quantized.

use serde_json::Value;

use crate::Error;
use crate::hf::Settings;

/// How a checkpoint was quantized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// GPTQ; `one_more`: zeros are stored less one.
    Gptq {
        one_more: bool,
    },
    Awq,
    /// FP8; `block`: outputs and inputs that share a scale.
    Scaled {
        block: Option<[usize; 2]>,
    },
    /// compressed-tensors, with the numbers of bits of integers.
    Compressed {
        block: Option<[usize; 2]>,
        bits: Vec<usize>,
    },
    BitsAndBytes,
    /// MXFP4, as gpt-oss is published.
    Mxfp4,
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
        Some(key) => Err(other(key, "set".into())),
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
        "mxfp4" => Method::Mxfp4,
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

/// Two sizes, as a list or, in files of compressed-tensors before 2025, as in `"128x128"`.
fn block(q: &Settings, key: &str) -> Result<Option<[usize; 2]>, Error> {
    let Some(value) = q.get(key) else { return Ok(None) };
    let sizes: Option<Vec<usize>> = match value {
        Value::String(text) => text.split('x').map(|size| size.parse().ok()).collect(),
        _ => serde_json::from_value(value.clone()).ok(),
    };
    match sizes.as_deref() {
        Some(&[rows @ 1..=65536, columns @ 1..=65536]) => Ok(Some([rows, columns])),
        _ => Err(q.error(key, "is not two sizes, such as [128, 128]")),
    }
}

/// compressed-tensors.
fn compressed(
    q: &Settings,
    other: &impl Fn(&str, String) -> Error,
    refuse: &impl Fn(&[&str]) -> Result<(), Error>,
) -> Result<Method, Error> {
    const FORMATS: [&str; 10] = [
        "dense",
        "int-quantized",
        "float-quantized",
        "naive-quantized",
        "pack-quantized",
        "nvfp4-pack-quantized",
        "mxfp4-pack-quantized",
        "mxfp8-quantized",
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
