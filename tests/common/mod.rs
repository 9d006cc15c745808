//! Helpers for tests of the real binary.
#![allow(dead_code)] // no test file uses all of them

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Once;

use assert_cmd::Command;

pub(crate) mod server;

/// The binary with `home` as its cache, isolated from the user's environment.
pub(crate) fn nanoinfer(home: &Path) -> Command {
    let mut command = bare();
    command.env("NANOINFER_HOME", home);
    Command::from_std(command)
}

/// The binary with the user's cache, which holds the default model.
pub(crate) fn with_default_model() -> Command {
    Command::from_std(std_with_default_model())
}

/// Like [`with_default_model`], as a `std` command for tests that control the process.
///
/// The default model is downloaded and converted once, then shared by all tests and later runs. That
/// happens here, before the process under test starts, so that its output contains no progress
/// messages.
pub(crate) fn std_with_default_model() -> std::process::Command {
    static READY: Once = Once::new();
    READY.call_once(|| {
        let output = bare().args(["tokenize", "--text", "x"]).output().expect("the binary runs");
        assert!(output.status.success(), "the default model is missing: {}", stderr(&output));
    });
    bare()
}

/// The binary without environment variables that would affect it.
fn bare() -> std::process::Command {
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("nanoinfer"));
    for name in [
        "NANOINFER_ISA",
        "HF_TOKEN",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_ENDPOINT",
        "HF_HUB_OFFLINE",
        "HF_HUB_DOWNLOAD_TIMEOUT",
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
        "NO_COLOR",
    ] {
        command.env_remove(name);
    }
    command
}

/// A model from the repository with random weights and no tokenizer.
pub(crate) fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny").join(name)
}

/// A folder with [`tiny`]'s `llama-gqa` and a tokenizer: a token for each byte, and those of [`CONTROL`].
/// It adds `<s>` to a text. The model was trained for 512 tokens.
pub(crate) fn talking(folder: &Path, template: Option<&str>) -> PathBuf {
    let to = folder.join("talking");
    std::fs::create_dir(&to).expect("created");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(tiny("llama-gqa").join(name), to.join(name)).expect("copied");
    }
    let mut vocab = serde_json::Map::new();
    let mut shifted = 256..;
    for byte in 0..=255_u8 {
        // Bytes without a visible character are written as the characters from 256 on.
        let visible = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..);
        let code = if visible { u32::from(byte) } else { shifted.next().expect("endless") };
        vocab.insert(char::from_u32(code).expect("a character").into(), byte.into());
    }
    let added: Vec<_> = CONTROL
        .iter()
        .zip(256..)
        .map(|(name, id)| serde_json::json!({"id": id, "content": name, "special": true}))
        .collect();
    let tokenizer = serde_json::json!({
        "added_tokens": added,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    let mut settings = serde_json::json!({"add_bos_token": true});
    if let Some(template) = template {
        settings["chat_template"] = template.into();
    }
    let generation = serde_json::json!({"bos_token_id": 256, "eos_token_id": 257});
    for (name, json) in [
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", settings),
        ("generation_config.json", generation),
    ] {
        std::fs::write(to.join(name), json.to_string()).expect("written");
    }
    to
}

/// The control tokens of [`talking`], from id 256.
pub(crate) const CONTROL: [&str; 8] = [
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
    "<|fim_pad|>",
];

pub(crate) fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).expect("JSON on standard output")
}

/// Asserts that a command failed cleanly: with this exit code, no output, and a single error line at
/// the end that contains all of `parts`.
pub(crate) fn assert_fails(output: &Output, code: i32, parts: &[&str]) {
    let err = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{err}");
    assert!(output.stdout.is_empty(), "{}", stdout(output));
    let errors: Vec<&str> = err.lines().filter(|l| l.starts_with("nanoinfer: error: ")).collect();
    assert_eq!(errors.len(), 1, "{err}");
    assert_eq!(err.lines().last(), errors.first().copied(), "{err}");
    assert!(err.lines().all(|l| l.starts_with("nanoinfer: ")), "{err}");
    for part in parts {
        assert!(errors[0].contains(part), "{part:?} not in {err}");
    }
}

/// All files below a folder, including hidden and temporary ones, but not lock files.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files(&path));
        } else if path.extension().is_none_or(|e| e != "lock") {
            found.push(path);
        }
    }
    found.sort();
    found
}
