//! Tests with files written by `tools/make_quantized.py`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{Method, method, resolve};
use crate::hf::Settings;
use crate::source::{FileTensor, TensorSource};
use crate::{Error, safetensors};

const FILES: [(&str, usize); 7] = [
    ("fp8", 7),
    ("compressed-tensors", 15),
    ("gptq", 6),
    ("gptq-v2", 2),
    ("awq", 2),
    ("bitsandbytes", 4),
    ("mxfp4", 2),
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quantized").join(name)
}

/// The weights of a file that is quantized as a fixture is.
fn weights(path: &Path, name: &str) -> Result<Vec<FileTensor>, Error> {
    let settings = Settings::read(&fixture(&format!("{name}.json"))).unwrap();
    let tensors = safetensors::open(path)?;
    let stored = tensors.into_iter().filter(|t| !t.name().1.ends_with(".expected")).collect();
    resolve(stored, method(&settings).unwrap().as_ref())
}

fn values(tensor: &FileTensor, step: usize) -> Result<Vec<f32>, Error> {
    let [n, k] = tensor.shape();
    let mut out = vec![0.0; n * k];
    for first in (0..n).step_by(step) {
        let rows = first..n.min(first + step);
        let range = first * k..rows.end * k;
        tensor.read_rows(rows, &mut out[range])?;
    }
    Ok(out)
}

#[test]
fn every_method_dequantizes_bit_for_bit() {
    for (name, n) in FILES {
        let path = fixture(&format!("{name}.safetensors"));
        let found = weights(&path, name).unwrap();
        assert_eq!(found.len(), n, "{name}");
        let expected = safetensors::open(&path).unwrap();
        for weight in found {
            let module = weight.name().1.strip_suffix(".weight").unwrap();
            let wanted = format!("{module}.expected");
            let wanted = expected.iter().find(|t| t.name().1 == wanted).unwrap();
            assert_eq!(weight.shape(), wanted.shape(), "{name}, {module}");
            let bits = |v: Vec<f32>| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let wanted = bits(values(wanted, usize::MAX >> 1).unwrap());
            // Rows in any division.
            for step in [1, 7, 16, 1000] {
                assert_eq!(
                    bits(values(&weight, step).unwrap()),
                    wanted,
                    "{name}, {module}, {step}"
                );
            }
        }
    }
}

/// A file in memory: names, types, shapes and bytes.
type File = Vec<(String, String, Vec<u64>, Vec<u8>)>;

fn read(path: &Path) -> File {
    let bytes = std::fs::read(path).unwrap();
    let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..data]).unwrap();
    let tensor = |(name, info): (String, Value)| {
        let at = |i: usize| data + info["data_offsets"][i].as_u64().unwrap() as usize;
        let shape = info["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap());
        let dtype = info["dtype"].as_str().unwrap().to_owned();
        (name, dtype, shape.collect(), bytes[at(0)..at(1)].to_vec())
    };
    header.into_iter().filter(|(name, _)| name != "__metadata__").map(tensor).collect()
}

fn write(path: &Path, file: &File) {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in file {
        let range = [data.len(), data.len() + bytes.len()];
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": range});
        header.insert(name.clone(), entry);
        data.extend(bytes);
    }
    let header = Value::Object(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(path, [&length, header.as_bytes(), &data].concat()).unwrap();
}

/// Reads all weights of a fixture after a change to one tensor, which is removed by `None`.
fn damaged(
    name: &str,
    tensor: &str,
    change: impl Fn(&str, &[u64], &[u8]) -> Option<(&'static str, Vec<u64>, Vec<u8>)>,
) -> String {
    let mut file = read(&fixture(&format!("{name}.safetensors")));
    let at = file.iter().position(|t| t.0 == tensor).unwrap_or_else(|| panic!("no {tensor}"));
    let (label, dtype, shape, bytes) = file.remove(at);
    if let Some((dtype, shape, bytes)) = change(&dtype, &shape, &bytes) {
        file.insert(at, (label, dtype.into(), shape, bytes));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, &file);
    let read = |found: Vec<FileTensor>| found.iter().try_for_each(|w| values(w, 16).map(drop));
    let error = weights(&path, name).and_then(read).expect_err(tensor).to_string();
    assert!(!error.contains('\n'), "{error}");
    assert!(error.starts_with(path.to_str().unwrap()), "{error}");
    error
}

#[test]
fn a_missing_part_is_named() {
    for (name, tensor, expected) in [
        ("gptq", "order.qweight", "\"order.qweight\": is missing; is the download complete?"),
        ("gptq", "order.qzeros", "\"order.qzeros\": is missing"),
        ("gptq", "order.scales", "\"order.scales\": is missing"),
        ("awq", "a.scales", "\"a.scales\": is missing"),
        ("awq", "a.qzeros", "\"a.qzeros\": is missing"),
        ("fp8", "blocks.weight", "\"blocks.weight\": is missing"),
        ("fp8", "blocks.weight_scale_inv", "\"blocks.weight\": has type F8_E4M3 and no scale"),
        ("compressed-tensors", "group.weight_scale", "\"group.weight_scale\": is missing"),
        ("compressed-tensors", "group.weight_shape", "\"group.weight_shape\": is missing"),
        ("compressed-tensors", "group.weight_packed", "\"group.weight"),
        ("compressed-tensors", "mxfp4.weight_scale", "\"mxfp4.weight_scale\": is missing"),
        (
            "compressed-tensors",
            "mxfp8.weight_scale",
            "\"mxfp8.weight\": has type F8_E4M3 and no scale",
        ),
        (
            "compressed-tensors",
            "float.weight_scale",
            "\"float.weight\": has type F8_E4M3 and no scale",
        ),
        ("compressed-tensors", "int8.weight_scale", "\"int8.weight\": has type I8 and no scale"),
        (
            "compressed-tensors",
            "nvfp4.weight_global_scale",
            "\"nvfp4.weight_global_scale\": is missing",
        ),
        ("bitsandbytes", "nf4.weight", "\"nf4.weight\": is missing"),
        ("bitsandbytes", "nf4.weight.absmax", "\"nf4.weight.absmax\": is missing"),
        ("bitsandbytes", "nf4.weight.quant_map", "\"nf4.weight.quant_map\": is missing"),
        (
            "bitsandbytes",
            "nf4.weight.quant_state.bitsandbytes__nf4",
            "quant_state.bitsandbytes__nf4\": is missing",
        ),
        ("mxfp4", "experts.gate_up_proj_blocks", "\"experts.gate_up_proj_blocks\": is missing"),
        ("mxfp4", "experts.down_proj_scales", "\"experts.down_proj_scales\": is missing"),
        (
            "bitsandbytes",
            "nested.weight.nested_absmax",
            "has only some of the parts of nested scales",
        ),
    ] {
        let error = damaged(name, tensor, |_, _, _| None);
        assert!(error.contains(expected), "{error:?} does not contain {expected:?}");
    }
}

#[test]
fn parts_that_do_not_match_are_named() {
    // One row less of every part: of zeros, scales and groups, nothing that would still be read remains.
    for (name, tensors) in [
        (
            "gptq",
            &["order.qweight", "order.qzeros", "order.scales", "order.g_idx", "three.qweight"][..],
        ),
        ("awq", &["a.qweight", "a.qzeros", "a.scales"]),
        ("fp8", &["blocks.weight_scale_inv", "rows.weight_scale_inv", "cut.weight_scale_inv"]),
        (
            "compressed-tensors",
            &[
                "group.weight_packed",
                "group.weight_scale",
                "group.weight_shape",
                "zeros.weight_zero_point",
                "order.weight_g_idx",
                "float.weight_scale",
                "int8zeros.weight_zero_point",
                "nvfp4.weight_scale",
                "nvfp4.weight_packed",
            ],
        ),
        (
            "bitsandbytes",
            &[
                "nf4.weight",
                "nf4.weight.absmax",
                "nf4.weight.quant_map",
                "nested.weight.nested_absmax",
            ],
        ),
        ("mxfp4", &["experts.gate_up_proj_blocks", "experts.gate_up_proj_scales"]),
    ] {
        for tensor in tensors {
            let error = damaged(name, tensor, |dtype, shape, bytes| {
                let row = bytes.len() / shape[0] as usize;
                let shape = [&[shape[0] - 1], &shape[1..]].concat();
                let dtype = ["I32", "I64", "F16", "F32", "BF16", "U8", "I8", "F8_E4M3"]
                    .into_iter()
                    .find(|known| *known == dtype);
                Some((dtype.unwrap(), shape, bytes[row..].to_vec()))
            });
            assert!(error.contains("tensor \""), "{error}");
        }
    }
}

#[test]
fn groups_and_shapes_out_of_range_are_refused() {
    let with = |name, tensor, dtype: &'static str, bytes: &'static [u8]| {
        damaged(name, tensor, |_, shape, old| {
            let bytes = [bytes, &old[bytes.len()..]].concat();
            Some((dtype, shape.to_vec(), bytes))
        })
    };
    let error = with("gptq", "order.g_idx", "I32", &[4, 0, 0, 0]);
    assert!(error.contains("\"order.g_idx\": has group 4 at input 0, of 4 groups"), "{error}");
    let error = with("gptq", "order.g_idx", "I32", &[255, 255, 255, 255]);
    assert!(error.contains("has group 4294967295 at input 0"), "{error}");
    let error = with("compressed-tensors", "order.weight_g_idx", "I32", &[0, 0, 0, 0, 2, 0, 0, 0]);
    assert!(
        error.contains("\"order.weight_g_idx\": has group 2 at input 1, of 2 groups"),
        "{error}"
    );
    for bytes in [&[0; 8], &[255; 8]] {
        let error = with("compressed-tensors", "group.weight_shape", "I64", bytes);
        assert!(error.contains("\"group.weight_shape\": is not the shape of a matrix"), "{error}");
    }
    let error = with("bitsandbytes", "nf4.weight.quant_map", "F32", &[0, 0, 0, 0]);
    assert!(error.contains("has other values than nf4"), "{error}");
}

#[test]
fn shapes_of_mxfp4_are_checked() {
    let with = |tensor, shape: &[u64], bytes: usize| {
        let (shape, bytes) = (shape.to_vec(), vec![120; bytes]);
        damaged("mxfp4", tensor, move |_, _, _| Some(("U8", shape.clone(), bytes.clone())))
    };
    let (blocks, scales) = ("experts.down_proj_blocks", "experts.down_proj_scales");
    let error = with(blocks, &[2, 40, 1, 15], 1200);
    assert!(error.contains("has rows of 15 bytes, expected groups of 16"), "{error}");
    let error = with(blocks, &[2, 40, 3, 16], 3840);
    assert!(error.contains("_scales\": has shape [80, 1], expected [80, 3]"), "{error}");
    let error = with(blocks, &[2, 1 << 32, 1 << 32, 1 << 32], 1);
    assert!(error.contains("overflows"), "{error}");
    let error = with(blocks, &[2, 40, 0, 16], 0);
    assert!(error.contains("has the empty shape [2, 40, 0, 16]"), "{error}");
    let error = with(scales, &[4, 20, 1], 80);
    assert!(error.contains("is for 4 experts, expected 2"), "{error}");
    let error = with(scales, &[80, 1], 80);
    assert!(error.contains("is for no experts, expected 2"), "{error}");
    let error = with(scales, &[2, 40, 2], 160);
    assert!(error.contains("has shape [80, 2], expected [80, 1]"), "{error}");
}

#[test]
fn types_of_parts_are_checked() {
    for (name, tensor, dtype, expected) in [
        ("gptq", "order.qweight", "F32", "\"order.qweight\": has type F32, expected I32"),
        ("gptq", "order.scales", "I8", "has type I8, expected F32 or F16 or BF16"),
        ("compressed-tensors", "group.weight_packed", "F32", "has type F32, expected"),
        ("compressed-tensors", "nvfp4.weight_scale", "I8", "has type I8, expected F8_E4M3"),
        ("compressed-tensors", "nvfp4.weight_scale", "U8", "has shape [16, 4], expected [16, 2]"),
        ("compressed-tensors", "mxfp8.weight_scale", "I8", "has type I8, expected"),
        ("compressed-tensors", "mxfp8.weight", "F8_E5M2", "has type U8, expected F32"),
        ("compressed-tensors", "mxfp8.weight", "I8", "has type U8, expected F32"),
        ("bitsandbytes", "nf4.weight", "I8", "has type I8, expected U8"),
        ("mxfp4", "experts.down_proj_scales", "F8_E8M0", "has type F8_E8M0, expected U8"),
        ("mxfp4", "experts.down_proj_scales", "F32", "has type F32, expected U8"),
        ("fp8", "blocks.weight_scale_inv", "I32", "has type I32, expected F32 or F16 or BF16"),
    ] {
        let error = damaged(name, tensor, |_, shape, bytes| {
            let width = if dtype.ends_with("32") { 4 } else { 1 };
            let values: u64 = shape.iter().product();
            Some((
                dtype,
                shape.to_vec(),
                bytes.iter().copied().cycle().take(values as usize * width).collect(),
            ))
        });
        assert!(error.contains(expected), "{error:?} does not contain {expected:?}");
    }
}

#[test]
fn settings_of_a_bitsandbytes_weight() {
    for (state, expected) in [
        ("{", "is not the JSON of a quant_state"),
        (
            r#"{"quant_type":"af4","blocksize":64,"dtype":"float16","shape":[24,40]}"#,
            "quant_type \"af4\"",
        ),
        (r#"{"quant_type":"nf4","blocksize":64,"dtype":"int8","shape":[24,40]}"#, "dtype \"int8\""),
        (
            r#"{"quant_type":"nf4","blocksize":0,"dtype":"float16","shape":[24,40]}"#,
            "in blocks of 0",
        ),
        (
            r#"{"quant_type":"nf4","blocksize":64,"dtype":"float16","shape":[24]}"#,
            "that of a matrix",
        ),
        (
            r#"{"quant_type":"nf4","blocksize":64,"dtype":"float16","shape":[9223372036854775807,40]}"#,
            "in blocks of 64",
        ),
        (
            r#"{"quant_type":"nf4","blocksize":64,"dtype":"float16","shape":[24,41]}"#,
            "expected 492 for shape",
        ),
        (
            r#"{"quant_type":"nf4","blocksize":32,"dtype":"float16","shape":[24,40]}"#,
            "expected [30, 1]",
        ),
    ] {
        let error =
            damaged("bitsandbytes", "nf4.weight.quant_state.bitsandbytes__nf4", |_, _, _| {
                Some(("U8", vec![state.len() as u64], state.as_bytes().to_vec()))
            });
        assert!(error.contains(expected), "{error:?} does not contain {expected:?}");
    }
}

fn read_method(settings: &Value) -> Result<Option<Method>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, settings.to_string()).unwrap();
    method(&Settings::read(&path).unwrap()).map_err(|e| e.to_string())
}

#[test]
fn settings_that_would_change_values_are_refused() {
    let q = |more: Value| json!({"quantization_config": more});
    for (settings, expected) in [
        (
            q(json!({"quant_method": "hqq"})),
            "quantized with \"hqq\" is not supported; convert the original",
        ),
        (q(json!({})), "an unnamed method"),
        (
            q(json!({"quant_method": "gptq", "checkpoint_format": "marlin"})),
            "checkpoint_format \"marlin\"",
        ),
        (q(json!({"quant_method": "gptq", "is_marlin_format": true})), "is_marlin_format set"),
        (q(json!({"quant_method": "awq", "version": "GEMV"})), "version \"GEMV\""),
        (q(json!({"quant_method": "bitsandbytes", "load_in_8bit": true})), "load_in_8bit set"),
        (
            q(json!({"quant_method": "fp8", "weight_block_size": [128, 0]})),
            "weight_block_size is not two sizes, such as [128, 128]",
        ),
        (
            q(json!({"quant_method": "compressed-tensors", "format": "marlin-24"})),
            "format \"marlin-24\"",
        ),
        (
            q(
                json!({"quant_method": "compressed-tensors", "transform_config": {"config_groups": {"u": {}}}}),
            ),
            "transform_config set is not supported; convert the original",
        ),
        (
            q(
                json!({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask"}}),
            ),
            "sparsity_config.format \"sparse-bitmask\"",
        ),
        (
            q(json!({"quant_method": "compressed-tensors",
                "config_groups": {"g": {"format": "mxfp6-pack-quantized"}}})),
            "format \"mxfp6-pack-quantized\"",
        ),
        (json!({"quantization": {"bits": 4}}), "\"MLX\""),
    ] {
        let error = read_method(&settings).unwrap_err();
        assert!(error.contains(expected), "{error:?} does not contain {expected:?}");
    }
    for sizes in [json!([16, 32]), json!("16x32")] {
        let groups = json!({"g": {"weights": {"num_bits": 8, "block_structure": sizes}}});
        let config = json!({"quant_method": "compressed-tensors", "config_groups": groups});
        let expected = Method::Compressed { block: Some([16, 32]), bits: vec![8] };
        assert_eq!(read_method(&q(config)), Ok(Some(expected)));
    }
    for settings in [
        json!({}),
        json!({"quantization_config": null}),
        q(json!({"quant_method": "gptq", "checkpoint_format": "gptq", "is_marlin_format": false})),
        q(json!({"quant_method": "awq", "version": "GEMM"})),
        q(json!({"quant_method": "compressed-tensors", "sparsity_config": {"format": "dense"},
            "transform_config": {}})),
    ] {
        read_method(&settings).unwrap();
    }
}
