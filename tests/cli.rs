//! The command line end to end: help, usage errors, pipes, damaged files.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{assert_fails, files, json, nanoinfer, stderr, stdout, temp, tiny};

const COMMANDS: [&str; 14] = [
    "convert",
    "generate",
    "chat",
    "serve",
    "tokenize",
    "logits",
    "inspect",
    "verify",
    "models",
    "bench",
    "eval",
    "doctor",
    "completions",
    "man",
];

/// A small converted model in `folder`.
fn small(folder: &Path) -> PathBuf {
    let out = folder.join("small.nano");
    let mut command = nanoinfer(folder);
    command.arg("convert").arg("--model").arg(tiny("llama-gqa")).arg("--out").arg(&out);
    command.assert().success();
    out
}

#[test]
fn every_command_has_help_with_an_example() {
    let home = temp();
    let top = nanoinfer(home.path()).arg("--help").output().unwrap();
    assert!(top.status.success());
    for name in COMMANDS {
        assert!(stdout(&top).contains(name), "{name} is not in the help");
        let help = nanoinfer(home.path()).args([name, "--help"]).output().unwrap();
        assert!(help.status.success(), "{name}");
        assert!(stdout(&help).contains(&format!("nanoinfer {name}")), "{}", stdout(&help));
        assert!(stdout(&help).contains("Example"), "{name} has no example");
    }
    assert!(stdout(&top).contains("Exit codes"));
    assert!(files(home.path()).is_empty());
}

#[test]
fn usage_errors_are_one_line_with_exit_code_2() {
    let home = temp();
    for (args, parts) in [
        (&["frobnicate"][..], "frobnicate"),
        (&["convert", "--model", "x"], "--out"),
        (&["generate", "--prompt", "x", "--tmep", "1"], "--temp"),
        (&["generate", "--prompt", "x", "--temp", "-1"], "0 to 100"),
        (&["generate", "--prompt", "x", "--threads", "0"], "--threads"),
        (&["generate", "--prompt", "x", "--stop", ""], "--stop"),
        (&["logits", "--tokens", "1,,2", "--out", "x"], "--tokens"),
        (&["inspect"], "FILE"),
        (&["models", "remove"], "NAME"),
        (&["bench", "--synthetic", "huge"], "tinyllama-1.1b"),
        (&["bench", "-p", "x"], "-p"),
        (&["eval", "--text", "x", "--choices", "y"], "--choices"),
        (&["eval", "--window", "1"], "--window"),
    ] {
        let output = nanoinfer(home.path()).args(args).output().unwrap();
        assert_fails(&output, 2, &[parts, "--help"]);
    }
    assert!(files(home.path()).is_empty());
}

#[test]
fn missing_inputs_are_one_line_errors_with_exit_code_1() {
    let home = temp();
    fs::write(home.path().join("text.txt"), "hello").unwrap();
    fs::create_dir(home.path().join("empty")).unwrap();
    let before = files(home.path());
    for (args, parts) in [
        (&["convert", "--model", "none", "--out", "x.nano"][..], &["none", "hub id"][..]),
        (&["convert", "--model", "text.txt", "--out", "x.nano"], &["text.txt", "neither"]),
        (&["convert", "--model", "empty", "--out", "x.nano"], &["config.json"]),
        (&["inspect", "none.nano"], &["none.nano", "No such file"]),
        (&["inspect", "text.txt"], &["text.txt", "neither"]),
        (&["inspect", "."], &["config.json"]),
        (&["verify", "none.nano"], &["none.nano"]),
        (&["generate", "--model", "none.gguf", "--prompt", "x"], &["none.gguf", "no such file"]),
        (&["chat", "--model", "empty"], &["config.json"]),
        (&["models", "remove", "none"], &["none", "not in the cache"]),
    ] {
        let mut command = nanoinfer(&home.path().join("cache"));
        let output = command.args(args).current_dir(home.path()).output().unwrap();
        assert_fails(&output, 1, parts);
        assert_eq!(files(home.path()), before, "{args:?} left files");
    }
}

#[test]
fn an_invalid_output_fails_before_the_conversion() {
    let home = temp();
    let model = tiny("llama-gqa");
    for (out, parts) in [("none/x.nano", "none/x.nano"), (".", "file name"), ("", "--out")] {
        let mut command = nanoinfer(home.path());
        command.arg("convert").arg("--model").arg(&model).args(["--out", out]);
        let output = command.current_dir(home.path()).output().unwrap();
        let code = output.status.code().unwrap();
        assert_fails(&output, code, &[parts]);
        assert!(files(home.path()).is_empty());
    }
}

#[test]
fn a_converted_file_is_not_a_source() {
    let home = temp();
    let file = small(home.path());
    let mut command = nanoinfer(home.path());
    command.arg("convert").arg("--model").arg(&file).arg("--out").arg(home.path().join("b.nano"));
    assert_fails(&command.output().unwrap(), 1, &["already"]);
}

#[test]
fn inspect_describes_a_converted_model() {
    let home = temp();
    let file = small(home.path());
    let object =
        json(&nanoinfer(home.path()).arg("inspect").arg(&file).arg("--json").output().unwrap());
    assert_eq!(object["format_version"], 2);
    assert_eq!(object["file_len"], fs::metadata(&file).unwrap().len());
    let config = &object["config"];
    assert_eq!((&config["d_model"], &config["n_layers"]), (&128.into(), &2.into()));
    assert_eq!((&config["quant"], &config["vocab_size"]), (&"q8".into(), &320.into()));
    assert_eq!(object["content_id"].as_str().unwrap().len(), 64);
    // 2·320·128 embeddings, per layer 2·(128 + 64)·128 attention, 3·192·128 FFN, 2·128 norms.
    assert_eq!(object["parameters"], 2 * 320 * 128 + 2 * (384 * 128 + 576 * 128 + 256) + 128);
    let tensors = object["tensors"].as_array().unwrap();
    assert!(tensors.iter().any(|t| t["role"] == "attn_qkv" && t["layer"] == 1));
    assert!(object["sections"].as_array().unwrap().iter().any(|s| s["kind"] == "tensor table"));

    let text = nanoinfer(home.path()).arg("inspect").arg(&file).output().unwrap();
    assert!(text.status.success());
    for part in ["llama", "4 heads of 32", "0.ffn_down", "q8 panel", "[128, 192]"] {
        assert!(stdout(&text).contains(part), "{part:?} not in {}", stdout(&text));
    }
}

/// Only `convert` accepts adapters; commands that accept them in other engines point to it.
#[test]
fn only_convert_accepts_adapters() {
    let home = temp();
    for command in ["generate", "chat", "bench", "eval"] {
        let output = nanoinfer(home.path()).args([command, "--lora", "a"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let line = "nanoinfer: error: adapters are merged at conversion; run \
                    `nanoinfer convert --model MODEL --lora FOLDER --out merged.nano`";
        assert!(stderr(&output).starts_with(line), "{}", stderr(&output));
        assert_eq!(stderr(&output).lines().count(), 1);
    }
}

#[test]
fn inspect_shows_the_error_of_each_tensor() {
    let home = temp();
    let file = small(home.path());
    let run = |source: &Path, json: bool| {
        let mut command = nanoinfer(home.path());
        command.arg("inspect").arg(&file).arg("--against").arg(source);
        command.args(json.then_some("--json")).output().unwrap()
    };
    let object = json(&run(&tiny("llama-gqa"), true));
    let tensors = object["tensors"].as_array().unwrap();
    let compared: Vec<f64> = tensors.iter().filter_map(|t| t["relative_error"].as_f64()).collect();
    // Two embeddings, and four matrices in each of two layers; the 8-bit error is below 1 %.
    assert_eq!(compared.len(), 10);
    assert!(compared.iter().all(|e| (1e-3..1e-2).contains(e)), "{compared:?}");
    let roles = object["roles"].as_array().unwrap();
    let bytes: u64 = roles.iter().map(|r| r["bytes"].as_u64().unwrap()).sum();
    assert_eq!(bytes, fs::metadata(&file).unwrap().len());
    let text = run(&tiny("llama-gqa"), false);
    assert!(stdout(&text).contains("dB") && stdout(&text).contains("bits per weight"), "{text:?}");
    assert_fails(&run(&tiny("llama3-rope"), true), 1, &["was not made from this source"]);
    assert_fails(&run(&home.path().join("none"), true), 1, &["none: cannot open"]);
}

#[test]
fn inspect_describes_sources() {
    let home = temp();
    let run = |path: &Path, json: bool| {
        let mut command = nanoinfer(home.path());
        command.arg("inspect").arg(path).args(json.then_some("--json")).output().unwrap()
    };
    let folder = tiny("llama-sharded-f16");
    let object = json(&run(&folder, true));
    assert_eq!((&object["kind"], &object["config"]["n_layers"]), (&"hf-folder".into(), &2.into()));
    assert_eq!(object["dtypes"][0]["name"], "F16");
    let norm = object["roles"].as_array().unwrap().iter();
    let mut norm = norm.filter(|r| r["name"] == "model.layers.*.input_layernorm.weight");
    assert_eq!(norm.next().unwrap()["tensors"], 2);
    let first = &object["tensors"][0];
    assert_eq!(first["file"], "model-00001-of-00004.safetensors");
    assert!(stdout(&run(&folder, false)).contains("converts      yes: llama, 2 layers"));

    let alone = folder.join("model-00001-of-00004.safetensors");
    assert!(stdout(&run(&alone, false)).contains("pass the model's folder"));
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/packer/tests/fixtures");
    let object = json(&run(&fixtures.join("gguf-types.gguf"), true));
    assert_eq!(
        (&object["kind"], &object["settings"]["test.string"]),
        (&"gguf".into(), &"naïve".into())
    );
    assert!(object["refused"].as_str().unwrap().contains("architecture"), "{object}");
    let object = json(&run(&fixtures.join("torch-types.bin"), true));
    assert_eq!(object["kind"], "pytorch");
    let tensors = object["tensors"].as_array().unwrap();
    let dtype = |name: &str| tensors.iter().find(|t| t["name"] == name).unwrap()["dtype"].clone();
    assert_eq!((dtype("bf16"), dtype("rows")), ("BF16".into(), "F32".into()));
    assert_fails(&run(&home.path().join("none"), true), 1, &["none: cannot open"]);
    let mut command = nanoinfer(home.path());
    command.arg("inspect").arg(&folder).arg("--against").arg(&folder);
    assert_fails(&command.output().unwrap(), 1, &["--against"]);
}

#[test]
fn verify_finds_a_flipped_weight() {
    let home = temp();
    let file = small(home.path());
    let verify = || nanoinfer(home.path()).arg("verify").arg(&file).output().unwrap();
    let intact = verify();
    assert!(
        stdout(&intact).contains("intact") && stdout(&intact).contains("1 case,"),
        "{intact:?}"
    );
    let mut command = nanoinfer(home.path());
    let report = json(&command.arg("verify").arg(&file).arg("--json").output().unwrap());
    assert_eq!((&report["self_check"], &report["cases"]), (&"same".into(), &1.into()));
    let mut bytes = fs::read(&file).unwrap();
    bytes[100_000] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert_fails(&verify(), 1, &["small.nano", "does not match its hash"]);
    nanoinfer(home.path()).arg("inspect").arg(&file).assert().success(); // reads no weights
}

#[test]
fn damaged_files_are_one_line_errors() {
    let home = temp();
    let bytes = fs::read(small(home.path())).unwrap();
    let bad = home.path().join("bad.nano");
    let refused = |damaged: &[u8], what: String| {
        fs::write(&bad, damaged).unwrap();
        let output = nanoinfer(home.path()).arg("inspect").arg(&bad).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{what}: {}", stderr(&output));
        assert_fails(&output, 1, &["bad.nano"]);
    };
    for len in (0..bytes.len()).step_by(997) {
        refused(&bytes[..len], format!("truncated to {len}"));
    }
    for at in 0..256 {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        refused(&flipped, format!("byte {at} flipped"));
    }
}

#[test]
fn damaged_sources_leave_no_output() {
    let home = temp();
    let config = fs::read_to_string(tiny("llama-gqa").join("config.json")).unwrap();
    let gguf = |tensors: u64, pairs: u64| {
        let mut b = b"GGUF\x03\0\0\0".to_vec();
        b.extend(tensors.to_le_bytes());
        b.extend(pairs.to_le_bytes());
        b
    };
    let folder = home.path().join("folder");
    fs::create_dir(&folder).unwrap();
    fs::copy(tiny("llama-gqa").join("model.safetensors"), folder.join("model.safetensors"))
        .unwrap();
    let file = home.path().join("x.gguf");
    let out = home.path().join("out.nano");
    let refused = |model: &Path| {
        let mut command = nanoinfer(&home.path().join("cache"));
        let output =
            command.arg("convert").arg("--model").arg(model).arg("--out").arg(&out).output();
        assert_fails(&output.unwrap(), 1, &[]);
        assert_eq!(files(home.path()).len(), 3, "{:?}", files(home.path()));
    };
    fs::write(&file, "").unwrap();
    for field in ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"] {
        let mut zeroed: serde_json::Value = serde_json::from_str(&config).unwrap();
        zeroed[field] = 0.into();
        fs::write(folder.join("config.json"), zeroed.to_string()).unwrap();
        refused(&folder);
    }
    for (tensors, pairs) in [(0, 0), (u64::MAX, 0), (0, u64::MAX), (1 << 40, 1 << 40), (1, 1)] {
        fs::write(&file, gguf(tensors, pairs)).unwrap();
        refused(&file);
    }
}

/// The reader closes the pipe before anything is written, as `| head -c 5` can.
#[test]
fn a_closed_pipe_ends_quietly() {
    let home = temp();
    let file = small(home.path());
    let file = file.to_str().unwrap();
    for args in [
        &["--help"][..],
        &["inspect", file],
        &["inspect", file, "--json"],
        &["verify", file],
        &["models", "--json"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let binary = assert_cmd::cargo::cargo_bin!("nanoinfer");
        let mut command = std::process::Command::new(binary);
        command.args(args).env("NANOINFER_HOME", home.path()).stdout(writer);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {:?} {}", output.status, stderr(&output));
        assert!(output.stderr.is_empty(), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn logits_are_a_safetensors_file_with_every_position() {
    let home = temp();
    let file = small(home.path());
    let out = home.path().join("logits.safetensors");
    let run = |tokens: &str| {
        let mut command = nanoinfer(home.path());
        command.arg("logits").arg("--model").arg(&file).args(["--tokens", tokens, "--out"]);
        command.arg(&out).output().unwrap()
    };
    let output = run("1,2,3,4,5");
    assert!(output.status.success(), "{}", stderr(&output));
    let five = fs::read(&out).unwrap();
    let five = safetensors::SafeTensors::deserialize(&five).unwrap();
    let five = five.tensor("logits").unwrap();
    assert_eq!((five.dtype(), five.shape()), (safetensors::Dtype::F32, &[5, 320][..]));
    assert!(run("1,2,3").status.success());
    let three = fs::read(&out).unwrap();
    let three = safetensors::SafeTensors::deserialize(&three).unwrap();
    // Later tokens do not change earlier logits.
    assert_eq!(three.tensor("logits").unwrap().data(), &five.data()[..3 * 320 * 4]);

    fs::remove_file(&out).unwrap();
    let before = files(home.path());
    assert_fails(&run("1,320"), 1, &["320", "vocabulary"]);
    assert_eq!(files(home.path()), before);
}

#[test]
fn a_local_model_is_converted_into_the_cache_once() {
    let home = temp();
    let cache = home.path().join("cache");
    let folder = home.path().join("my model");
    fs::create_dir(&folder).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(tiny("llama-gqa").join(name), folder.join(name)).unwrap();
    }
    let run = || {
        let mut command = nanoinfer(&cache);
        command.arg("logits").arg("--model").arg(&folder).args(["--tokens", "1", "--out"]);
        command.arg(home.path().join("out")).output().unwrap()
    };
    let first = run();
    assert!(first.status.success(), "{}", stderr(&first));
    assert!(stderr(&first).contains("converting"), "{}", stderr(&first));
    assert!(run().stderr.is_empty());

    // A changed source is a different model, which replaces the earlier one.
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    fs::write(folder.join("config.json"), config + "\n").unwrap();
    assert!(stderr(&run()).contains("converting"));

    let list = json(&nanoinfer(&cache).args(["models", "list", "--json"]).output().unwrap());
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 1);
    assert!(list.iter().all(|e| e["model"] == "my_model" && e["kind"] == "q8"), "{list:?}");
    let name = list[0]["name"].as_str().unwrap();
    nanoinfer(&cache).args(["models", "remove", name]).assert().success();
    assert!(files(&cache).is_empty());
    assert!(stderr(&run()).contains("converting"));
    nanoinfer(&cache).args(["models", "remove", "my_model"]).assert().success();
    assert!(files(&cache).is_empty());
}
