//! LoRA adapters: the merged weights are W + s · B · A, for every kind of source.

mod common;

use std::path::{Path, PathBuf};

use common::gguf::GgufFile;
use common::{ODD, Weights, check, random, safetensors};
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
        (json!({"use_dora": true}), "an adapter with use_dora true"),
        (json!({"fan_in_fan_out": true}), "fan_in_fan_out true"),
        (json!({"bias": "all"}), "bias \"all\""),
        (json!({"modules_to_save": ["lm_head"]}), "modules_to_save [\"lm_head\"]"),
        (json!({"alpha_pattern": {"q_proj": 3}}), "alpha_pattern"),
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
    let mut weights = adapter(lora.path(), &MODULES, json!({}));
    let path = lora.path().join("adapter_model.safetensors");
    let b = weights.remove("base_model.model.lm_head.lora_B.weight").unwrap();
    std::fs::write(&path, safetensors(&weights)).unwrap();
    assert!(error().contains("has only one of lora_A and lora_B for lm_head"), "{}", error());
    weights.insert("base_model.model.lm_head.lora_magnitude_vector".into(), b);
    std::fs::write(&path, safetensors(&weights)).unwrap();
    assert!(error().contains("is neither lora_A nor lora_B"), "{}", error());
    std::fs::remove_file(&path).unwrap();
    assert!(error().contains("adapter_model.bin: cannot open"), "{}", error());
}
