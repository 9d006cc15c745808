#![no_main]
//! Keys, types and tensor names known to the reader, of every architecture, with edge values.
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use nanoinfer_fuzz::{Edge, Scratch};
use nanoinfer_packer::describe;

const ARCHITECTURES: &[&str] = &[
    "apertus",
    "arcee",
    "cohere2",
    "command-r",
    "deepseek2",
    "ernie4_5",
    "ernie4_5-moe",
    "exaone4",
    "falcon-h1",
    "gemma2",
    "gemma3",
    "gemma4",
    "glm4",
    "glm4moe",
    "gpt-oss",
    "granite",
    "granitehybrid",
    "granitemoe",
    "hunyuan-dense",
    "lfm2",
    "lfm2moe",
    "llama",
    "llama4",
    "minicpm3",
    "mistral3",
    "nemotron_h",
    "nemotron_h_moe",
    "olmo2",
    "olmoe",
    "phi3",
    "phimoe",
    "qwen2",
    "qwen3",
    "qwen35",
    "qwen35moe",
    "qwen3moe",
    "qwen3next",
    "seed_oss",
    "smollm3",
    "stablelm",
    "starcoder2",
];
/// Keys that every model has, with values that go together.
const BASE: &[(&str, u32)] = &[
    (".context_length", 512),
    (".embedding_length", 64),
    (".block_count", 2),
    (".feed_forward_length", 96),
    (".attention.head_count", 4),
    (".attention.head_count_kv", 2),
    (".vocab_size", 192),
];
/// Keys of an architecture begin with a dot.
const KEYS: &[&str] = &[
    ".context_length",
    ".embedding_length",
    ".block_count",
    ".feed_forward_length",
    ".attention.head_count",
    ".attention.head_count_kv",
    ".vocab_size",
    ".attention.key_length",
    ".attention.value_length",
    ".attention.key_length_swa",
    ".attention.value_length_swa",
    ".attention.key_length_mla",
    ".attention.value_length_mla",
    ".attention.kv_lora_rank",
    ".attention.q_lora_rank",
    ".attention.layer_norm_epsilon",
    ".attention.layer_norm_rms_epsilon",
    ".attention.recurrent_layers",
    ".attention.shared_kv_layers",
    ".attention.sliding_window",
    ".attention.sliding_window_pattern",
    ".attention.temperature_scale",
    ".attention.temperature_length",
    ".attention.scale",
    ".attn_logit_softcapping",
    ".final_logit_softcapping",
    ".router_logit_softcapping",
    ".embedding_length_per_layer_input",
    ".expert_count",
    ".expert_used_count",
    ".expert_feed_forward_length",
    ".expert_gating_func",
    ".expert_group_count",
    ".expert_group_used_count",
    ".expert_shared_count",
    ".expert_shared_feed_forward_length",
    ".expert_weights_norm",
    ".expert_weights_scale",
    ".full_attention_interval",
    ".leading_dense_block_count",
    ".interleave_moe_layer_step",
    ".logit_scale",
    ".residual_scale",
    ".embedding_scale",
    ".moe_latent_size",
    ".nextn_predict_layers",
    ".rope.dimension_count",
    ".rope.dimension_count_swa",
    ".rope.dimension_sections",
    ".rope.freq_base",
    ".rope.freq_base_swa",
    ".rope.scale_linear",
    ".rope.scaling.attn_factor",
    ".rope.scaling.factor",
    ".rope.scaling.finetuned",
    ".rope.scaling.original_context_length",
    ".rope.scaling.type",
    ".rope.scaling.yarn_beta_fast",
    ".rope.scaling.yarn_beta_slow",
    ".rope.scaling.yarn_log_multiplier",
    ".shortconv.l_cache",
    ".ssm.conv_kernel",
    ".ssm.group_count",
    ".ssm.inner_size",
    ".ssm.state_size",
    ".ssm.time_step_rank",
    ".use_parallel_residual",
    ".xielu.alpha_n",
    ".xielu.alpha_p",
    ".xielu.beta",
    ".xielu.eps",
    "general.alignment",
    "general.file_type",
    "general.name",
    "general.sampling.temp",
    "general.sampling.top_k",
    "general.sampling.sequence",
    "split.count",
    "split.no",
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
    "tokenizer.chat_template",
];
/// Those of layers begin with a dot.
const NAMES: &[&str] = &[
    "token_embd",
    "output_norm",
    "output",
    "rope_freqs",
    "token_embd_norm",
    "per_layer_token_embd",
    "per_layer_model_proj",
    "per_layer_proj_norm",
    ".attn_norm",
    ".attn_q",
    ".attn_k",
    ".attn_v",
    ".attn_qkv",
    ".attn_q_norm",
    ".attn_k_norm",
    ".attn_sinks",
    ".attn_output",
    ".attn_q_a",
    ".attn_q_a_norm",
    ".attn_q_b",
    ".attn_kv_a_mqa",
    ".attn_kv_a_norm",
    ".attn_kv_b",
    ".attn_k_b",
    ".attn_v_b",
    ".attn_gate",
    ".post_attention_norm",
    ".ffn_norm",
    ".ffn_gate",
    ".ffn_up",
    ".ffn_down",
    ".ffn_gate_inp",
    ".ffn_gate_exps",
    ".ffn_up_exps",
    ".ffn_down_exps",
    ".ffn_gate_up_exps",
    ".ffn_gate.1",
    ".ffn_up.1",
    ".ffn_gate_shexp",
    ".ffn_up_shexp",
    ".ffn_down_shexp",
    ".ffn_gate_inp_shexp",
    ".exp_probs_b",
    ".post_ffw_norm",
    ".ssm_in",
    ".ssm_conv1d",
    ".ssm_a",
    ".ssm_dt",
    ".ssm_d",
    ".ssm_norm",
    ".ssm_out",
    ".ssm_ba",
    ".ssm_alpha",
    ".ssm_beta",
    ".shortconv.conv",
    ".shortconv.in_proj",
    ".shortconv.out_proj",
    ".layer_output_scale",
    ".inp_gate",
    ".proj",
    ".post_norm",
];
const TEXTS: &[&str] = &[
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
    "yarn",
    "longrope",
];

#[derive(Debug, arbitrary::Arbitrary)]
struct Model {
    architecture: u8,
    /// Bits: which keys of `BASE` are left out.
    without: u8,
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
    layer: u8,
    bias: bool,
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
            string(out, pick(TEXTS, *i));
        }
        Value::Texts(list) => {
            array(out, 8, list.len() as u64);
            list.iter().for_each(|&i| string(out, pick(TEXTS, i)));
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
    let architecture = pick(ARCHITECTURES, model.architecture);
    let full = |key: &str| match key.starts_with('.') {
        true => format!("{architecture}{key}"),
        false => key.to_owned(),
    };
    let changed = |key: &str| model.keys.iter().any(|(changed, _)| pick(KEYS, *changed) == key);
    let base = BASE.iter().zip(0..);
    let base = base.filter(|((key, _), bit)| model.without >> bit & 1 == 0 && !changed(key));
    let base: Vec<_> = base.map(|(base, _)| base).collect();
    let real = (model.tensors.len() as u64, (1 + base.len() + model.keys.len()) as u64);
    let counts = model.counts.map_or(real, |(t, k)| (t.value(), k.value()));
    out.extend(counts.0.to_le_bytes());
    out.extend(counts.1.to_le_bytes());
    string(&mut out, "general.architecture");
    out.extend(8u32.to_le_bytes());
    string(&mut out, architecture);
    for (key, v) in base {
        string(&mut out, &full(key));
        out.extend(4u32.to_le_bytes());
        out.extend(v.to_le_bytes());
    }
    for (key, v) in &model.keys {
        string(&mut out, &full(pick(KEYS, *key)));
        value(&mut out, v);
    }
    for t in &model.tensors {
        let ending = if t.bias { "bias" } else { "weight" };
        let name = match pick(NAMES, t.name) {
            name if name.starts_with('.') => format!("blk.{}{name}.{ending}", t.layer % 3),
            name => format!("{name}.{ending}"),
        };
        string(&mut out, &name);
        out.extend((t.dims.len() as u32).to_le_bytes());
        t.dims.iter().for_each(|d| out.extend(d.value().to_le_bytes()));
        out.extend(u32::from(t.kind % 44).to_le_bytes());
        out.extend(t.offset.value().to_le_bytes());
    }
    out.resize(out.len() + usize::from(model.data), 0);
    let _ = describe(FILE.write(&out));
});
