//! The oracles of these tests: a small safetensors writer and a naive reader of `.nano` tensors.
#![allow(dead_code)] // each test file uses only some of it

pub(crate) mod delta;
pub(crate) mod gguf;
pub(crate) mod stacks;
pub(crate) mod torch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nanoinfer_format::{Encoding, NanoFile, Role, Tensor};
use nanoinfer_packer::{Converted, Error, Input, Options, Quant, convert};
use serde_json::{Value, json};

/// A tensor in memory: shape and values.
pub(crate) type Plain = (Vec<usize>, Vec<f32>);
pub(crate) type Weights = BTreeMap<String, Plain>;

/// The folder of a tiny reference model.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny").join(name)
}

/// A byte-level tokenizer.json with these tokens and merges, and the added token `<s>`, id 1.
pub(crate) fn byte_level(vocab: Value, merges: Value) -> Value {
    json!({
        "version": "1.0",
        "added_tokens": [{"id": 1, "content": "<s>", "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
            "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    })
}

/// Converts a folder and opens the result.
pub(crate) fn packed(
    folder: &Path,
    out: &Path,
    quant: Quant,
    threads: usize,
) -> (NanoFile, Converted) {
    let options = Options { threads, ..Options::new(quant) };
    let converted = convert(&Input::Folder(folder.into()), out, options);
    let converted = converted.unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    (NanoFile::open(out).unwrap(), converted)
}

/// Expects a conversion to fail with a one-line message that contains `expected`, leaving no file.
#[track_caller]
pub(crate) fn refused(input: &Input, expected: &str) {
    let out = tempfile::tempdir().unwrap();
    for quant in [Quant::F32, Quant::Q8] {
        let path = out.path().join("m.nano");
        let error: Error = convert(input, &path, Options::new(quant)).expect_err(expected);
        let message = error.to_string();
        assert!(message.contains(expected), "{message:?} does not contain {expected:?}");
        assert!(!message.contains('\n'), "{message:?}");
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0, "a file was left behind");
    }
}

/// Pseudo-random weights with about the spread of trained ones.
pub(crate) fn random(seed: &mut u64, n: usize) -> Vec<f32> {
    let next = |_| {
        *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((*seed >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.2
    };
    (0..n).map(next).collect()
}

/// The shape of a Llama with random weights.
pub(crate) struct Shape {
    pub(crate) d: usize,
    pub(crate) ff: usize,
    pub(crate) heads: usize,
    pub(crate) kv: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocab: usize,
    pub(crate) layers: usize,
    pub(crate) tied: bool,
}

/// Awkward shapes: no width is a multiple of a panel or a group.
pub(crate) const ODD: Shape =
    Shape { d: 100, ff: 150, heads: 5, kv: 1, head_dim: 24, vocab: 331, layers: 2, tied: false };

impl Shape {
    pub(crate) fn config(&self) -> Value {
        json!({
            "model_type": "llama", "hidden_size": self.d, "intermediate_size": self.ff,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv,
            "head_dim": self.head_dim, "vocab_size": self.vocab, "num_hidden_layers": self.layers,
            "max_position_embeddings": 128, "tie_word_embeddings": self.tied,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        })
    }

    pub(crate) fn weights(&self) -> Weights {
        let mut seed = 7;
        let mut w = Weights::new();
        let mut add = |name: String, shape: &[usize]| {
            let values = random(&mut seed, shape.iter().product());
            w.insert(name, (shape.to_vec(), values));
        };
        let d = self.d;
        let (q, kv) = (self.heads * self.head_dim, self.kv * self.head_dim);
        add("model.embed_tokens.weight".into(), &[self.vocab, d]);
        add("model.norm.weight".into(), &[d]);
        if !self.tied {
            add("lm_head.weight".into(), &[self.vocab, d]);
        }
        for i in 0..self.layers {
            let mut add = |name: &str, shape: &[usize]| {
                add(format!("model.layers.{i}.{name}.weight"), shape);
            };
            add("input_layernorm", &[d]);
            add("self_attn.q_proj", &[q, d]);
            add("self_attn.k_proj", &[kv, d]);
            add("self_attn.v_proj", &[kv, d]);
            add("self_attn.o_proj", &[d, q]);
            add("post_attention_layernorm", &[d]);
            add("mlp.gate_proj", &[self.ff, d]);
            add("mlp.up_proj", &[self.ff, d]);
            add("mlp.down_proj", &[d, self.ff]);
        }
        w
    }

    /// Writes the folder.
    pub(crate) fn write(&self, folder: &Path, weights: &Weights) {
        std::fs::write(folder.join("config.json"), self.config().to_string()).unwrap();
        std::fs::write(folder.join("model.safetensors"), safetensors(weights)).unwrap();
    }
}

/// A safetensors file of f32 tensors.
pub(crate) fn safetensors(weights: &Weights) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::<u8>::new());
    for (name, (shape, values)) in weights {
        let begin = data.len();
        data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]});
        header.insert(name.clone(), entry);
    }
    with_header(&Value::Object(header).to_string(), &data)
}

/// A safetensors file with this header, valid or not.
pub(crate) fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Reads all tensors of a folder's safetensors files without checks.
pub(crate) fn read_folder(folder: &Path) -> Weights {
    let mut weights = Weights::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !(name.starts_with("model") && name.ends_with(".safetensors")) {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..data]).unwrap();
        for (name, info) in header.into_iter().filter(|(n, _)| n != "__metadata__") {
            let at = |i: usize| data + info["data_offsets"][i].as_u64().unwrap() as usize;
            let raw = &bytes[at(0)..at(1)];
            let halves = raw.chunks_exact(2).map(|b| [b[0], b[1]]);
            let values = match info["dtype"].as_str().unwrap() {
                "F32" => {
                    raw.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
                }
                "F16" => halves.map(|b| half::f16::from_le_bytes(b).to_f32()).collect(),
                _ => halves.map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
            };
            let shape = serde_json::from_value(info["shape"].clone()).unwrap();
            weights.insert(name, (shape, values));
        }
    }
    weights
}

/// `x` times the orthonormal Hadamard matrix of size `x.len()`: entry (i, j) is −1 to the power of the
/// number of bits that i and j share.
fn hadamard(x: &[f64]) -> Vec<f64> {
    let entry =
        |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
    let n = x.len();
    let sum = |i| (0..n).map(|j| entry(i, j) * x[j]).sum::<f64>() / (n as f64).sqrt();
    (0..n).map(sum).collect()
}

fn rotated(x: &[f64], block: usize) -> Vec<f64> {
    x.chunks(block).flat_map(hadamard).collect()
}

/// Name of the source tensor with this role.
fn source_name(role: Role, layer: Option<u32>, bias: bool) -> String {
    let stem = match role {
        Role::TokenEmbd => "model.embed_tokens",
        Role::OutputNorm => "model.norm",
        Role::Output => "lm_head",
        Role::AttnNorm => "input_layernorm",
        Role::AttnQ => "self_attn.q_proj",
        Role::AttnK => "self_attn.k_proj",
        Role::AttnV => "self_attn.v_proj",
        Role::AttnOutput | Role::AttnOutputBias => "self_attn.o_proj",
        Role::FfnNorm => "post_attention_layernorm",
        Role::FfnGate => "mlp.gate_proj",
        Role::FfnUp => "mlp.up_proj",
        Role::FfnDown | Role::FfnDownBias => "mlp.down_proj",
        other => panic!("{} is not a source tensor", other.name()),
    };
    let kind = if bias { "bias" } else { "weight" };
    match layer {
        Some(i) => format!("model.layers.{i}.{stem}.{kind}"),
        None => format!("{stem}.{kind}"),
    }
}

/// The source tensor and row of every stored row; `None` is padding.
fn row_map(t: &Tensor) -> Vec<Option<(Role, usize)>> {
    let s = &t.spec;
    let [_, n, _] = s.logical.map(|x| x as usize);
    let stored = s.stored[1] as usize;
    if s.parts.is_empty() {
        return (0..stored).map(|r| (r < n).then_some((s.role, r))).collect();
    }
    let mut map = Vec::new();
    for unit in 0..s.repeat as usize {
        for p in &s.parts {
            for block in 0..p.count as usize {
                let rows = p.rows as usize;
                for r in 0..rows.next_multiple_of(16) {
                    let row = (unit * p.count as usize + block) * rows + r;
                    map.push((r < rows && row < p.n as usize).then_some((p.role, row)));
                }
            }
        }
    }
    assert_eq!(map.len(), stored);
    map
}

/// Row `r` of `role` in f64; V is rotated across the rows of its head, as the config specifies.
fn expected_row(nano: &NanoFile, source: &Plain, role: Role, r: usize) -> Vec<f64> {
    let (shape, values) = source;
    let k = shape.get(1).copied().unwrap_or(1);
    let row = |r: usize| &values[r * k..(r + 1) * k];
    let block = nano.config().value_rotation as usize;
    if role != Role::AttnV || block == 1 {
        return row(r).iter().map(|&v| v.into()).collect();
    }
    let first = r / block * block;
    let column = |j: usize| (first..first + block).map(|i| row(i)[j].into()).collect::<Vec<f64>>();
    (0..k).map(|j| hadamard(&column(j))[r - first]).collect()
}

/// Spreads a row's inputs by `k_unit` and pads with zeros.
fn spread(row: &[f64], unit: (u32, u32), stored: usize) -> Vec<f64> {
    let (from, to) = match unit {
        (0, 0) => (row.len(), stored),
        (from, to) => (from as usize, to as usize),
    };
    let mut out = Vec::new();
    for chunk in row.chunks(from) {
        out.extend(chunk);
        out.resize(out.len() + to - from, 0.0);
    }
    out.resize(stored, 0.0);
    out
}

/// Compares every tensor of a file with its source, element by element (exactly for f32, within
/// half a quantization step for q8), and checks that no source tensor is missing.
pub(crate) fn check(nano: &NanoFile, source: &Weights) {
    nano.verify().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for t in nano.tensors() {
        match t.spec.encoding {
            Encoding::U64 => continue,
            Encoding::F32 => check_vector(nano, t, source, &mut seen),
            _ => check_matrix(nano, t, source, &mut seen),
        }
    }
    let tied = nano.config().tied_embeddings;
    let missing: Vec<_> =
        source.keys().filter(|&n| !(seen.contains(n) || tied && n == "lm_head.weight")).collect();
    assert!(missing.is_empty(), "not in the file: {missing:?}");
}

type Seen = std::collections::BTreeSet<String>;

fn check_matrix(nano: &NanoFile, t: &Tensor, source: &Weights, seen: &mut Seen) {
    let (bytes, k) = (nano.bytes(t), t.spec.stored[2] as usize);
    let q8 = t.spec.encoding == Encoding::Q8Panel;
    let f32_at = |at: usize| f64::from(f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()));
    for (row, origin) in row_map(t).into_iter().enumerate() {
        let expected = origin.map_or(vec![0.0; k], |(role, r)| {
            let name = source_name(role, t.spec.layer, false);
            let values = expected_row(nano, &source[&name], role, r);
            seen.insert(name);
            spread(&values, t.spec.k_unit, k)
        });
        let (panel, r) = (row / 16, row % 16);
        if !q8 {
            let base = panel * 16 * k * 4;
            let got: Vec<f64> = (0..k).map(|j| f32_at(base + 64 * j + 4 * r)).collect();
            assert_eq!(got, expected, "{} row {row}", t.spec.role.name());
            continue;
        }
        let base = panel * 16 * (k + 4);
        let scale = f32_at(base + 4 * r);
        for (j, e) in rotated(&expected, t.spec.rotation as usize).into_iter().enumerate() {
            let q = f64::from(bytes[base + 64 + j / 4 * 64 + 4 * r + j % 4]) - 128.0;
            // Half a step, and the rounding of the f32 rotations before it.
            let bound = scale * 0.5001 + 1e-7;
            assert!(
                (q * scale - e).abs() <= bound,
                "{} row {row}, {j}: {q} · {scale}, expected {e}",
                t.spec.role.name()
            );
        }
    }
}

fn check_vector(nano: &NanoFile, t: &Tensor, source: &Weights, seen: &mut Seen) {
    let (values, layer) = (nano.f32s(t), t.spec.layer);
    let matrix = match t.spec.role {
        Role::AttnQkvBias => Some(Role::AttnQkv),
        Role::FfnGateUpBias => Some(Role::FfnGateUp),
        _ => None,
    };
    let bias = t.spec.role.name().ends_with(".bias");
    let map = match matrix {
        Some(role) => row_map(nano.tensor(role, layer).unwrap()),
        None => {
            let k = t.spec.logical[2] as usize;
            (0..values.len()).map(|r| (r < k).then_some((t.spec.role, r))).collect()
        }
    };
    assert_eq!(map.len(), values.len());
    for (got, origin) in values.iter().zip(map) {
        let expected = origin.map_or(0.0, |(role, r)| {
            let name = source_name(role, layer, bias);
            let Some(plain) = source.get(&name) else { return 0.0 };
            seen.insert(name);
            expected_row(nano, plain, role, r)[0]
        });
        if matches!(origin, Some((Role::AttnV, _))) {
            // Rotated in f32 by the packer, in f64 here: log2(64) roundings of sums below 8 · 0.1.
            assert!((f64::from(*got) - expected).abs() <= 1e-6, "{got}, expected {expected}");
        } else {
            assert_eq!(f64::from(*got), expected);
        }
    }
}
