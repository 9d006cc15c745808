//! Invalid sources: each is refused with a one-line message, and no file is left behind.

mod common;

use std::path::Path;

use common::{ODD, Shape, Weights, golden, refused, safetensors, with_header};
use nanoinfer_packer::{Input, Options, Quant, convert};
use serde_json::{Value, json};
use tempfile::TempDir;

const SMALL: Shape =
    Shape { d: 20, ff: 30, heads: 2, kv: 1, head_dim: 6, vocab: 17, layers: 1, tied: false };

/// A valid folder, except for the changes that `change` makes to its settings and weights.
fn folder(change: impl FnOnce(&mut Value, &mut Weights)) -> (TempDir, Input) {
    let dir = tempfile::tempdir().unwrap();
    let (mut config, mut weights) = (SMALL.config(), SMALL.weights());
    change(&mut config, &mut weights);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), safetensors(&weights)).unwrap();
    let input = Input::Folder(dir.path().into());
    (dir, input)
}

#[track_caller]
fn refused_config(settings: Value, expected: &str) {
    let (_dir, input) = folder(|config, _| {
        for (key, value) in settings.as_object().unwrap() {
            config[key] = value.clone();
        }
    });
    refused(&input, expected);
}

#[test]
fn the_unchanged_folder_is_accepted() {
    let (dir, input) = folder(|_, _| ());
    convert(&input, &dir.path().join("m.nano"), Options::new(Quant::Q8)).unwrap();
}

#[test]
fn configs_with_zeros() {
    for key in [
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "num_hidden_layers",
        "max_position_embeddings",
    ] {
        refused_config(json!({ key: 0 }), "is 0, expected");
        refused_config(json!({ key: -1 }), &format!("{key} is -1, expected a whole number"));
        refused_config(json!({ key: "x" }), &format!("{key} is \"x\", expected a whole number"));
        refused_config(json!({ key: 1u64 << 40 }), &format!("{key} is 1099511627776"));
    }
    refused_config(json!({"rms_norm_eps": 0.0}), "norm_eps is 0");
    refused_config(json!({"rope_theta": 0.0}), "rope_theta is 0");
    refused_config(json!({"num_hidden_layers": u32::MAX}), "n_layers is 4294967295");
    refused_config(json!({"hidden_size": null}), "hidden_size is missing");
    refused_config(json!({"head_dim": 7}), "head_dim is 7");
    refused_config(json!({"head_dim": null, "num_attention_heads": 3}), "a divisor of hidden_size");
    refused_config(json!({"num_key_value_heads": 3}), "n_kv_heads is 3");
}

#[test]
fn unsupported_features_are_named() {
    for (settings, expected) in [
        (
            json!({"model_type": "mamba"}),
            "architecture \"mamba\" is not supported; supported: llama, mistral, mixtral, ministral, ministral3, qwen2",
        ),
        (json!({"model_type": null}), "model_type is missing"),
        (json!({"quantization_config": {"quant_method": "hqq"}}), "quantized with \"hqq\""),
        (
            json!({"compression_config": {"quant_method": "sparseml"}}),
            "quantized with \"sparseml\"",
        ),
        (json!({"hidden_act": "gelu"}), "hidden_act \"gelu\" is not supported"),
        (json!({"partial_rotary_factor": 1.5}), "partial_rotary_factor is 1.5"),
        (
            json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": -1}}),
            "partial_rotary_factor is -1",
        ),
        (json!({"rope_scaling": {"type": "ntk", "factor": 2.0}}), "RoPE scaling \"ntk\""),
        (json!({"rope_scaling": {"type": "yarn", "factor": -2.0}}), "rope_scaling.factor is -2"),
        (json!({"rope_scaling": {"type": "dynamic", "factor": 0.5}}), "factor is 0.5, expected at"),
        (json!({"rope_scaling": {"type": "longrope"}}), "rope_scaling.short_factor is missing"),
        (
            json!({"rope_scaling": {"type": "longrope", "short_factor": [1, 1], "long_factor": [0]}}),
            "rope_scaling.long_factor contains 0",
        ),
        (
            json!({"rope_scaling": {"type": "longrope", "short_factor": [1, 1], "long_factor": [2]}}),
            "has 2 short and 1 long factors",
        ),
        (json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor is missing"),
        (json!({"rope_scaling": {"type": "linear", "factor": 0.0}}), "rope_scaling.factor is 0"),
        (
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0,
            "high_freq_factor": 1.0, "original_max_position_embeddings": 64}}),
            "low_freq_factor is 4",
        ),
        (json!({"eos_token_id": 17}), "eos_token_id is 17, expected a token id in the vocabulary"),
        (json!({"bos_token_id": 99}), "bos_token_id is 99"),
        (json!({"eos_token_id": [1, "x"]}), "expected a token id or a list"),
        (json!({"attention_bias": true}), "self_attn.q_proj.bias\": is missing"),
    ] {
        refused_config(settings, expected);
    }
}

#[test]
fn weights_that_do_not_match_the_config() {
    let q = "model.layers.0.self_attn.q_proj.weight";
    let down = "model.layers.0.mlp.down_proj.weight";
    type Change = Box<dyn Fn(&mut Weights)>;
    let poke = |name: &'static str, at: usize, value: f32| -> Change {
        Box::new(move |w: &mut Weights| w.get_mut(name).unwrap().1[at] = value)
    };
    let add = |name: &'static str, n: usize| -> Change {
        Box::new(move |w: &mut Weights| {
            w.insert(name.into(), (vec![n], vec![0.5; n]));
        })
    };
    let cases: [(Change, &str); 10] = [
        (poke(q, 45, f32::NAN), "q_proj.weight\": row 2, input 5 is NaN"),
        (poke(down, 30, f32::INFINITY), "down_proj.weight\": row 1, input 0 is inf"),
        (poke("model.norm.weight", 3, f32::NEG_INFINITY), "row 3, input 0 is -inf"),
        (poke("lm_head.weight", 0, 1e38), "lm_head.weight\": row 0"),
        (Box::new(|w| _ = w.remove("model.norm.weight")), "\"model.norm.weight\": is missing"),
        (Box::new(move |w| _ = w.remove(down)), "mlp.down_proj.weight\": is missing"),
        (
            add("model.layers.1.input_layernorm.weight", 20),
            "model.layers.1.input_layernorm.weight\": is unexpected",
        ),
        (add("vision.weight", 3), "\"vision.weight\": is unexpected"),
        (add(q, 3), "has shape [3], but the model's config requires [12, 20]"),
        (add("model.layers.0.input_layernorm.bias", 20), "is unexpected"),
    ];
    for (change, expected) in &cases {
        let (_dir, input) = folder(|_, weights| change(weights));
        refused(&input, expected);
    }
}

/// Checkpoints whose `config.json` does not mention that they are quantized.
#[test]
fn quantized_tensors_are_refused_with_the_name_of_the_method() {
    for (tensor, method) in [
        ("qweight", "GPTQ or AWQ"),
        ("g_idx", "GPTQ"),
        ("weight_packed", "compressed-tensors"),
        ("weight_scale_inv", "FP8"),
        ("weight.absmax", "bitsandbytes"),
    ] {
        let name = format!("model.layers.0.mlp.up_proj.{tensor}");
        let header =
            format!(r#"{{"{name}":{{"dtype":"I32","shape":[2,2],"data_offsets":[0,16]}}}}"#);
        refused_file(
            &with_header(&header, &[0; 16]),
            &format!("quantized with {method} (it has the tensor \"{name}\")"),
        );
    }
}

#[test]
fn a_bias_that_the_config_rules_out() {
    let (_dir, input) = folder(|config, weights| {
        config["attention_bias"] = json!(false);
        weights.insert("model.layers.0.self_attn.v_proj.bias".into(), (vec![6], vec![0.5; 6]));
    });
    refused(&input, "v_proj.bias\": is unexpected");
}

/// Replaces the weight file of a valid folder.
#[track_caller]
fn refused_file(bytes: &[u8], expected: &str) {
    let (dir, input) = folder(|_, _| ());
    std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    refused(&input, expected);
}

#[test]
fn damaged_safetensors() {
    let entry = |shape: &str, range: &str| {
        format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":{range}}}"#)
    };
    let one =
        |shape, range| with_header(&format!(r#"{{"a.weight":{}}}"#, entry(shape, range)), &[0; 64]);
    let two = |names: [&str; 2], ranges: [&str; 2]| {
        let [a, b] = ranges.map(|r| entry("[4]", r));
        with_header(&format!(r#"{{"{}":{a},"{}":{b}}}"#, names[0], names[1]), &[0; 64])
    };
    for (bytes, expected) in [
        (vec![], "is empty; download it again"),
        (vec![1; 7], "only 7 bytes long; is it complete?"),
        (u64::MAX.to_le_bytes().to_vec(), "a header of 18446744073709551615 bytes"),
        (with_header("[]", &[]), "expected an object of tensors"),
        (with_header("{\"a\":", &[]), "header: EOF"),
        (with_header(r#"{"a":{"dtype":"F32"}}"#, &[]), "missing field `shape`"),
        (
            with_header(r#"{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}"#, &[0]),
            "has type I8 and no scale",
        ),
        (one("[4]", "[0,15]"), "has 15 bytes, which does not match shape [4] of type F32"),
        (one("[4]", "[16,0]"), "invalid byte range 16..0"),
        (one("[4]", "[18446744073709551600,18446744073709551615]"), "byte range"),
        (one("[400]", "[0,1600]"), "beyond the end of the file (1"),
        (one("[4294967296,4294967296]", "[0,16]"), "overflows"),
        (one("[0]", "[0,0]"), "empty shape"),
        (one("[1,1,2,2]", "[0,16]"), "4 dimensions"),
        (one("[]", "[0,8]"), "has 8 bytes, which does not match shape [] of type F32"),
        (two(["a", "b"], ["[0,16]", "[8,24]"]), "\"b\": starts at byte"),
        (two(["a", "b"], ["[0,16]", "[0,16]"]), "inside \"a\""),
        (two(["a", "a"], ["[0,16]", "[16,32]"]), "\"a\" appears twice"),
    ] {
        refused_file(&bytes, expected);
    }
}

#[test]
fn every_truncation() {
    let bytes = safetensors(&SMALL.weights());
    for len in (0..bytes.len()).step_by(997) {
        refused_file(&bytes[..len], "model.safetensors: ");
    }
    let (dir, input) = folder(|_, _| ());
    let config = std::fs::read(dir.path().join("config.json")).unwrap();
    for len in 1..config.len() {
        std::fs::write(dir.path().join("config.json"), &config[..len]).unwrap();
        refused(&input, "config.json: is not a JSON object");
    }
}

/// The weights of the sharded reference model with another index.
#[track_caller]
fn refused_index(index: &str, prepare: impl FnOnce(&Path), expected: &str) {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden("llama-sharded-f16")).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, dir.path().join(from.file_name().unwrap())).unwrap();
    }
    std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    prepare(dir.path());
    refused(&Input::Folder(dir.path().into()), expected);
}

#[test]
fn an_index_cannot_point_outside() {
    let elsewhere = tempfile::tempdir().unwrap();
    let secret = elsewhere.path().join("secret.safetensors");
    std::fs::write(&secret, safetensors(&ODD.weights())).unwrap();
    for name in ["../x", "/etc/passwd", "a/b", ".", "..", "", "./a", "a/", secret.to_str().unwrap()]
    {
        let index = json!({"weight_map": {"a": name}}).to_string();
        refused_index(&index, |_| (), "not a file in this folder");
    }
    let index = json!({"weight_map": {"a": "link"}}).to_string();
    let link = |dir: &Path| std::os::unix::fs::symlink(&secret, dir.join("link")).unwrap();
    refused_index(&index, link, "names \"link\", which is not a file in this folder");
    refused_index(&index, |_| (), "link: cannot open");
    refused_index(
        &index,
        |dir| std::fs::create_dir(dir.join("link")).unwrap(),
        "not a regular file",
    );
    refused_index(r#"{"weight_map": {"a": 1}}"#, |_| (), "that is not a file name");
    refused_index(r#"{"weight_map": 3}"#, |_| (), "weight_map is missing");
    refused_index("{}", |_| (), "weight_map is missing");
}

/// A snapshot in the hub's cache consists of links into a folder of blobs; such links are allowed.
#[test]
fn links_of_the_hub_cache_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (dir.path().join("blobs"), dir.path().join("snapshots/abc"));
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir(&blobs).unwrap();
    for (i, entry) in std::fs::read_dir(golden("llama-sharded-f16")).unwrap().enumerate() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, blobs.join(i.to_string())).unwrap();
        let link = snapshot.join(from.file_name().unwrap());
        std::os::unix::fs::symlink(format!("../../blobs/{i}"), link).unwrap();
    }
    let out = dir.path().join("m.nano");
    convert(&Input::Folder(snapshot), &out, Options::new(Quant::F32)).unwrap();
}

#[test]
fn the_same_tensor_in_two_shards() {
    let shard = |n| format!("model-0000{n}-of-00004.safetensors");
    let copy = |dir: &Path| {
        std::fs::copy(dir.join(shard(1)), dir.join(shard(2))).unwrap();
    };
    let index = json!({"weight_map": {"a": shard(1), "b": shard(2)}}).to_string();
    refused_index(&index, copy, "appears twice");
}

#[test]
fn folders_without_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let input = Input::detect(dir.path()).unwrap();
    refused(&input, "has no config.json");
    std::fs::write(dir.path().join("config.json"), SMALL.config().to_string()).unwrap();
    refused(&input, "has neither model.safetensors nor pytorch_model.bin");
    std::fs::write(dir.path().join("pytorch_model.bin"), "x").unwrap();
    refused(&input, "pytorch_model.bin: damaged PyTorch file");
    std::fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    refused(&input, "is not a regular file");
    std::fs::write(dir.path().join("notes.txt"), "x").unwrap();
    let error = Input::detect(&dir.path().join("notes.txt")).unwrap_err().to_string();
    assert!(error.contains("neither a Hugging Face model folder nor a GGUF file"), "{error}");
    assert!(
        Input::detect(&dir.path().join("absent")).unwrap_err().to_string().contains("cannot open")
    );
}

#[test]
fn the_output_cannot_replace_its_source() {
    let (dir, input) = folder(|_, _| ());
    let out = dir.path().join("config.json");
    let error = convert(&input, &out, Options::new(Quant::Q8)).unwrap_err().to_string();
    assert!(error.contains("is a file of the source"), "{error}");
}
