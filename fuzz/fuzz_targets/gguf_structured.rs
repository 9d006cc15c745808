#![no_main]
//! Keys, types and tensor names known to the reader, with edge values.
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use nanoinfer_fuzz::{Edge, Scratch};
use nanoinfer_packer::describe;

const KEYS: [&str; 37] = [
    "general.architecture",
    "general.alignment",
    "llama.context_length",
    "llama.embedding_length",
    "llama.block_count",
    "llama.feed_forward_length",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.key_length",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.attention.sliding_window",
    "llama.rope.freq_base",
    "llama.rope.scaling.type",
    "llama.rope.scaling.factor",
    "llama.expert_count",
    "llama.expert_used_count",
    "llama.expert_feed_forward_length",
    "split.count",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.seperator_token_id",
    "tokenizer.ggml.precompiled_charsmap",
    "tokenizer.ggml.remove_extra_whitespaces",
    "tokenizer.ggml.normalizer.lowercase",
    "general.name",
    "general.sampling.temp",
    "general.sampling.top_k",
    "general.sampling.sequence",
    "tokenizer.chat_template",
];
const NAMES: [&str; 15] = [
    "token_embd.weight",
    "output_norm.weight",
    "output.weight",
    "rope_freqs.weight",
    "blk.0.attn_norm.weight",
    "blk.0.attn_q.weight",
    "blk.0.attn_k.weight",
    "blk.0.attn_v.weight",
    "blk.0.attn_output.weight",
    "blk.0.ffn_norm.weight",
    "blk.0.ffn_gate.weight",
    "blk.0.ffn_up.weight",
    "blk.0.ffn_gate_inp.weight",
    "blk.0.ffn_gate_exps.weight",
    "blk.0.ffn_up.1.weight",
];
const TEXTS: [&str; 13] = [
    "llama",
    "gpt2",
    "t5",
    "bert",
    "linear",
    "none",
    "a",
    "▁b",
    "a b",
    "<0x41>",
    "</s>",
    "<|im_end|>",
    "phi-3",
];

#[derive(Debug, arbitrary::Arbitrary)]
struct Model {
    keys: Vec<(u8, Value)>,
    tensors: Vec<Tensor>,
    data: u16,
    counts: Option<(Edge, Edge)>,
}

#[derive(Debug, arbitrary::Arbitrary)]
enum Value {
    Scalar(u8, Edge),
    Float(f32),
    Text(u8),
    Texts(Vec<u8>),
    Floats(Vec<f32>),
    Ints(Vec<i32>),
    Array(u8, Edge),
}

#[derive(Debug, arbitrary::Arbitrary)]
struct Tensor {
    name: u8,
    dims: Vec<Edge>,
    kind: u8,
    offset: Edge,
}

static FILE: LazyLock<Scratch> = LazyLock::new(|| Scratch::new("s.gguf"));

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn pick<'a>(of: &[&'a str], i: u8) -> &'a str {
    of[usize::from(i) % of.len()]
}

fn value(out: &mut Vec<u8>, v: &Value) {
    let array = |out: &mut Vec<u8>, kind: u32, n: u64| {
        out.extend(9u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend(n.to_le_bytes());
    };
    match v {
        Value::Scalar(kind, v) => {
            let kind = u32::from(kind % 14);
            out.extend(kind.to_le_bytes());
            let width = [1, 1, 2, 2, 4, 4, 4, 1, 8, 8, 8, 8, 8, 8][kind as usize];
            out.extend(&v.value().to_le_bytes()[..width]);
        }
        Value::Float(v) => {
            out.extend(6u32.to_le_bytes());
            out.extend(v.to_le_bytes());
        }
        Value::Text(i) => {
            out.extend(8u32.to_le_bytes());
            string(out, pick(&TEXTS, *i));
        }
        Value::Texts(list) => {
            array(out, 8, list.len() as u64);
            list.iter().for_each(|&i| string(out, pick(&TEXTS, i)));
        }
        Value::Floats(list) => {
            array(out, 6, list.len() as u64);
            list.iter().for_each(|v| out.extend(v.to_le_bytes()));
        }
        Value::Ints(list) => {
            array(out, 5, list.len() as u64);
            list.iter().for_each(|v| out.extend(v.to_le_bytes()));
        }
        Value::Array(kind, n) => array(out, (*kind).into(), n.value()),
    }
}

fuzz_target!(|model: Model| {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    let real = (model.tensors.len() as u64, model.keys.len() as u64);
    let counts = model.counts.map_or(real, |(t, k)| (t.value(), k.value()));
    out.extend(counts.0.to_le_bytes());
    out.extend(counts.1.to_le_bytes());
    for (key, v) in &model.keys {
        string(&mut out, pick(&KEYS, *key));
        value(&mut out, v);
    }
    for t in &model.tensors {
        string(&mut out, pick(&NAMES, t.name));
        out.extend((t.dims.len() as u32).to_le_bytes());
        t.dims.iter().for_each(|d| out.extend(d.value().to_le_bytes()));
        out.extend(u32::from(t.kind % 44).to_le_bytes());
        out.extend(t.offset.value().to_le_bytes());
    }
    out.resize(out.len() + usize::from(model.data), 0);
    let _ = describe(FILE.write(&out));
});
