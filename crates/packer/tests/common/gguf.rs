//! A small GGUF writer.

use super::{Shape, Weights};

/// A metadata value.
#[derive(Clone)]
pub(crate) enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Str(String),
    Strs(Vec<String>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
}

pub(crate) struct GgufFile {
    pub(crate) metadata: Vec<(String, Meta)>,
    /// Dimensions innermost first, as in GGUF.
    pub(crate) tensors: Vec<(String, Vec<u64>, Vec<f32>)>,
}

fn string(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

fn value(out: &mut Vec<u8>, v: &Meta) {
    let mut typed = |kind: u32, bytes: &[u8]| {
        out.extend(kind.to_le_bytes());
        out.extend(bytes);
    };
    match v {
        Meta::U32(v) => typed(4, &v.to_le_bytes()),
        Meta::F32(v) => typed(6, &v.to_le_bytes()),
        Meta::Bool(v) => typed(7, &[u8::from(*v)]),
        Meta::Str(v) => {
            typed(8, &[]);
            string(out, v);
        }
        Meta::Strs(v) => {
            typed(9, &[&8u32.to_le_bytes()[..], &(v.len() as u64).to_le_bytes()].concat());
            v.iter().for_each(|s| string(out, s));
        }
        Meta::F32s(v) => {
            typed(9, &[&6u32.to_le_bytes()[..], &(v.len() as u64).to_le_bytes()].concat());
            out.extend(v.iter().flat_map(|x| x.to_le_bytes()));
        }
        Meta::I32s(v) => {
            typed(9, &[&5u32.to_le_bytes()[..], &(v.len() as u64).to_le_bytes()].concat());
            out.extend(v.iter().flat_map(|x| x.to_le_bytes()));
        }
    }
}

impl GgufFile {
    pub(crate) fn set(&mut self, key: &str, value: Meta) {
        self.metadata.retain(|(k, _)| k != key);
        self.metadata.push((key.into(), value));
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes_of(0, |v| v.to_le_bytes().to_vec())
    }

    /// The file with all tensors of this ggml type, whose values `encode` writes.
    pub(crate) fn bytes_of(&self, kind: u32, encode: impl Fn(f32) -> Vec<u8>) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, v) in &self.metadata {
            string(&mut out, key);
            value(&mut out, v);
        }
        let mut data = Vec::new();
        for (name, dims, values) in &self.tensors {
            string(&mut out, name);
            out.extend((dims.len() as u32).to_le_bytes());
            out.extend(dims.iter().flat_map(|d| d.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(values.iter().flat_map(|v| encode(*v)));
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }

    /// The model that [`Shape::write`] writes as a folder.
    pub(crate) fn of(shape: &Shape, weights: &Weights) -> Self {
        let u32s = [
            ("context_length", 128),
            ("embedding_length", shape.d),
            ("block_count", shape.layers),
            ("feed_forward_length", shape.ff),
            ("attention.head_count", shape.heads),
            ("attention.head_count_kv", shape.kv),
            ("attention.key_length", shape.head_dim),
            ("attention.value_length", shape.head_dim),
            ("rope.dimension_count", shape.head_dim),
        ];
        let mut metadata: Vec<_> =
            u32s.map(|(k, v)| (format!("llama.{k}"), Meta::U32(v as u32))).into();
        metadata.push(("general.architecture".into(), Meta::Str("llama".into())));
        metadata.push(("llama.rope.freq_base".into(), Meta::F32(10000.0)));
        metadata.push(("llama.attention.layer_norm_rms_epsilon".into(), Meta::F32(1e-5)));
        let tensors = weights.iter().map(|(name, (dims, values))| {
            let values = match name {
                n if n.contains("q_proj") => permuted(values, shape.heads, shape.head_dim),
                n if n.contains("k_proj") => permuted(values, shape.kv, shape.head_dim),
                _ => values.clone(),
            };
            (gguf_name(name), dims.iter().rev().map(|&d| d as u64).collect(), values)
        });
        Self { metadata, tensors: tensors.collect() }
    }
}

/// `convert_hf_to_gguf.py`: `reshape(heads, 2, rows / 2, k).swapaxes(1, 2)`.
pub(crate) fn permuted(values: &[f32], heads: usize, head_dim: usize) -> Vec<f32> {
    let per_head = values.len() / heads;
    let row = per_head / head_dim;
    let mut out = Vec::with_capacity(values.len());
    for head in values.chunks(per_head) {
        for pair in 0..head_dim / 2 {
            for half in 0..2 {
                let from = (half * head_dim / 2 + pair) * row;
                out.extend(&head[from..from + row]);
            }
        }
    }
    out
}

/// The replacements by which llama.cpp's converter renames most tensors, in order.
pub(crate) const NAMES: [(&str, &str); 16] = [
    ("model.layers.", "blk."),
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("self_attn.", "attn_"),
    ("mlp.", "ffn_"),
    ("_proj", ""),
    ("shortconv.in.", "shortconv.in_proj."),
    ("shortconv.out.", "shortconv.out_proj."),
    ("per_layer_model.", "per_layer_model_proj."),
    ("per_layer_norm", "per_layer_proj_norm"),
];

fn gguf_name(name: &str) -> String {
    NAMES.iter().fold(name.to_owned(), |n, (from, to)| n.replace(from, to))
}
