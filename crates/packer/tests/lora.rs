//! LoRA adapters: the merged weights are W + s · B · A, for every kind of source.

mod common;

use std::path::{Path, PathBuf};

use common::gguf::GgufFile;
use common::{ODD, Shape, Weights, check, golden, random, read_folder, safetensors};
use nanoinfer_format::{NanoFile, SectionKind};
use nanoinfer_packer::{Input, Lora, Options, Quant, convert};
use serde_json::{Value, json};

const RANK: usize = 3;

/// Writes an adapter for some modules, with some settings of its config replaced.
fn adapter(folder: &Path, modules: &[(&str, [usize; 2])], settings: Value) -> Weights {
    let mut weights = Weights::new();
    for (i, (module, [n, k])) in modules.iter().enumerate() {
        let mut seed = 100 + i as u64;
        let mut add = |half: &str, shape: [usize; 2]| {
            let name = format!("base_model.model.{module}.lora_{half}.weight");
            weights.insert(name, (shape.to_vec(), random(&mut seed, shape[0] * shape[1])));
        };
        add("A", [RANK, *k]);
        add("B", [*n, RANK]);
    }
    let mut config = json!({"peft_type": "LORA", "r": RANK, "lora_alpha": 12, "bias": "none",
        "use_dora": false, "use_rslora": false, "fan_in_fan_out": false, "alpha_pattern": {},
        "modules_to_save": null, "target_modules": ["q_proj"]});
    for (key, value) in settings.as_object().unwrap() {
        config[key] = value.clone();
    }
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("adapter_model.safetensors"), safetensors(&weights)).unwrap();
    weights
}

/// The naive merge, in the packer's documented order of operations.
fn merged(base: &Weights, adapter: &Weights, scale: f32) -> Weights {
    let mut out = base.clone();
    for (name, (_, a)) in adapter.iter().filter(|(n, _)| n.contains("lora_A")) {
        let (_, b) = &adapter[&name.replace("lora_A", "lora_B")];
        let module = name.strip_prefix("base_model.model.").unwrap().replace(".lora_A", "");
        let (shape, w) = out.get_mut(&module).unwrap();
        for (i, w) in w.iter_mut().enumerate() {
            let (row, column) = (i / shape[1], i % shape[1]);
            let delta = |d: f32, j: usize| d + b[row * RANK + j] * a[j * shape[1] + column];
            *w += scale * (0..RANK).fold(0.0, delta);
        }
    }
    out
}

const MODULES: [(&str, [usize; 2]); 4] = [
    ("model.layers.0.self_attn.q_proj", [120, 100]),
    ("model.layers.1.self_attn.v_proj", [24, 100]),
    ("model.layers.1.mlp.down_proj", [100, 150]),
    ("lm_head", [331, 100]),
];

fn converted(input: &Input, loras: &[(PathBuf, f32)]) -> Result<NanoFile, String> {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("m.nano");
    let loras = loras.iter().map(|(folder, scale)| Lora { folder: folder.clone(), scale: *scale });
    let options = Options { loras: loras.collect(), ..Options::new(Quant::F32) };
    convert(input, &path, options).map_err(|e| e.to_string())?;
    Ok(NanoFile::open(&path).unwrap())
}

#[test]
fn an_adapter_is_merged_from_folders_and_gguf() {
    let (dir, lora) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let base = ODD.weights();
    ODD.write(dir.path(), &base);
    let gguf = dir.path().join("m.gguf");
    std::fs::write(&gguf, GgufFile::of(&ODD, &base).bytes()).unwrap();
    let folder = lora.path().to_path_buf();
    for input in [Input::Folder(dir.path().into()), Input::Gguf(gguf)] {
        let parts = adapter(lora.path(), &MODULES, json!({}));
        let nano = converted(&input, &[(folder.clone(), 0.5)]).unwrap();
        check(&nano, &merged(&base, &parts, 2.0)); // 12 / 3 · 0.5
        let provenance = String::from_utf8_lossy(nano.section(SectionKind::Provenance).unwrap().1);
        assert!(provenance.contains("\"loras\":[0.5]"), "{provenance}");
        assert!(provenance.contains("adapter_model.safetensors"), "{provenance}");

        let parts = adapter(lora.path(), &MODULES[..1], json!({"use_rslora": true}));
        let nano = converted(&input, &[(folder.clone(), 1.0), (folder.clone(), -1.0)]).unwrap();
        let scale = (12.0 / 3f64.sqrt()) as f32;
        check(&nano, &merged(&merged(&base, &parts, scale), &parts, -scale));
    }
}

/// Settings that leave the adapter a plain one.
#[test]
fn how_an_adapter_was_trained_does_not_matter() {
    let (dir, lora) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let base = ODD.weights();
    ODD.write(dir.path(), &base);
    let input = Input::Folder(dir.path().into());
    for settings in [
        json!({"init_lora_weights": true, "use_qalora": false, "qalora_group_size": 16}),
        json!({"init_lora_weights": "gaussian", "lora_dropout": 0.1, "layers_to_transform": [0, 1]}),
        json!({"init_lora_weights": "eva", "eva_config": {"rho": 2.0}, "rank_pattern": {"q_proj": 3}}),
        json!({"init_lora_weights": "orthogonal", "a_later_idea": null, "another": [], "third": ""}),
        json!({"megatron_core": "megatron.core", "megatron_config": null, "peft_version": "0.20.0"}),
    ] {
        let parts = adapter(lora.path(), &MODULES, settings);
        let nano = converted(&input, &[(lora.path().into(), 1.0)]).unwrap();
        check(&nano, &merged(&base, &parts, 4.0));
    }
}

#[test]
fn a_pattern_changes_alpha_for_some_modules() {
    let (dir, lora) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let base = ODD.weights();
    ODD.write(dir.path(), &base);
    let input = Input::Folder(dir.path().into());
    let patterns =
        json!({"q_proj": 3, "^model.layers.1.mlp.down_proj": 9, "^q_proj": 7, "2.mlp": 1});
    let parts = adapter(lora.path(), &MODULES, json!({"alpha_pattern": patterns}));
    let nano = converted(&input, &[(lora.path().into(), 1.0)]).unwrap();
    let of = |module: &str| -> Weights {
        let part = parts.iter().filter(|(name, _)| name.contains(module));
        part.map(|(name, values)| (name.clone(), values.clone())).collect()
    };
    let mut expected = merged(&base, &of("q_proj"), 1.0);
    expected = merged(&expected, &of("down_proj"), 3.0);
    for module in ["v_proj", "lm_head"] {
        expected = merged(&expected, &of(module), 4.0);
    }
    check(&nano, &expected);
}

/// DoRA: the rows of W + s · B · A get the trained norms.
#[test]
fn dora_rescales_rows() {
    let (dir, lora) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let base = ODD.weights();
    ODD.write(dir.path(), &base);
    let gguf = dir.path().join("m.gguf");
    std::fs::write(&gguf, GgufFile::of(&ODD, &base).bytes()).unwrap();
    for (input, suffix) in [(Input::Folder(dir.path().into()), ""), (Input::Gguf(gguf), ".weight")]
    {
        let mut parts = adapter(lora.path(), &MODULES, json!({"use_dora": true}));
        let mut expected = merged(&base, &parts, 2.0);
        for (module, [n, k]) in MODULES {
            let norms: Vec<f32> = (0..n).map(|i| 0.5 + i as f32 / 64.0).collect();
            let (_, rows) = expected.get_mut(&format!("{module}.weight")).unwrap();
            for (row, norm) in rows.chunks_exact_mut(k).zip(&norms) {
                let sum: f64 = row.iter().map(|w| f64::from(*w) * f64::from(*w)).sum();
                let scale = (f64::from(*norm) / sum.sqrt()) as f32;
                row.iter_mut().for_each(|w| *w *= scale);
            }
            let name = format!("base_model.model.{module}.lora_magnitude_vector{suffix}");
            parts.insert(name, (vec![n], norms));
        }
        std::fs::write(lora.path().join("adapter_model.safetensors"), safetensors(&parts)).unwrap();
        check(&converted(&input, &[(lora.path().into(), 0.5)]).unwrap(), &expected);
        let name = format!("base_model.model.lm_head.lora_magnitude_vector{suffix}");
        parts.insert(name, (vec![3], vec![1.0; 3]));
        std::fs::write(lora.path().join("adapter_model.safetensors"), safetensors(&parts)).unwrap();
        let error = converted(&input, &[(lora.path().into(), 1.0)]).unwrap_err();
        assert!(error.contains("has shape [3, 1], expected [331]"), "{error}");
    }
}

#[test]
fn adapters_that_cannot_be_merged_are_refused() {
    let (dir, lora) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    ODD.write(dir.path(), &ODD.weights());
    let input = Input::Folder(dir.path().into());
    let error = || converted(&input, &[(lora.path().into(), 1.0)]).unwrap_err();
    assert!(error().contains("has no adapter_config.json"), "{}", error());
    for (settings, expected) in [
        (json!({"peft_type": "IA3"}), "an adapter of type \"IA3\" is not supported"),
        (json!({"peft_type": null}), "peft_type is missing"),
        (json!({"use_dora": true}), "does not match adapter_config.json: use_dora is true for"),
        (
            json!({"init_lora_weights": "pissa"}),
            "init_lora_weights \"pissa\", which changes the base",
        ),
        (
            json!({"init_lora_weights": "pissa_niter_16"}),
            "path_initial_model_for_weight_conversion",
        ),
        (json!({"init_lora_weights": "olora"}), "init_lora_weights \"olora\""),
        (json!({"init_lora_weights": "corda"}), "init_lora_weights \"corda\""),
        (json!({"init_lora_weights": "loftq"}), "init_lora_weights \"loftq\""),
        (json!({"init_lora_weights": 1}), "init_lora_weights 1"),
        (
            json!({"alora_invocation_tokens": [5, 6]}),
            "alora_invocation_tokens [5,6] is not supported; its",
        ),
        (json!({"use_qalora": true}), "use_qalora true"),
        (json!({"lora_bias": true}), "lora_bias true"),
        (json!({"kasa_config": {"beta": 1}}), "kasa_config {\"beta\":1}"),
        (json!({"target_parameters": ["mlp.experts.down_proj"]}), "target_parameters"),
        (json!({"layer_replication": [[0, 2]]}), "layer_replication"),
        (json!({"trainable_token_indices": [3]}), "trainable_token_indices [3]"),
        (
            json!({"a_later_idea": "on"}),
            "an adapter with a_later_idea \"on\" is not supported; merge",
        ),
        (json!({"a_later_idea": 0.5}), "a_later_idea 0.5"),
        (json!({"fan_in_fan_out": true}), "fan_in_fan_out true"),
        (json!({"bias": "all"}), "bias \"all\""),
        (json!({"modules_to_save": ["lm_head"]}), "modules_to_save [\"lm_head\"]"),
        (
            json!({"alpha_pattern": {".*_proj": 3}}),
            "regular expression \".*_proj\" in alpha_pattern",
        ),
        (
            json!({"alpha_pattern": {"q_proj": 1, "self_attn.q_proj": 2}}),
            "several alpha_pattern entries",
        ),
        (
            json!({"alpha_pattern": {"q_proj": "x"}}),
            "alpha_pattern.q_proj is \"x\", expected a number",
        ),
        (json!({"lora_alpha": null}), "lora_alpha is missing"),
    ] {
        adapter(lora.path(), &MODULES, settings);
        assert!(error().contains(expected), "{} does not contain {expected}", error());
    }
    for (module, expected) in [
        (("model.layers.9.self_attn.q_proj", [120, 100]), "the model has no such weight"),
        (("model.layers.0.self_attn.x_proj", [120, 100]), "the model has no such weight"),
        (("model.layers.0.self_attn.q_proj", [120, 99]), "do not match a [120, 100] matrix"),
        (("model.layers.0.self_attn.q_proj", [121, 100]), "is this adapter for another model"),
    ] {
        adapter(lora.path(), &[module], json!({}));
        assert!(error().contains(expected), "{} does not contain {expected}", error());
    }
    let tied = tempfile::tempdir().unwrap();
    let shape = Shape { tied: true, ..ODD };
    shape.write(tied.path(), &shape.weights());
    adapter(lora.path(), &MODULES, json!({}));
    let loras = [(lora.path().into(), 1.0)];
    let message = converted(&Input::Folder(tied.path().into()), &loras).unwrap_err();
    assert!(
        message.contains("lm_head.weight\": is changed by the adapter, but in this"),
        "{message}"
    );
    let mut weights = adapter(lora.path(), &MODULES, json!({}));
    let path = lora.path().join("adapter_model.safetensors");
    let b = weights.remove("base_model.model.lm_head.lora_B.weight").unwrap();
    std::fs::write(&path, safetensors(&weights)).unwrap();
    assert!(error().contains("has only one of lora_A and lora_B for lm_head"), "{}", error());
    let vector = |n| (vec![n], vec![1.0; n]);
    weights.insert("base_model.model.lm_head.lora_B.weight".into(), b.clone());
    weights.insert("base_model.model.lm_head.lora_magnitude_vector".into(), vector(331));
    std::fs::write(&path, safetensors(&weights)).unwrap();
    assert!(error().contains("use_dora is false for lm_head"), "{}", error());
    weights.remove("base_model.model.lm_head.lora_magnitude_vector");
    weights.insert("base_model.model.lm_head.lora_embedding_B".into(), b);
    std::fs::write(&path, safetensors(&weights)).unwrap();
    assert!(error().contains("is neither lora_A nor lora_B"), "{}", error());
    std::fs::remove_file(&path).unwrap();
    assert!(error().contains("adapter_model.bin: cannot open"), "{}", error());
}

/// Adapters have their rows in the order of Hugging Face's checkpoints, which is not always that of the packed ones.
#[test]
fn adapters_of_reordered_rows_are_refused() {
    let lora = tempfile::tempdir().unwrap();
    for (name, module, reordered) in [
        ("cohere2", "self_attn.q_proj", true),
        ("cohere2", "self_attn.v_proj", false),
        ("ernie4-5", "self_attn.k_proj", true),
        ("ernie4-5", "mlp.up_proj", false),
        ("deepseek-v3", "self_attn.q_b_proj", true),
        ("deepseek-v3", "self_attn.kv_a_proj_with_mqa", true),
        ("deepseek-v3", "self_attn.kv_b_proj", true),
        ("deepseek-v3", "self_attn.o_proj", false),
        ("qwen3-5", "self_attn.q_proj", true),
        ("qwen3-5", "self_attn.k_proj", false),
        ("qwen3-next", "linear_attn.in_proj_qkvz", true),
    ] {
        let weights = read_folder(&golden(name));
        let end = format!("{module}.weight");
        let (weight, (shape, _)) = weights.iter().find(|(name, _)| name.ends_with(&end)).unwrap();
        let module = weight.strip_suffix(".weight").unwrap();
        adapter(lora.path(), &[(module, [shape[0], shape[1]])], json!({}));
        let result = converted(&Input::Folder(golden(name)), &[(lora.path().into(), 1.0)]);
        let refusal = result.err().map(|e| e.contains("its rows are reordered in this model"));
        assert_eq!(refusal, reordered.then_some(true), "{name} {module}");
    }
}
