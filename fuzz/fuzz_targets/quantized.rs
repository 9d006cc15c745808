#![no_main]
//! A model with only an embedding and an output layer, both quantized in the same way, with changes to their parts.
//! The model is tied, so that its reader compares the values of both.
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use nanoinfer_fuzz::{Edge, Scratch};
use nanoinfer_packer::describe;
use serde_json::{Map, json};

const METHODS: [&str; 9] = [
    r#"{"quant_method": "gptq"}"#,
    r#"{"quant_method": "gptq", "checkpoint_format": "gptq_v2"}"#,
    r#"{"quant_method": "awq"}"#,
    r#"{"quant_method": "fp8", "weight_block_size": [32, 32]}"#,
    r#"{"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 4}},
        "b": {"weights": {"num_bits": 3}}, "c": {"weights": {"num_bits": 8, "block_structure": [16, 32]}}}}"#,
    r#"{"quant_method": "bitsandbytes"}"#,
    r#"{"quant_method": "fbgemm_fp8"}"#,
    r#"{"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 5}}}}"#,
    r#"{"quant_method": "mxfp4"}"#,
];
const DTYPES: [(&str, u64); 11] = [
    ("F32", 4),
    ("F16", 2),
    ("BF16", 2),
    ("I32", 4),
    ("I64", 8),
    ("U8", 1),
    ("I8", 1),
    ("F8_E4M3", 1),
    ("F8_E5M2", 1),
    ("F8_E8M0", 1),
    ("F64", 8),
];
/// The ends of names, in the order in which [`parts`] uses them.
const PARTS: [&str; 21] = [
    ".qweight",
    ".qzeros",
    ".scales",
    ".g_idx",
    ".weight",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_zero_point",
    ".weight_shape",
    ".weight_g_idx",
    ".weight_global_scale",
    ".weight.absmax",
    ".weight.quant_map",
    ".weight.nested_absmax",
    ".weight.nested_quant_map",
    ".weight.quant_state.bitsandbytes__nf4",
    ".weight.quant_state.bitsandbytes__fp4",
    ".input_scale",
    "_blocks",
    "_scales",
];

#[derive(Debug, arbitrary::Arbitrary)]
struct Model {
    method: u8,
    kind: u8,
    n: u8,
    k: u8,
    groups: u8,
    bits: u8,
    changes: Vec<Change>,
    data: Vec<u8>,
}

#[derive(Debug, arbitrary::Arbitrary)]
enum Change {
    Drop(u8),
    Add(u8, u8, Vec<Edge>),
    Dtype(u8, u8),
    Shape(u8, Vec<Edge>),
    Size(u8, u8, Edge),
    Byte(u8, u16, u8),
    State(u8, Edge),
}

/// Index in [`PARTS`], index in [`DTYPES`], shape, bytes.
type Part = (usize, usize, Vec<u64>, Vec<u8>);

struct Folder {
    config: Scratch,
    weights: Scratch,
}

static FOLDER: LazyLock<Folder> = LazyLock::new(|| Folder {
    config: Scratch::new("config.json"),
    weights: Scratch::new("model.safetensors"),
});

/// Parts that fit together.
fn parts(m: &Model, [n, k]: [u64; 2]) -> Vec<Part> {
    let (f32, f16, i32, i64, u8, i8, f8) = (0, 1, 3, 4, 5, 6, 7);
    let groups = if m.groups % 2 == 0 { k / 8 } else { 1 };
    let bits = [4, 8, 3, 2][usize::from(m.bits % 4)];
    let listed = (0..k).flat_map(|j| ((j % groups) as u32).to_le_bytes()).collect();
    let list = match usize::from(m.method) % METHODS.len() {
        0 | 1 => vec![
            (0, i32, vec![k * bits / 32, n]),
            (1, i32, vec![groups, n * bits / 32]),
            (2, f16, vec![groups, n]),
        ],
        2 => {
            vec![(0, i32, vec![k, n / 8]), (1, i32, vec![groups, n / 8]), (2, f16, vec![groups, n])]
        }
        3 => vec![(4, f8, vec![n, k]), (7, f32, vec![n.div_ceil(32), k.div_ceil(32)])],
        5 => vec![
            (4, u8, vec![(n * k).div_ceil(2), 1]),
            (12, if m.kind % 2 == 0 { f32 } else { u8 }, vec![(n * k).div_ceil(64)]),
        ],
        6 => vec![(4, f8, vec![n, k]), (6, f32, vec![n, 1])],
        8 => {
            let groups = k.div_ceil(32);
            vec![(19, u8, vec![n, 16 * groups]), (20, u8, vec![n, groups])]
        }
        _ => match m.kind % 4 {
            0 => vec![
                (5, i32, vec![n, (k * bits).div_ceil(32)]),
                (6, f16, vec![n, groups]),
                (8, i32, vec![(n * bits).div_ceil(32), groups]),
            ],
            1 => vec![(4, i8, vec![n, k]), (6, f32, vec![n, 1]), (8, i8, vec![n, 1])],
            2 => vec![
                (5, u8, vec![n, k / 2]),
                (6, f8, vec![n, (k / 2).div_ceil(8)]),
                (11, f32, vec![1]),
            ],
            _ => vec![(4, f8, vec![n, k]), (6, f32, vec![n.div_ceil(16), k.div_ceil(32)])],
        },
    };
    let mut data = m.data.iter().copied().chain([1, 60, 3]).cycle();
    let size = |dtype: usize, shape: &[u64]| shape.iter().product::<u64>() * DTYPES[dtype].1;
    let mut out: Vec<Part> = Vec::new();
    for (part, dtype, shape) in list {
        let bytes = data.by_ref().take(size(dtype, &shape) as usize).collect();
        out.push((part, dtype, shape, bytes));
    }
    match (usize::from(m.method) % METHODS.len(), m.kind % 2) {
        (0 | 1, 0) => out.push((3, i32, vec![k], listed)),
        (4 | 7, 0) if m.kind % 4 == 0 => {
            out.push((9, i64, vec![2], [n, k].iter().flat_map(|n| n.to_le_bytes()).collect()));
            if m.kind % 8 == 0 {
                out.push((10, i32, vec![k], listed));
            }
        }
        (5, nested) => {
            let map = nf4().iter().flat_map(|v| v.to_le_bytes()).collect();
            out.push((13, f32, vec![16], map));
            if nested == 1 {
                let blocks = (n * k).div_ceil(64).div_ceil(256);
                out.push((14, f32, vec![blocks], vec![0; 4 * blocks as usize]));
                out.push((15, f32, vec![256], vec![0; 1024]));
            }
            let state = state(nested == 1, [n, k], 64);
            out.push((16, u8, vec![state.len() as u64], state));
        }
        _ => {}
    }
    out
}

fn state(nested: bool, [n, k]: [u64; 2], block: u64) -> Vec<u8> {
    let mut state =
        json!({"quant_type": "nf4", "blocksize": block, "dtype": "float16", "shape": [n, k]});
    if nested {
        state["nested_blocksize"] = json!(256);
        state["nested_offset"] = json!(0.5);
    }
    state.to_string().into_bytes()
}

fn nf4() -> [f32; 16] {
    [
        -1.0,
        -0.6961928,
        -0.52507305,
        -0.3949175,
        -0.28444138,
        -0.18477343,
        -0.091050036,
        0.0,
        0.0795803,
        0.1609302,
        0.2461123,
        0.33791524,
        0.44070983,
        0.562617,
        0.72295684,
        1.0,
    ]
}

fn shape_of(edges: &[Edge]) -> Vec<u64> {
    edges.iter().take(4).map(|edge| edge.value()).collect()
}

fuzz_target!(|model: Model| {
    let shape = [8 * (1 + u64::from(model.n % 6)), 8 * (1 + u64::from(model.k % 12))];
    let mut parts = parts(&model, shape);
    for change in &model.changes {
        let n = parts.len().max(1);
        let at = |i: u8| usize::from(i) % n;
        match change {
            Change::Add(part, dtype, edges) => {
                let part = usize::from(*part) % PARTS.len();
                let dtype = usize::from(*dtype) % DTYPES.len();
                parts.push((part, dtype, shape_of(edges), model.data.clone()));
            }
            _ if parts.is_empty() => {}
            Change::Drop(i) => drop(parts.remove(at(*i))),
            Change::Dtype(i, dtype) => parts[at(*i)].1 = usize::from(*dtype) % DTYPES.len(),
            Change::Shape(i, edges) => parts[at(*i)].2 = shape_of(edges),
            Change::Size(i, dim, edge) => {
                let shape = &mut parts[at(*i)].2;
                let len = shape.len().max(1);
                if let Some(size) = shape.get_mut(usize::from(*dim) % len) {
                    *size = edge.value();
                }
            }
            Change::Byte(i, byte, value) => {
                let bytes = &mut parts[at(*i)].3;
                let len = bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(usize::from(*byte) % len) {
                    *byte = *value;
                }
            }
            Change::State(nested, block) => {
                if let Some(part) = parts.iter_mut().find(|part| part.0 == 16) {
                    part.3 = state(nested % 2 == 1, shape, block.value());
                    part.2 = vec![part.3.len() as u64];
                }
            }
        }
    }
    let (mut header, mut data) = (Map::new(), Vec::new());
    for module in ["model.embed_tokens", "lm_head"] {
        for (part, dtype, shape, bytes) in &parts {
            let range = [data.len(), data.len() + bytes.len()];
            let entry = json!({"dtype": DTYPES[*dtype].0, "shape": shape, "data_offsets": range});
            header.insert(format!("{module}{}", PARTS[*part]), entry);
            data.extend(bytes);
        }
    }
    let header = serde_json::Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    let method = METHODS[usize::from(model.method) % METHODS.len()];
    let config = format!(
        r#"{{"model_type": "llama", "hidden_size": {}, "intermediate_size": 8, "vocab_size": {},
            "num_attention_heads": 2, "num_hidden_layers": 1, "max_position_embeddings": 64,
            "head_dim": 8, "tie_word_embeddings": true, "quantization_config": {method}}}"#,
        shape[1], shape[0]
    );
    FOLDER.config.write(config.as_bytes());
    FOLDER.weights.write(&file);
    let _ = describe(FOLDER.config.folder());
});
