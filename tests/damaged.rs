//! Damaged files of every kind, each read by a separate process with a memory limit of 2 GB. The outcome
//! is a result or a one-line error, never a crash.
#![cfg(unix)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{nanoinfer, stderr, stdout, temp, tiny};

/// Edge values for an integer of `width` bytes, and neighbours of its current value.
fn edges(width: usize, current: u64) -> [u64; 9] {
    let max = u64::MAX >> (64 - 8 * width);
    let half = max >> 1;
    [
        0,
        1,
        max,
        max - 1,
        half,
        half + 1,
        current.wrapping_add(1) & max,
        current.wrapping_sub(1) & max,
        current << 1 & max,
    ]
}

fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    let mut wide = [0; 8];
    wide[..width].copy_from_slice(&bytes[at..at + width]);
    u64::from_le_bytes(wide)
}

fn put(bytes: &[u8], at: usize, width: usize, value: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    bytes
}

/// The tables of a `.nano` file, as in docs/FORMAT.md.
struct Nano(Vec<u8>);

impl Nano {
    /// Row offset, kind, offset and length of each section.
    fn sections(&self) -> Vec<(usize, u64, usize, usize)> {
        let (at, n) = (number(&self.0, 96, 8) as usize, number(&self.0, 104, 4) as usize);
        let row = |i: usize| {
            let at = at + 64 * i;
            let size = |field| number(&self.0, at + field, 8) as usize;
            (at, number(&self.0, at, 4), size(8), size(16))
        };
        (0..n).map(row).collect()
    }

    fn section(&self, kind: u64) -> (usize, usize) {
        let found = self.sections().into_iter().find(|s| s.1 == kind).unwrap();
        (found.2, found.3)
    }

    /// Corrects all hashes of a modified copy whose tables have not moved.
    fn sign(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let hash = |bytes: &[u8]| *blake3::hash(bytes).as_bytes();
        let (table, rows) = (number(&self.0, 96, 8) as usize, self.sections());
        let (tensors, len) = self.section(6);
        let mut data = Vec::new();
        for row in (tensors..tensors + len).step_by(192) {
            let (at, n) =
                (number(&self.0, row + 72, 8) as usize, number(&self.0, row + 80, 8) as usize);
            let digest = hash(&bytes[at..at + n]);
            bytes[row + 88..row + 120].copy_from_slice(&digest);
            data.extend(digest);
        }
        let mut id = [0; 160];
        for &(row, kind, at, n) in &rows {
            let digest = if kind == 10 { hash(&data) } else { hash(&bytes[at..at + n]) };
            bytes[row + 32..row + 64].copy_from_slice(&digest);
            if let Some(i) = [1, 2, 4, 6, 10].iter().position(|&k| k == kind) {
                id[32 * i..32 * i + 32].copy_from_slice(&digest);
            }
        }
        for (at, digest) in [(120, hash(&id)), (152, hash(&bytes[table..]))] {
            bytes[at..at + 32].copy_from_slice(&digest);
        }
        let digest = hash(&bytes[..224]);
        bytes[224..256].copy_from_slice(&digest);
        bytes
    }
}

/// Damaged `.nano` files: truncated, with a flipped bit in each header byte, or with edge values in each
/// field and matching hashes.
fn nano_files(valid: &[u8]) -> Vec<(String, Vec<u8>)> {
    let nano = Nano(valid.to_vec());
    let mut files = Vec::new();
    for i in 0..40 {
        let len = valid.len() * i / 40;
        files.push((format!("truncated to {len}"), valid[..len].to_vec()));
    }
    for at in 0..256 {
        let flipped = valid[at] ^ (1 << (at % 8));
        files.push((format!("header byte {at} flipped"), put(valid, at, 1, flipped.into())));
    }
    let mut field = |what: String, at: usize, width: usize| {
        for value in edges(width, number(valid, at, width)) {
            let changed = nano.sign(put(valid, at, width, value));
            files.push((format!("{what} = {value}"), changed));
        }
    };
    for at in [16, 24, 32, 72, 80, 96] {
        field(format!("header u64 at {at}"), at, 8);
    }
    for at in [8, 12, 40, 44, 48, 52, 56, 60, 64, 68, 88, 92, 104, 108] {
        field(format!("header u32 at {at}"), at, 4);
    }
    for (row, kind, ..) in nano.sections() {
        field(format!("kind of section {kind}"), row, 4);
        field(format!("offset of section {kind}"), row + 8, 8);
        field(format!("length of section {kind}"), row + 16, 8);
    }
    let (tensors, _) = nano.section(6);
    for row in [0, 1, 3] {
        for at in (0..72).step_by(4).chain((120..136).step_by(4)) {
            field(format!("tensor {row}, u32 at {at}"), tensors + 192 * row + at, 4);
        }
        for at in [72, 80] {
            field(format!("tensor {row}, u64 at {at}"), tensors + 192 * row + at, 8);
        }
    }
    let (data, _) = nano.section(10);
    for (i, bits) in [f32::NAN, f32::INFINITY, -f32::INFINITY].map(f32::to_bits).iter().enumerate()
    {
        let changed = nano.sign(put(valid, data, 4, (*bits).into()));
        files.push((format!("scale {i} not finite"), changed));
    }
    files
}

fn gguf_files() -> Vec<(String, Vec<u8>)> {
    let string = |s: &str| [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat();
    let mut valid = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0".to_vec();
    valid.extend([string("general.architecture"), vec![8, 0, 0, 0], string("llama")].concat());
    let list = valid.len() + string("tokenizer.ggml.tokens").len();
    valid.extend([string("tokenizer.ggml.tokens"), vec![9, 0, 0, 0, 8, 0, 0, 0]].concat());
    valid.extend([1u64.to_le_bytes().to_vec(), string("a"), string("token_embd.weight")].concat());
    let info = valid.len();
    valid.extend([2, 0, 0, 0]);
    valid.extend([32u64, 2].iter().flat_map(|d| d.to_le_bytes()));
    valid.extend([0; 12]);
    valid.resize(valid.len().next_multiple_of(32) + 256, 0);
    let mut files = Vec::new();
    for (at, width) in [
        (4, 4),
        (8, 8),
        (16, 8),
        (24, 8),
        (list, 4),
        (list + 4, 4),
        (list + 8, 8),
        (info, 4),
        (info + 4, 8),
        (info + 12, 8),
        (info + 20, 4),
        (info + 24, 8),
    ] {
        for value in edges(width, number(&valid, at, width)) {
            files.push((format!("GGUF {at} = {value}"), put(&valid, at, width, value)));
        }
    }
    files.extend(
        (0..valid.len())
            .step_by(23)
            .map(|n| (format!("GGUF truncated to {n}"), valid[..n].to_vec())),
    );
    files
}

fn safetensors_files() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut add = |what: String, header: String, len: u64| {
        let bytes = [&len.to_le_bytes()[..], header.as_bytes(), &[0; 64]].concat();
        files.push((what, bytes));
    };
    let entry = |shape: &str, range: &str| {
        format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{range}}}}}"#)
    };
    for value in edges(8, 64) {
        let valid = entry("[4,4]", "[0,64]");
        add(format!("header of {value}"), valid.clone(), value);
        for (shape, range) in [
            (format!("[{value},4]"), "[0,64]".into()),
            (format!("[4,{value}]"), "[0,64]".into()),
            ("[4,4]".to_owned(), format!("[{value},64]")),
            ("[4,4]".to_owned(), format!("[0,{value}]")),
        ] {
            let header = entry(&shape, &range);
            add(format!("{shape} {range}"), header.clone(), header.len() as u64);
        }
    }
    let twice = r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}"#;
    add("overlap".into(), twice.into(), twice.len() as u64);
    let deep = "[".repeat(100_000);
    add("deep JSON".into(), deep.clone(), deep.len() as u64);
    files
}

/// Runs the binary with 2 GB of memory; the error describes an unacceptable outcome.
fn judge(arguments: &[&OsStr]) -> Result<(), String> {
    let mut shell = Command::new("bash");
    shell.args(["-c", "ulimit -v 2097152; exec \"$@\"", "bash"]);
    shell.arg(assert_cmd::cargo::cargo_bin!("nanoinfer")).args(arguments);
    let output = shell.output().unwrap();
    let err = stderr(&output);
    let one_line = err.lines().filter(|l| l.starts_with("nanoinfer: error: ")).count() == 1
        && err.lines().all(|l| l.starts_with("nanoinfer: "));
    match output.status.code() {
        Some(0) if err.is_empty() => Ok(()),
        Some(1) if one_line && output.stdout.is_empty() => Ok(()),
        _ => Err(format!("{:?}: {err} {}", output.status, stdout(&output))),
    }
}

/// Judges every file with every command, two files at a time.
fn judge_all(folder: &Path, extension: &str, files: &[(String, Vec<u8>)], commands: &[&[&str]]) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (next, work_folder) = (&next, folder);
        let work = move |worker: usize| {
            let path: PathBuf = work_folder.join(format!("{worker}.{extension}"));
            let out = work_folder.join(format!("{worker}.out"));
            while let Some((what, bytes)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                fs::write(&path, bytes).unwrap();
                for command in commands {
                    let fill = command.iter().map(|&part| match part {
                        "FILE" => path.as_os_str(),
                        "OUT" => out.as_os_str(),
                        other => OsStr::new(other),
                    });
                    let arguments: Vec<&OsStr> = fill.collect();
                    judge(&arguments).unwrap_or_else(|e| panic!("{what}: {command:?}: {e}"));
                }
            }
        };
        (0..2).for_each(|worker| _ = scope.spawn(move || work(worker)));
    });
}

#[test]
fn damaged_files_never_crash() {
    let home = temp();
    let damage = |model: &str| {
        let out = home.path().join("valid.nano");
        let mut command = nanoinfer(home.path());
        command.arg("convert").arg("--model").arg(tiny(model)).arg("--out").arg(&out);
        command.assert().success();
        nano_files(&fs::read(out).unwrap())
    };
    let mut nano = damage("llama-gqa");
    nano.extend(damage("mixtral-experts").into_iter().step_by(4));
    let (gguf, safetensors) = (gguf_files(), safetensors_files());
    println!("{} files", nano.len() + gguf.len() + safetensors.len());
    assert!(nano.len() + gguf.len() + safetensors.len() >= 300);
    let logits =
        &["logits", "--threads", "1", "--tokens", "1,2", "--model", "FILE", "--out", "OUT"][..];
    judge_all(home.path(), "nano", &nano, &[logits]);
    judge_all(home.path(), "gguf", &gguf, &[&["inspect", "FILE"]]);
    judge_all(home.path(), "safetensors", &safetensors, &[&["inspect", "FILE"]]);
}
