//! The tiny models as `convert_hf_to_gguf.py` of llama.cpp writes them: every tensor and every
//! setting comes out as from the Hugging Face folder.

mod common;

use std::collections::BTreeMap;

use common::gguf::{GgufFile, Meta, permuted};
use common::{golden, packed, read_folder};
use nanoinfer_format::NanoFile;
use nanoinfer_packer::{Input, Options, Quant, convert};
use serde_json::{Value, json};

/// What a model is in GGUF.
struct Case {
    folder: &'static str,
    architecture: &'static str,
    /// Rows of Q and K of each head are in Llama's order.
    permuted: bool,
    /// Added to the weights of norms.
    norm_shift: f32,
    /// Names that are not those of all.
    names: &'static [(&'static str, &'static str)],
    /// Settings that GGUF has no key for, as llama.cpp takes them.
    settings: fn() -> Value,
    /// Keys of its own, from the settings.
    keys: fn(&Value) -> Vec<(&'static str, Meta)>,
}

const NAMES: [(&str, &str); 12] = [
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
];
const POST_NORMS: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

const EXPERTS: &[(&str, &str)] = &[("mlp.gate.", "ffn_gate_inp.")];

fn experts(settings: &Value, width: &str) -> Vec<(&'static str, Meta)> {
    let n = |keys: &[&str]| keys.iter().find_map(|&key| settings[key].as_u64()).unwrap();
    let count = n(&["num_experts", "num_local_experts"]);
    vec![
        ("expert_count", Meta::U32(count as u32)),
        ("expert_used_count", Meta::U32(n(&["num_experts_per_tok"]) as u32)),
        ("expert_feed_forward_length", Meta::U32(n(&[width]) as u32)),
    ]
}

/// Puts `blk.L.ffn_experts.E.PART.weight` of all experts E into `blk.L.ffn_PART_exps.weight`.
fn stacked(tensors: Vec<(String, Vec<u64>, Vec<f32>)>) -> Vec<(String, Vec<u64>, Vec<f32>)> {
    let mut stacks = BTreeMap::<String, BTreeMap<u32, (Vec<u64>, Vec<f32>)>>::new();
    let mut out = Vec::new();
    for (name, dims, values) in tensors {
        let Some((layer, rest)) = name.split_once("ffn_experts.") else {
            out.push((name, dims, values));
            continue;
        };
        let (expert, part) = rest.split_once('.').unwrap();
        let stack = format!("{layer}ffn_{}_exps.weight", part.strip_suffix(".weight").unwrap());
        stacks.entry(stack).or_default().insert(expert.parse().unwrap(), (dims, values));
    }
    for (name, experts) in stacks {
        let mut dims = experts[&0].0.clone();
        dims.push(experts.len() as u64);
        out.push((name, dims, experts.into_values().flat_map(|(_, values)| values).collect()));
    }
    out
}

fn f(settings: &Value, key: &str) -> Meta {
    Meta::F32(settings[key].as_f64().unwrap() as f32)
}

fn window(settings: &Value) -> (&'static str, Meta) {
    let window = settings["sliding_window"].as_u64().unwrap_or(0) as u32;
    ("attention.sliding_window", Meta::U32(window))
}

const PLAIN: Case = Case {
    folder: "",
    architecture: "",
    permuted: false,
    norm_shift: 0.0,
    names: &[],
    settings: || json!({}),
    keys: |_| Vec::new(),
};

fn cases() -> Vec<Case> {
    vec![
        Case { folder: "llama-gqa", architecture: "llama", permuted: true, ..PLAIN },
        Case { folder: "qwen2-bias", architecture: "qwen2", ..PLAIN },
        Case { folder: "qwen3-qknorm", architecture: "qwen3", ..PLAIN },
        Case {
            folder: "qwen3-yarn",
            architecture: "qwen3",
            keys: |_| {
                vec![
                    ("rope.scaling.type", Meta::Str("yarn".into())),
                    ("rope.scaling.factor", Meta::F32(4.0)),
                    ("rope.scaling.original_context_length", Meta::U32(128)),
                ]
            },
            ..PLAIN
        },
        Case {
            folder: "qwen3-experts",
            architecture: "qwen3moe",
            names: EXPERTS,
            keys: |s| experts(s, "moe_intermediate_size"),
            ..PLAIN
        },
        Case {
            folder: "olmoe-experts",
            architecture: "olmoe",
            names: EXPERTS,
            keys: |s| experts(s, "intermediate_size"),
            ..PLAIN
        },
        Case { folder: "phi3-fused", architecture: "phi3", ..PLAIN },
        Case {
            folder: "phi4-long",
            architecture: "phi3",
            keys: |s| {
                let magnitude = (1.0 + (512.0 / 24.0f64).ln() / 24.0f64.ln()).sqrt() as f32;
                vec![
                    window(s),
                    ("rope.dimension_count", Meta::U32(12)),
                    ("rope.scaling.original_context_length", Meta::U32(24)),
                    ("rope.scaling.attn_factor", Meta::F32(magnitude)),
                ]
            },
            ..PLAIN
        },
        Case {
            folder: "granite",
            architecture: "granite",
            permuted: true,
            keys: |s| {
                vec![
                    ("attention.scale", f(s, "attention_multiplier")),
                    ("embedding_scale", f(s, "embedding_multiplier")),
                    ("residual_scale", f(s, "residual_multiplier")),
                    ("logit_scale", f(s, "logits_scaling")),
                ]
            },
            ..PLAIN
        },
        Case {
            folder: "gemma2",
            architecture: "gemma2",
            norm_shift: 1.0,
            names: POST_NORMS,
            settings: || json!({"query_pre_attn_scalar": 16}),
            keys: |s| {
                vec![
                    window(s),
                    ("attn_logit_softcapping", f(s, "attn_logit_softcapping")),
                    ("final_logit_softcapping", f(s, "final_logit_softcapping")),
                ]
            },
            ..PLAIN
        },
        Case {
            folder: "gemma3-text",
            architecture: "gemma3",
            norm_shift: 1.0,
            names: POST_NORMS,
            settings: || json!({"query_pre_attn_scalar": 32, "sliding_window_pattern": 6}),
            keys: |s| vec![window(s)],
            ..PLAIN
        },
        Case { folder: "olmo2", architecture: "olmo2", names: POST_NORMS, ..PLAIN },
        Case {
            folder: "smollm3",
            architecture: "smollm3",
            permuted: true,
            settings: || json!({"no_rope_layers": [1, 1]}),
            ..PLAIN
        },
        Case {
            folder: "starcoder2",
            architecture: "starcoder2",
            names: &[("mlp.c_fc", "ffn_up"), ("mlp.c_proj", "ffn_down")],
            settings: || json!({"sliding_window": null}),
            ..PLAIN
        },
        Case {
            folder: "exaone4",
            architecture: "exaone4",
            names: POST_NORMS,
            keys: |s| {
                let types = s["layer_types"].as_array().unwrap().iter();
                let slides = types.map(|t| i32::from(t == "sliding_attention")).collect();
                vec![window(s), ("attention.sliding_window_pattern", Meta::I32s(slides))]
            },
            ..PLAIN
        },
        Case {
            folder: "exaone4-full",
            architecture: "exaone4",
            names: POST_NORMS,
            settings: || json!({"rope_parameters": {"rope_theta": 1e6}}),
            ..PLAIN
        },
    ]
}

/// The settings of the folder, with those that GGUF cannot state as llama.cpp takes them.
fn settings(case: &Case) -> Value {
    let text = std::fs::read_to_string(golden(case.folder).join("config.json")).unwrap();
    let mut settings: Value = serde_json::from_str(&text).unwrap();
    for (key, value) in (case.settings)().as_object().unwrap() {
        settings[key] = value.clone();
    }
    settings
}

fn gguf(case: &Case, s: &Value) -> GgufFile {
    let n = |key: &str| s[key].as_u64().map(|n| n as u32);
    let heads = n("num_attention_heads").unwrap();
    let kv = n("num_key_value_heads").unwrap();
    let head_dim = n("head_dim").unwrap_or(n("hidden_size").unwrap() / heads);
    let layer_norm = s["norm_epsilon"].is_number();
    let (epsilon, eps) = match layer_norm {
        true => ("attention.layer_norm_epsilon", f(s, "norm_epsilon")),
        false => ("attention.layer_norm_rms_epsilon", f(s, "rms_norm_eps")),
    };
    let theta = s["rope_parameters"]["rope_theta"].as_f64().or(s["rope_theta"].as_f64());
    let mut keys = vec![
        ("context_length", Meta::U32(n("max_position_embeddings").unwrap())),
        ("embedding_length", Meta::U32(n("hidden_size").unwrap())),
        ("block_count", Meta::U32(n("num_hidden_layers").unwrap())),
        ("feed_forward_length", Meta::U32(n("intermediate_size").unwrap())),
        ("attention.head_count", Meta::U32(heads)),
        ("attention.head_count_kv", Meta::U32(kv)),
        ("attention.key_length", Meta::U32(head_dim)),
        ("attention.value_length", Meta::U32(head_dim)),
        ("rope.freq_base", Meta::F32(theta.unwrap() as f32)),
        (epsilon, eps),
    ];
    keys.extend((case.keys)(s));
    let architecture = ("general.architecture".into(), Meta::Str(case.architecture.into()));
    let own = keys.into_iter().map(|(k, v)| (format!("{}.{k}", case.architecture), v));
    let metadata = own.chain([architecture]).collect();
    let mut tensors: Vec<_> = read_folder(&golden(case.folder))
        .into_iter()
        .map(|(name, (dims, mut values))| {
            if name.ends_with("norm.weight") {
                values.iter_mut().for_each(|w| *w += case.norm_shift);
            }
            for (part, heads) in [("q_proj", heads), ("k_proj", kv)] {
                if case.permuted && name.contains(part) {
                    values = permuted(&values, heads as usize, head_dim as usize);
                }
            }
            let names = case.names.iter().chain(&NAMES);
            let name = names.fold(name, |name, (from, to)| name.replace(from, to));
            (name, dims.iter().rev().map(|&d| d as u64).collect::<Vec<_>>(), values)
        })
        .collect();
    for (key, name) in [("short_factor", "short"), ("long_factor", "long")] {
        if let Some(factors) = s["rope_parameters"][key].as_array() {
            let values: Vec<_> = factors.iter().map(|v| v.as_f64().unwrap() as f32).collect();
            let name = format!("rope_factors_{name}.weight");
            tensors.push((name, vec![values.len() as u64], values));
        }
    }
    GgufFile { metadata, tensors: stacked(tensors) }
}

/// The numbers of a config that GGUF has as f32.
fn in_single_precision(nano: &NanoFile) -> Value {
    fn round(value: &mut Value) {
        match value {
            Value::Array(list) => list.iter_mut().for_each(round),
            Value::Object(map) => map.values_mut().for_each(round),
            Value::Number(n) if n.is_f64() => *value = json!(n.as_f64().unwrap() as f32),
            _ => {}
        }
    }
    let mut config = serde_json::to_value(nano.config()).unwrap();
    round(&mut config);
    config["architecture"] = Value::Null; // `gemma3_text` of Hugging Face is `gemma3` here
    config
}

#[test]
fn every_architecture_comes_out_as_from_its_folder() {
    for case in cases() {
        let name = case.folder;
        let settings = settings(&case);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), settings.to_string()).unwrap();
        let weights = golden(name).join("model.safetensors");
        std::fs::copy(weights, folder.path().join("model.safetensors")).unwrap();
        let path = folder.path().join("m.gguf");
        std::fs::write(&path, gguf(&case, &settings).bytes()).unwrap();
        for quant in [Quant::F32, Quant::Q8] {
            let (hf, _) = packed(folder.path(), &folder.path().join("hf.nano"), quant, 2);
            let out = folder.path().join("gguf.nano");
            let input = Input::detect(&path).unwrap();
            convert(&input, &out, Options::new(quant)).unwrap_or_else(|e| panic!("{name}: {e}"));
            let gguf = NanoFile::open(&out).unwrap();
            assert_eq!(in_single_precision(&hf), in_single_precision(&gguf), "{name}");
            assert_eq!(hf.tensors().len(), gguf.tensors().len(), "{name}");
            for (a, b) in hf.tensors().iter().zip(gguf.tensors()) {
                let role = a.spec.role.name();
                assert_eq!(a.spec, b.spec, "{name}");
                if role == "rope_turns" {
                    // Divisors and yarn's bounds pass through f32.
                    let pairs = hf.u64s(a).iter().zip(gguf.u64s(b));
                    pairs.for_each(|(a, b)| assert!(a.abs_diff(*b) <= a >> 20, "{name} {a} {b}"));
                } else {
                    assert_eq!(a.hash, b.hash, "{name}: {role} {:?}", a.spec.layer);
                }
            }
        }
    }
}
