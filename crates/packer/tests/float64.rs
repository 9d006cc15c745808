//! Weights in 64-bit floats are rounded once, to nearest even.

mod common;

use common::gguf::GgufFile;
use common::torch::{Stored, pickle, write};
use common::{ODD, Weights, check, packed, refused, with_header};
use nanoinfer_format::NanoFile;
use nanoinfer_packer::{Input, Options, Quant, convert};
use serde_json::{Value, json};

/// A value that rounds to `v`: less than half a step away, or exactly half a step if `v` is even.
fn widened(v: f32) -> f64 {
    let exact = f64::from(v);
    let step = f64::from(f32::from_bits(v.to_bits() + 1)) - exact;
    exact + step * if v.to_bits() & 1 == 0 { 0.5 } else { 0.499 }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| widened(*v).to_le_bytes()).collect()
}

fn safetensors(weights: &Weights) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::<u8>::new());
    for (name, (shape, values)) in weights {
        let begin = data.len();
        data.extend(bytes(values));
        let entry = json!({"dtype": "F64", "shape": shape, "data_offsets": [begin, data.len()]});
        header.insert(name.clone(), entry);
    }
    with_header(&Value::Object(header).to_string(), &data)
}

#[test]
fn every_source_is_rounded_once() {
    let weights = ODD.weights();
    let config = ODD.config().to_string();
    let out = tempfile::tempdir().unwrap();

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), &config).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), safetensors(&weights)).unwrap();
    let (nano, _) = packed(dir.path(), &out.path().join("a.nano"), Quant::F32, 2);
    check(&nano, &weights);

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), &config).unwrap();
    let stored = weights.iter().enumerate().map(|(i, (name, (shape, _)))| {
        let shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        Stored::plain(name, "DoubleStorage", &shape, i)
    });
    let stored: Vec<Stored> = stored.collect();
    let values: Vec<&Vec<f32>> = weights.values().map(|(_, v)| v).collect();
    let path = dir.path().join("pytorch_model.bin");
    write(&path, &pickle(&stored), stored.len(), |i| bytes(values[i]));
    let (nano, _) = packed(dir.path(), &out.path().join("b.nano"), Quant::F32, 2);
    check(&nano, &weights);

    let path = out.path().join("m.gguf");
    let gguf = GgufFile::of(&ODD, &weights).bytes_of(28, |v| widened(v).to_le_bytes().to_vec());
    std::fs::write(&path, gguf).unwrap();
    let nano = out.path().join("c.nano");
    convert(&Input::Gguf(path), &nano, Options::new(Quant::F32)).unwrap();
    check(&NanoFile::open(&nano).unwrap(), &weights);
}

#[test]
fn values_beyond_float32_are_refused() {
    let weights = ODD.weights();
    let mut file = safetensors(&weights);
    let last = file.len() - 8;
    file[last..].copy_from_slice(&1e300f64.to_le_bytes());
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), ODD.config().to_string()).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), file).unwrap();
    refused(&Input::Folder(dir.path().into()), "is inf");
}
