//! Whole models whose weights are already quantized: each becomes the same file as the model of its dequantized
//! values. `src/quantized/tests.rs` compares single weights with the publishers' own dequantization.

mod common;

use std::path::Path;

use common::{Shape, Weights, golden, random, read_folder, refused, safetensors, with_header};
use half::{bf16, f16};
use nanoinfer_packer::{Converted, Input, Options, Quant, convert, describe};
use serde_json::{Map, Value, json};

const SHAPE: Shape =
    Shape { d: 64, ff: 96, heads: 4, kv: 2, head_dim: 16, vocab: 40, layers: 2, tied: false };
/// Inputs that share a scale.
const GROUP: usize = 32;

/// A stored tensor: end of its name, type, shape and bytes.
type Stored = (&'static str, &'static str, Vec<usize>, Vec<u8>);

/// A quantized matrix `[n, k]`: its parts, and the values of its rows.
type Quantized = (Vec<Stored>, Vec<f32>);

/// A source of pseudo-random numbers.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % end
    }

    /// A scale that f16 and bf16 can store.
    fn scale(&mut self) -> f32 {
        (self.below(120) + 8) as f32 / 4096.0
    }
}

/// Codes of 4 bits, eight to a word, from the lowest bits on.
fn words(codes: impl IntoIterator<Item = usize>) -> Vec<u8> {
    let codes: Vec<usize> = codes.into_iter().collect();
    codes.chunks(2).map(|pair| (pair[0] | pair[1] << 4) as u8).collect()
}

fn halves(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// GPTQ or AWQ: an input after the other, with scales and zeros `[groups, n]`.
fn columns(r: &mut Numbers, [n, k]: [usize; 2], awq: bool) -> Quantized {
    let groups = k / GROUP;
    let codes: Vec<usize> = (0..n * k).map(|_| r.below(16)).collect(); // [n, k]
    let zeros: Vec<usize> = (0..groups * n).map(|_| 1 + r.below(15)).collect();
    let scales: Vec<f32> = (0..groups * n).map(|_| r.scale()).collect();
    let value = |i: usize| {
        let at = i % k / GROUP * n + i / k;
        f16::from_f32((codes[i] as f32 - zeros[at] as f32) * scales[at]).to_f32()
    };
    // The output at a position of a word of AWQ.
    let ordered = |i: usize| i / 8 * 8 + [0, 2, 4, 6, 1, 3, 5, 7][i % 8];
    let (shape, qweight, qzeros) = if awq {
        let codes = (0..k * n).map(|i| codes[ordered(i % n) * k + i / n]);
        (vec![k, n / 8], words(codes), words((0..groups * n).map(|i| zeros[ordered(i)])))
    } else {
        let codes = (0..k / 8 * n * 8).map(|i| codes[i / 8 % n * k + i / (8 * n) * 8 + i % 8]);
        (vec![k / 8, n], words(codes), words(zeros.iter().map(|zero| zero - 1)))
    };
    let parts = vec![
        (".qweight", "I32", shape, qweight),
        (".qzeros", "I32", vec![groups, n / 8], qzeros),
        (".scales", "F16", vec![groups, n], halves(&scales)),
    ];
    (parts, (0..n * k).map(value).collect())
}

fn gptq(r: &mut Numbers, shape: [usize; 2]) -> Quantized {
    columns(r, shape, false)
}

fn awq(r: &mut Numbers, shape: [usize; 2]) -> Quantized {
    columns(r, shape, true)
}

/// Half a byte of exponent and three bits of mantissa, with a scale for blocks of 32×32.
fn fp8(r: &mut Numbers, [n, k]: [usize; 2]) -> Quantized {
    let codes: Vec<u8> = (0..n * k).map(|_| (r.below(2) << 7 | r.below(112)) as u8).collect();
    let blocks = [n.div_ceil(32), k.div_ceil(32)];
    let scales: Vec<f32> = (0..blocks[0] * blocks[1]).map(|_| r.scale() / 64.0).collect();
    let value = |i: usize| {
        let (exponent, mantissa) = (i32::from(codes[i] >> 3 & 15), f32::from(codes[i] & 7));
        let magnitude = match exponent {
            0 => mantissa / 512.0,
            _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
        };
        let sign = if codes[i] & 128 == 0 { 1.0 } else { -1.0 };
        sign * magnitude * scales[i / k / 32 * blocks[1] + i % k / 32]
    };
    let values = (0..n * k).map(value).collect();
    let parts = vec![
        (".weight_scale_inv", "F32", blocks.to_vec(), floats(&scales)),
        (".input_scale", "F32", vec![], floats(&[1.0])),
        (".weight", "F8_E4M3", vec![n, k], codes),
    ];
    (parts, values)
}

/// compressed-tensors, 4 bits in groups.
fn packed(r: &mut Numbers, [n, k]: [usize; 2]) -> Quantized {
    let codes: Vec<usize> = (0..n * k).map(|_| r.below(16)).collect();
    let scales: Vec<f32> = (0..n * k / GROUP).map(|_| r.scale()).collect();
    let value = |i: usize| bf16::from_f32((codes[i] as f32 - 8.0) * scales[i / GROUP]).to_f32();
    let stored = scales.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
    let shape = [n, k].iter().flat_map(|n| (*n as u64).to_le_bytes()).collect();
    let values = (0..n * k).map(value).collect();
    let parts = vec![
        (".weight_packed", "I32", vec![n, k / 8], words(codes)),
        (".weight_scale", "BF16", vec![n, k / GROUP], stored),
        (".weight_shape", "I64", vec![2], shape),
    ];
    (parts, values)
}

/// bitsandbytes, 4-bit floats in blocks of 64.
fn fp4(r: &mut Numbers, [n, k]: [usize; 2]) -> Quantized {
    const LEVELS: [f32; 8] = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0];
    let map: Vec<f32> = (0..16)
        .map(|i| if i < 8 { LEVELS[i] / 12.0 } else { 0.0 - LEVELS[i - 8] / 12.0 })
        .collect();
    let codes: Vec<usize> = (0..n * k).map(|_| r.below(16)).collect();
    let scales: Vec<f32> = (0..n * k / 64).map(|_| r.scale()).collect();
    let value = |i: usize| f16::from_f32(map[codes[i]] * scales[i / 64]).to_f32();
    let values = (0..n * k).map(value).collect();
    let state = json!({"quant_type": "fp4", "blocksize": 64, "dtype": "float16", "shape": [n, k]});
    let state = state.to_string().into_bytes();
    let stored = codes.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect();
    let parts = vec![
        (".weight", "U8", vec![n * k / 2, 1], stored),
        (".weight.absmax", "F32", vec![n * k / 64], floats(&scales)),
        (".weight.quant_map", "F32", vec![16], floats(&map)),
        (".weight.quant_state.bitsandbytes__fp4", "U8", vec![state.len()], state),
    ];
    (parts, values)
}

type Method = (&'static str, fn(&mut Numbers, [usize; 2]) -> Quantized, Value);

fn methods() -> [Method; 5] {
    let groups = json!({"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int",
        "symmetric": true, "strategy": "group", "group_size": 32}}});
    [
        ("GPTQ", gptq, json!({"quant_method": "gptq", "bits": 4, "group_size": 32})),
        ("AWQ", awq, json!({"quant_method": "awq", "bits": 4, "version": "gemm"})),
        ("F8_E4M3", fp8, json!({"quant_method": "fp8", "weight_block_size": [32, 32]})),
        (
            "INT4",
            packed,
            json!({"quant_method": "compressed-tensors", "format": "pack-quantized",
                "config_groups": groups, "ignore": ["lm_head"]}),
        ),
        ("FP4", fp4, json!({"quant_method": "bitsandbytes", "load_in_4bit": true})),
    ]
}

/// Writes a model whose projections are quantized, in two files; returns the weights of its twin.
fn write(
    folder: &Path,
    quantize: fn(&mut Numbers, [usize; 2]) -> Quantized,
    config: &Value,
) -> Weights {
    let (mut r, mut seed) = (Numbers(11), 5);
    let mut weights = SHAPE.weights();
    let mut files = [(Map::new(), Vec::new()), (Map::new(), Vec::new())];
    let mut add = |file: usize, name: String, dtype: &str, shape: &[usize], bytes: &[u8]| {
        let (header, data) = &mut files[file];
        let range = [data.len(), data.len() + bytes.len()];
        header.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": range}));
        data.extend(bytes);
    };
    for (name, (shape, values)) in &mut weights {
        if name.contains("_proj") {
            let (parts, dequantized) = quantize(&mut r, [shape[0], shape[1]]);
            *values = dequantized;
            // The parts of a weight may be in several files.
            for (i, (end, dtype, shape, bytes)) in parts.into_iter().enumerate() {
                let name = format!("{}{end}", name.strip_suffix(".weight").unwrap());
                add(i % 2, name, dtype, &shape, &bytes);
            }
        } else {
            *values = random(&mut seed, values.len());
            add(0, name.clone(), "F32", shape, &floats(values));
        }
    }
    let mut settings = SHAPE.config();
    settings["quantization_config"] = config.clone();
    std::fs::write(folder.join("config.json"), settings.to_string()).unwrap();
    let mut map = Map::new();
    for (i, (header, data)) in files.into_iter().enumerate() {
        let file = format!("model-0000{i}-of-00002.safetensors");
        map.extend(header.keys().map(|name| (name.clone(), json!(file))));
        let bytes = with_header(&Value::Object(header).to_string(), &data);
        std::fs::write(folder.join(file), bytes).unwrap();
    }
    let index = json!({ "weight_map": map }).to_string();
    std::fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    weights
}

fn converted(folder: &Path, quant: Quant, threads: usize) -> Converted {
    let out = tempfile::tempdir().unwrap();
    let options = Options { threads, ..Options::new(quant) };
    convert(&Input::Folder(folder.into()), &out.path().join("m.nano"), options).unwrap()
}

#[test]
fn models_are_their_dequantized_twins() {
    for (label, quantize, config) in methods() {
        let (dir, twin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let weights = write(dir.path(), quantize, &config);
        SHAPE.write(twin.path(), &weights);
        for quant in [Quant::F32, Quant::Q8] {
            let expected = converted(twin.path(), quant, 1).content_id;
            for threads in [1, 3] {
                let got = converted(dir.path(), quant, threads);
                assert_eq!(got.content_id, expected, "{label}, {quant:?}, {threads} threads");
            }
        }
        let notes = converted(dir.path(), Quant::Q4, 2).notes.join("\n");
        let rounded = notes.contains(&format!("the source has weights in {label};"));
        assert_eq!(rounded, label != "F8_E4M3", "{label}: {notes:?}");
    }
}

#[test]
fn a_quantized_source_is_listed_as_it_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (_, quantize, config) = methods().into_iter().next().unwrap();
    write(dir.path(), quantize, &config);
    let listed = describe(dir.path()).unwrap();
    listed.config.unwrap();
    let codes = listed.tensors.iter().find(|t| t.name.ends_with("0.mlp.up_proj.qweight")).unwrap();
    assert_eq!((codes.dtype, codes.shape), ("I32", [SHAPE.d / 8, SHAPE.ff]));
    let settings = listed.settings.iter().find(|(key, _)| key == "quantization_config").unwrap();
    assert!(settings.1.contains("\"quant_method\":\"gptq\""), "{settings:?}");
}

#[test]
fn settings_may_be_in_a_file_of_their_own() {
    for (method, file, settings) in [
        (0, "quantize_config.json", json!({"bits": 4, "group_size": 32, "desc_act": false})),
        (1, "quant_config.json", json!({"w_bit": 4, "q_group_size": 32, "version": "GEMM"})),
    ] {
        let (_, quantize, config) = methods().into_iter().nth(method).unwrap();
        let (dir, twin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        SHAPE.write(twin.path(), &write(dir.path(), quantize, &config));
        std::fs::write(dir.path().join("config.json"), SHAPE.config().to_string()).unwrap();
        let input = Input::Folder(dir.path().into());
        refused(&input, "a model quantized with GPTQ or AWQ (it has the tensor \"model.layers.0.");
        std::fs::write(dir.path().join(file), settings.to_string()).unwrap();
        let id = |folder: &Path| converted(folder, Quant::Q8, 1).content_id;
        assert_eq!(id(dir.path()), id(twin.path()), "{file}");
    }
}

#[test]
fn modules_that_are_not_converted_stay_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = SHAPE.config();
    config["quantization_config"] = json!({"quant_method": "gptq", "bits": 4});
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), safetensors(&SHAPE.weights())).unwrap();
    let twin = tempfile::tempdir().unwrap();
    SHAPE.write(twin.path(), &SHAPE.weights());
    let id = |folder: &Path| converted(folder, Quant::Q8, 1).content_id;
    assert_eq!(id(dir.path()), id(twin.path()));
}

#[test]
fn a_weight_of_another_shape_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_, quantize, config) = methods().into_iter().next().unwrap();
    write(dir.path(), quantize, &config);
    let mut settings = SHAPE.config();
    settings["quantization_config"] = config;
    settings["intermediate_size"] = json!(SHAPE.ff * 2);
    std::fs::write(dir.path().join("config.json"), settings.to_string()).unwrap();
    let expected =
        "gate_proj.weight\": has shape [96, 64], but the model's config requires [192, 64]";
    refused(&Input::Folder(dir.path().into()), expected);
}

#[test]
fn the_settings_of_a_whole_and_of_its_part_for_text_are_read() {
    let config = std::fs::read_to_string(golden("qwen3-5").join("config.json")).unwrap();
    let text: Value = serde_json::from_str(&config).unwrap();
    for inside in [false, true] {
        let mut config = json!({"model_type": "qwen3_5", "text_config": text});
        let level = if inside { &mut config["text_config"] } else { &mut config };
        level["quantization_config"] = json!({"quant_method": "hqq"});
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        refused(
            &Input::Folder(dir.path().into()),
            "a model quantized with \"hqq\" is not supported",
        );
    }
}

/// The experts of gpt-oss in MXFP4 as published, each `[experts, rows, groups, 16]` and its scales, and in the order
/// of a model that is not quantized, `[experts, inputs, rows]`.
fn mxfp4(r: &mut Numbers, [experts, k, n]: [usize; 3]) -> (Vec<Stored>, Vec<f32>) {
    const VALUES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let codes: Vec<usize> = (0..experts * n * k).map(|_| r.below(16)).collect();
    let scales: Vec<u8> = (0..experts * n * k / GROUP).map(|_| 120 + r.below(6) as u8).collect();
    let stored = |i: usize| {
        let magnitude = VALUES[codes[i] & 7] * 2f32.powi(i32::from(scales[i / GROUP]) - 127);
        if codes[i] < 8 { magnitude } else { -magnitude }
    };
    let transposed = |i: usize| stored(i / (k * n) * k * n + i % n * k + i / n % k);
    let values = (0..experts * n * k).map(transposed).collect();
    let groups = vec![experts, n, k / GROUP];
    let blocks = [&groups[..], &[GROUP / 2]].concat();
    (vec![("_blocks", "U8", blocks, words(codes)), ("_scales", "U8", groups, scales)], values)
}

#[test]
fn gpt_oss_as_published_is_its_dequantized_twin() {
    let mut r = Numbers(3);
    let (mut twin, mut header, mut data) = (read_folder(&golden("gpt-oss")), Map::new(), vec![]);
    let mut add = |name: String, dtype: &str, shape: &[usize], bytes: &[u8]| {
        let range = [data.len(), data.len() + bytes.len()];
        header.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": range}));
        data.extend(bytes);
    };
    for (name, (shape, values)) in &mut twin {
        if let ([experts, k, n], true) = (&shape[..], name.ends_with("_proj")) {
            let (parts, dequantized) = mxfp4(&mut r, [*experts, *k, *n]);
            *values = dequantized;
            for (end, dtype, shape, bytes) in parts {
                add(format!("{name}{end}"), dtype, &shape, &bytes);
            }
        } else {
            add(name.clone(), "F32", shape, &floats(values));
        }
    }
    let config = std::fs::read_to_string(golden("gpt-oss").join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    let (dir, plain) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(plain.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(plain.path().join("model.safetensors"), safetensors(&twin)).unwrap();
    let file = with_header(&Value::Object(header).to_string(), &data);
    std::fs::write(dir.path().join("model.safetensors"), file).unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let expected = "a model quantized with MXFP4 (it has the tensor \"model.layers.0.mlp.experts.";
    refused(&Input::Folder(dir.path().into()), expected);
    config["quantization_config"] =
        json!({"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]});
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    for (quant, threads) in [(Quant::F32, 1), (Quant::Q8, 3)] {
        let expected = converted(plain.path(), quant, 1).content_id;
        assert_eq!(converted(dir.path(), quant, threads).content_id, expected, "{quant:?}");
    }
    let notes = converted(dir.path(), Quant::Q4, 2).notes.join("\n");
    assert!(notes.contains("the source has weights in MXFP4;"), "{notes:?}");
}
