//! Invalid configs and generation defaults of every kind, with valid hashes.

mod common;

use common::*;
use nanoinfer_format::SectionKind as Kind;

#[test]
fn malformed_json() {
    let scratch = Scratch::new();
    let small = scratch.small();
    let with = |extra: &str| {
        let mut json = serde_json::to_string(&config()).expect("JSON");
        json.truncate(json.len() - 1);
        json + extra
    };
    let good = serde_json::to_string(&config()).expect("JSON");
    let configs = [
        String::new(),
        "{}".into(),
        "null".into(),
        "[]".into(),
        with(r#","extra":1}"#),
        with(",\"\\n\\u001b[2J\":1}"),
        with(r#","n_layers":2}"#),
        with(""),
        with("}x"),
        format!(" {good}"),
        "[".repeat(100_000),
        "{\"windows\":".to_string() + &"[".repeat(100_000),
        good.replace("\"q8\"", "\"q8\\n\""),
        good.replace("0.5", "1e999"),
        good.replace("0.5", "NaN"),
        good.replace("[0,16]", "[0,4294967296]"),
    ];
    for json in &configs {
        let shown: String = json.chars().take(60).collect();
        attack(&scratch, &small, &shown, "config", |i| i.replace(Kind::Config, json.as_bytes()));
    }
    for json in ["", "[]", "null", "{", r#"{"beos":1}"#, r#"{"eos":1}"#, r#"{"bos":-1}"#] {
        attack(&scratch, &small, json, "generation defaults", |image| {
            image.replace(Kind::Generation, json.as_bytes());
        });
    }
    let mut image = small.clone();
    image.replace(Kind::Config, b"{\xff}");
    scratch.rejected(&image.0, "not UTF-8");
    let spaced = good.replace(',', ", ");
    image.replace(Kind::Config, spaced.as_bytes());
    scratch.open(&image.0).expect("whitespace is allowed").verify().expect("valid");
}

#[test]
fn config_values() {
    let scratch = Scratch::new();
    let small = scratch.small();
    let rejected = |field: &str, value: serde_json::Value| {
        let mut json = serde_json::to_value(config()).expect("JSON");
        let what = format!("{field} = {value}");
        json[field] = value;
        let mut image = small.clone();
        image.replace(Kind::Config, json.to_string().as_bytes());
        scratch.rejected(&image.0, &what)
    };
    let sizes = [
        ("n_layers", 1u64 << 14),
        ("d_model", 1 << 24),
        ("d_ff", 1 << 24),
        ("n_heads", 1 << 12),
        ("n_kv_heads", 1 << 12),
        ("head_dim", 1 << 12),
        ("vocab_size", 1 << 24),
        ("context_length", 1 << 30),
    ];
    for (field, max) in sizes {
        for value in [0, max + 1, u64::from(u32::MAX)] {
            let message = rejected(field, value.into());
            assert!(message.contains(field), "{message}");
        }
        for value in [serde_json::json!(1u64 << 32), (-1).into(), 1.5.into(), "2".into(), ().into()]
        {
            rejected(field, value);
        }
    }
    for field in ["norm_eps", "attention_scale", "embedding_scale", "logit_scale", "rope_theta"] {
        for value in [0.0, -1.0, 1e-46, 1e39, 1e-300] {
            let message = rejected(field, value.into());
            assert!(message.contains(field), "{message}");
        }
    }
    let routers = |field: &str, value: serde_json::Value| {
        let mut experts = serde_json::json!({"n_experts": 4, "experts_per_token": 2, "d_ff": 16,
            "router_softmax": "all", "layers": [true, false]});
        experts[field] = value;
        experts
    };
    let groups = |n: u32, chosen: u32, best: u32| {
        routers("router_groups", serde_json::json!({"n": n, "chosen": chosen, "best": best}))
    };
    let temperature = |scale: f64, step: u32, layers: &[bool]| serde_json::json!({"scale": scale, "step": step, "offset": 0, "layers": layers});
    let xielu = serde_json::json!([{"positive": 1.0, "negative": 1.0, "beta": 0.5, "eps": 0.0}]);
    let recurrent = |layers: [bool; 2], without_norm: bool| {
        serde_json::json!({"kind": "delta", "kernel": 4, "key_heads": 1, "key_dim": 16, "value_heads": 1,
            "value_dim": 16, "layers": layers, "without_norm": without_norm})
    };
    let plain = serde_json::json!({"n_kv_heads": 1, "head_dim": 8});
    let layers = |other: serde_json::Value| serde_json::json!([plain, other]);
    let latent = |kv_rank: u32, eps: f64| {
        serde_json::json!({"kv_rank": kv_rank, "q_rank": 0, "nope_dim": 8, "value_dim": 8,
            "norm_eps": eps})
    };
    let attention = [
        (serde_json::json!([plain]), "one entry per layer"),
        (layers(serde_json::json!({"n_kv_heads": 3, "head_dim": 8})), "a divisor of n_heads"),
        (layers(serde_json::json!({"n_kv_heads": 1, "head_dim": 16})), "up to head_dim"),
        (layers(serde_json::json!({"n_kv_heads": 1, "head_dim": 4})), "of value_rotation"),
        (layers(serde_json::json!({"n_kv_heads": 1, "head_dim": 8, "cache_of": 1})), "an earlier"),
        (layers(serde_json::json!({"n_kv_heads": 2, "head_dim": 8, "cache_of": 0})), "an earlier"),
        (layers(serde_json::json!({"n_kv_heads": 1})), "missing field"),
    ];
    for (value, expected) in attention {
        let message = rejected("layer_attention", value);
        assert!(message.contains(expected), "{message}");
    }
    let others = [
        ("layer_d_ff", serde_json::json!([48]), "one entry per layer"),
        ("layer_d_ff", serde_json::json!([48, 49]), "from 1 to d_ff"),
        ("layer_embedding", 8.into(), "a multiple of 16"),
        ("layer_embedding", 16.into(), "post norms"),
        ("layer_scale", true.into(), "post norms"),
        ("latent", latent(8, 1e-6), "a multiple of 16"),
        ("latent", latent(16, 1e-6), "head_dim - latent.kv_rank"),
        ("n_kv_heads", 3.into(), "divisor"),
        ("head_dim", 7.into(), "even"),
        ("value_rotation", 0.into(), "power of two"),
        ("value_rotation", 3.into(), "power of two"),
        ("value_rotation", 16.into(), "divides head_dim"),
        ("value_rotation", 128.into(), "up to 64"),
        ("quant", "q6".into(), "unknown variant"),
        ("attention_softcap", (-1.0).into(), "0 or a positive number"),
        ("logit_softcap", 1e39.into(), "0 or a positive number"),
        ("norm", "batch".into(), "unknown variant"),
        ("norm_place", "none".into(), "unknown variant"),
        ("qk_norm", "all".into(), "unknown variant"),
        ("activation", "relu".into(), "unknown variant"),
        ("gated", "yes".into(), "boolean"),
        ("rotary_dim", 0.into(), "rotary_dim"),
        ("rotary_dim", 3.into(), "even"),
        ("rotary_dim", 10.into(), "to head_dim"),
        ("ropes", serde_json::json!([]), "1 to 16"),
        ("ropes", serde_json::json!([{"magnitude": 0.0, "limits": []}]), "ropes.magnitude"),
        ("ropes", serde_json::json!([{"magnitude": 1.0, "limits": [4, 4]}]), "ascending"),
        ("ropes", serde_json::json!([{"magnitude": 1.0, "limits": [5, 4]}]), "ascending"),
        ("ropes", serde_json::json!([{"magnitude": 1.0}]), "missing field"),
        ("layer_ropes", serde_json::json!([1]), "one entry per layer"),
        ("layer_ropes", serde_json::json!([0, 2]), "at most the number of ropes"),
        ("windows", serde_json::json!([0]), "one entry per layer"),
        ("windows", serde_json::json!([0, 0, 0]), "one entry per layer"),
        ("windows", serde_json::json!([]), "one entry per layer"),
        ("architecture", "".into(), "architecture"),
        ("architecture", "a\n\u{1b}[31mb".into(), "architecture"),
        ("architecture", "x".repeat(65).into(), "architecture"),
        ("tied_embeddings", 1.into(), "boolean"),
        ("layer_parts", serde_json::json!(["both"]), "one entry per layer"),
        ("layer_parts", serde_json::json!(["both", "none"]), "unknown variant"),
        ("layer_parts", serde_json::json!(["ffn", "ffn"]), "at least one layer with attention"),
        ("temperature", temperature(0.0, 4, &[true, true]), "temperature.scale"),
        ("temperature", temperature(1.0, 0, &[true, true]), "at least 1"),
        ("temperature", temperature(1.0, 4, &[true]), "one entry per layer"),
        ("temperature", temperature(1.0, 4, &[false, false]), "at least one of them true"),
        ("parallel", 1.into(), "boolean"),
        ("qk_norm_late", true.into(), "unless qk_norm is head or unit"),
        ("activation", "xielu".into(), "one entry per layer with this activation"),
        ("xielu", xielu, "one entry per layer with this activation"),
        ("experts", groups(0, 1, 1), "a divisor of n_experts"),
        ("experts", groups(3, 1, 1), "a divisor of n_experts"),
        ("experts", groups(2, 3, 1), "experts_per_token experts in all"),
        ("experts", groups(4, 1, 1), "experts_per_token experts in all"),
        ("experts", groups(4, 2, 2), "at most a group's size"),
        ("experts", groups(2, 1, 3), "at most a group's size"),
        ("experts", routers("router_distance", (-0.1).into()), "at least 0"),
        ("experts", routers("separate_norms", true.into()), "pre norms, or both"),
        ("recurrent", recurrent([false, false], false), "at least one of them true"),
        ("recurrent", recurrent([true, true], false), "at least one layer with attention"),
        ("recurrent", recurrent([true, false], true), "only for mamba2"),
    ];
    for (field, value, expected) in others {
        let message = rejected(field, value);
        assert!(message.contains(expected), "{field}: {message}");
    }
}

/// Older files do not record the packer's version, and some have no provenance at all.
#[test]
fn packer_versions() {
    let scratch = Scratch::new();
    let mut image = scratch.small();
    for (json, version) in [
        (r#"{"packer":7,"new":1}"#, 7),
        (r#"{"kind":"gguf"}"#, 2),
        (r#"{"packer":null}"#, 2),
        (r#"{"packer":-1}"#, 2),
        ("[", 2),
    ] {
        image.replace(Kind::Provenance, json.as_bytes());
        assert_eq!(scratch.open(&image.0).expect("valid").packer_version(), version, "{json}");
    }
}

#[test]
fn generation_values() {
    let scratch = Scratch::new();
    let small = scratch.small();
    let cases = [
        (r#"{"bos":20}"#, "bos is 20"),
        (r#"{"eos":[1,4294967295]}"#, "eos is 4294967295"),
        (r#"{"temperature":-0.1}"#, "temperature is -0.1"),
        (r#"{"temperature":1e7}"#, "temperature"),
        (r#"{"top_p":1.5}"#, "top_p is 1.5"),
        (r#"{"min_p":-1}"#, "min_p is -1"),
        (r#"{"repetition_penalty":0}"#, "repetition_penalty is 0"),
    ];
    for (json, expected) in cases {
        attack(&scratch, &small, json, expected, |image| {
            image.replace(Kind::Generation, json.as_bytes());
        });
    }
    let mut image = small;
    image.replace(Kind::Generation, b"{}");
    let file = scratch.open(&image.0).expect("all fields have defaults");
    assert_eq!(file.generation(), &nanoinfer_format::Generation::default());
    image.replace(
        Kind::Generation,
        br#"{"bos":1,"bos_token":"","eos_token":"<end>","pad_token":null}"#,
    );
    let file = scratch.open(&image.0).expect("valid");
    let expected = nanoinfer_format::Generation {
        bos: Some(1),
        bos_token: Some(String::new()),
        eos_token: Some("<end>".into()),
        ..Default::default()
    };
    assert_eq!(file.generation(), &expected);
}
