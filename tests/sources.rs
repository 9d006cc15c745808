//! Sources and the cache, through the command: paths of any kind, and messages that name the way out.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{assert_fails, json, nanoinfer, stderr, stdout, temp, tiny};

/// A copy of a tiny model.
fn model(folder: &Path) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(tiny("llama-gqa").join(name), folder.join(name)).unwrap();
    }
    folder.to_path_buf()
}

fn convert(home: &Path, model: &Path, out: &Path) -> std::process::Output {
    let mut command = nanoinfer(home);
    command.arg("convert").arg("--model").arg(model).arg("--out").arg(out).output().unwrap()
}

/// Computes logits, which converts the model into the cache.
fn logits(home: &Path, model: &Path, out: &Path) -> std::process::Output {
    let mut command = nanoinfer(home);
    command.arg("logits").arg("--model").arg(model).args(["--tokens", "1", "--out"]).arg(out);
    command.output().unwrap()
}

#[test]
fn cached_models_are_listed_with_source_and_age_and_removed_by_path() {
    let home = temp();
    let (cache, folder) = (home.path().join("cache"), model(&home.path().join("m")));
    let run = || {
        let output = logits(&cache, &folder, &home.path().join("out"));
        assert!(output.status.success(), "{}", stderr(&output));
    };
    run();
    let models = |args: &[&str]| nanoinfer(&cache).arg("models").args(args).output().unwrap();
    let source = folder.canonicalize().unwrap();
    let listed = stdout(&models(&[]));
    for part in ["m-q8-", " MB  made ", "today  used ", source.to_str().unwrap()] {
        assert!(listed.contains(part), "{part:?} not in {listed}");
    }
    let entry = json(&models(&["--json"]))[0].clone();
    assert_eq!(entry["source"], source.to_str().unwrap());
    assert!(entry["used"].as_u64().unwrap() >= entry["made"].as_u64().unwrap());

    let kept = models(&["remove", "--unused", "1"]);
    assert!(kept.status.success() && stderr(&kept).contains("nothing was removed"));
    let mut remove = nanoinfer(&cache);
    let removed = stdout(&remove.args(["models", "remove"]).arg(&folder).output().unwrap());
    assert!(removed.starts_with("removed m-q8-"), "{removed}");
    assert_eq!(json(&models(&["--json"])), serde_json::json!([]));

    run();
    let path = json(&models(&["--json"]))[0]["path"].as_str().unwrap().to_owned();
    assert!(models(&["remove", &path]).status.success());
    assert_fails(&models(&["remove", &path]), 1, &[&path, "not in the cache", "nanoinfer models"]);
    assert_fails(&models(&["remove", "x", "--unused", "3"]), 2, &["--unused", "--help"]);
    assert_fails(&models(&["remove", "--unused", "0"]), 2, &["--unused", "--help"]);
}

#[cfg(unix)]
#[test]
fn a_path_that_is_not_utf8_works() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let home = temp();
    let name = |bytes: &[u8]| home.path().join(OsStr::from_bytes(bytes));
    let (folder, out) = (model(&name(b"m\xff")), name(b"out\xff.nano"));
    let output = convert(home.path(), &folder, &out);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(out.is_file());
}

/// `NANOINFER_HOME` is a file, in which not even root can create anything.
#[test]
fn a_cache_that_cannot_be_written_names_the_ways_out() {
    let home = temp();
    let (cache, folder) = (home.path().join("cache"), model(&home.path().join("m")));
    fs::write(&cache, "").unwrap();
    let output = logits(&cache, &folder, &home.path().join("out"));
    assert_fails(&output, 1, &["cannot create in the cache", "NANOINFER_HOME", "convert --out"]);
    let out = home.path().join("m.nano");
    assert!(convert(&cache, &folder, &out).status.success());
    assert!(logits(&cache, &out, &home.path().join("out")).status.success());
}

#[test]
fn an_adapter_given_as_a_model_names_the_option_to_merge_it() {
    let home = temp();
    let folder = home.path().join("adapter");
    fs::create_dir(&folder).unwrap();
    let config = r#"{"peft_type": "LORA", "base_model_name_or_path": "acme/base"}"#;
    fs::write(folder.join("adapter_config.json"), config).unwrap();
    let output = convert(home.path(), &folder, &home.path().join("m.nano"));
    assert_fails(&output, 1, &["adapter", "is a LoRA adapter for \"acme/base\"", "--lora FOLDER"]);
}
