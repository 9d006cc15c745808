//! A model file that is truncated while in use.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use common::{std_with_default_model, stderr, stdout, temp, with_default_model};

/// The default model, freshly converted: a cached one may be from another version.
fn copy(folder: &Path) -> PathBuf {
    let file = folder.join("model.nano");
    let mut convert = with_default_model();
    convert.args(["convert", "--model", "smollm2", "--out"]).arg(&file).assert().success();
    file
}

/// Starts a chat and waits until it has opened the model.
fn chat(file: &Path, options: &[&str], ready: impl Fn(u32) -> bool) -> Child {
    let mut command = std_with_default_model();
    command.arg("chat").arg("--model").arg(file).args(["--temp", "0", "-n", "6"]).args(options);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let begin = Instant::now();
    while !ready(child.id()) {
        // A timeout in case the program hangs.
        assert!(begin.elapsed() < Duration::from_secs(600), "the model was not opened");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

fn say(mut child: Child) -> Output {
    // Writing fails if the chat has already ended because of the truncated file.
    let said = child.stdin.take().unwrap().write_all(b"Hello\n");
    assert!(said.is_ok() || child.wait().unwrap().code() == Some(1));
    child.wait_with_output().unwrap()
}

fn truncate(file: &Path) {
    fs::File::options().write(true).open(file).unwrap().set_len(100_000).unwrap();
}

#[test]
fn truncating_a_mapped_file_ends_the_program_with_a_message() {
    let folder = temp();
    let file = copy(folder.path());
    let mapped = |pid: u32| {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        maps.contains("model.nano")
    };
    let child = chat(&file, &[], mapped);
    truncate(&file);
    let output = say(child);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "garbage: {}", stdout(&output));
    let line = "nanoinfer: error: a mapped file can no longer be read";
    assert!(stderr(&output).contains(line), "{}", stderr(&output));
}

#[test]
fn a_private_copy_is_unaffected() {
    let folder = temp();
    let file = copy(folder.path());
    let expected = say(chat(&file, &[], |_| true));
    assert!(expected.status.success() && !expected.stdout.is_empty(), "{expected:?}");
    let len = fs::metadata(&file).unwrap().len();
    let read = |pid: u32| {
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let bytes = io.lines().find_map(|l| l.strip_prefix("rchar: ")?.parse::<u64>().ok());
        bytes.is_some_and(|n| n >= len)
    };
    let child = chat(&file, &["--no-mmap"], read);
    truncate(&file);
    let output = say(child);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), stdout(&expected));
}
