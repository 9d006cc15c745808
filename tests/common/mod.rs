//! What the tests of the real binary share.
#![allow(dead_code)] // each test file uses its part

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;

pub(crate) mod server;

/// The binary, free of the settings of whoever runs the tests, with `home` as its cache.
pub(crate) fn nanoinfer(home: &Path) -> Command {
    let mut command = with_user_cache();
    command.env("NANOINFER_HOME", home);
    command
}

/// The binary with the cache of whoever runs the tests: for tests with the default model, which
/// is fetched and converted once and then shared by all of them, and by all later runs.
pub(crate) fn with_user_cache() -> Command {
    let mut command = assert_cmd::cargo::cargo_bin_cmd!("nanoinfer");
    for name in [
        "NANOINFER_ISA",
        "HF_TOKEN",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_ENDPOINT",
        "HF_HUB_OFFLINE",
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
