//! What the tests of the real binary share.
#![allow(dead_code)] // each test file uses its part

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Once;

use assert_cmd::Command;

pub(crate) mod server;

/// The binary, free of the settings of whoever runs the tests, with `home` as its cache.
pub(crate) fn nanoinfer(home: &Path) -> Command {
    let mut command = bare();
    command.env("NANOINFER_HOME", home);
    Command::from_std(command)
}

/// The binary with the cache of whoever runs the tests, and the default model in it.
pub(crate) fn with_default_model() -> Command {
    Command::from_std(std_with_default_model())
}

/// The same as a command of the standard library, for a test that holds the process in its hands.
///
/// The default model is fetched and converted once and then shared by all tests and all later
/// runs. That is done here, before the process under test starts, so that no test sees the
/// progress of a first run, or of another test's, in its own output.
pub(crate) fn std_with_default_model() -> std::process::Command {
    static READY: Once = Once::new();
    READY.call_once(|| {
        let output = bare().args(["tokenize", "--text", "x"]).output().expect("the binary runs");
        assert!(output.status.success(), "the default model is missing: {}", stderr(&output));
    });
    bare()
}

/// The binary, free of the settings that would change what it does.
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

/// A model with random weights from the repository, without a tokenizer.
pub(crate) fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny").join(name)
}

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

/// Asserts that a command failed as a user's mistake should: this exit code, nothing on standard
/// output, and as its last and only error one line that says all of `says`.
pub(crate) fn assert_fails(output: &Output, code: i32, says: &[&str]) {
    let err = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{err}");
    assert!(output.stdout.is_empty(), "{}", stdout(output));
    let errors: Vec<&str> = err.lines().filter(|l| l.starts_with("nanoinfer: error: ")).collect();
    assert_eq!(errors.len(), 1, "{err}");
    assert_eq!(err.lines().last(), errors.first().copied(), "{err}");
    assert!(err.lines().all(|l| l.starts_with("nanoinfer: ")), "{err}");
    for part in says {
        assert!(errors[0].contains(part), "{part:?} not in {err}");
    }
}

/// Every file below a folder, hidden and temporary ones included, without lock files.
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
