//! After a kill, or a failure due to a full disk or a file-size limit, the target is absent or is
//! exactly the old or the new file.
#![cfg(unix)]

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{assert_fails, files, stderr, talking, temp};

/// A model of 90 MB, whose conversion takes long enough to be interrupted.
fn model(folder: &Path) -> PathBuf {
    let d = 1024_u64;
    let ff = 2816;
    let vocab = 8000;
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": d, "intermediate_size": ff,
        "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": vocab,
        "num_hidden_layers": 2, "max_position_embeddings": 512, "tie_word_embeddings": true,
    });
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocab, d]),
        ("model.norm.weight".to_owned(), vec![d]),
    ];
    for i in 0..2 {
        for (name, shape) in [
            ("input_layernorm", vec![d]),
            ("self_attn.q_proj", vec![d, d]),
            ("self_attn.k_proj", vec![d / 4, d]),
            ("self_attn.v_proj", vec![d / 4, d]),
            ("self_attn.o_proj", vec![d, d]),
            ("post_attention_layernorm", vec![d]),
            ("mlp.gate_proj", vec![ff, d]),
            ("mlp.up_proj", vec![ff, d]),
            ("mlp.down_proj", vec![d, ff]),
        ] {
            shapes.push((format!("model.layers.{i}.{name}.weight"), shape));
        }
    }
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, shape) in shapes {
        let end = at + 4 * shape.iter().product::<u64>();
        let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [at, end]});
        header.insert(name, entry);
        at = end;
    }
    let header = serde_json::Value::Object(header).to_string();
    let folder = folder.join("model");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let file = fs::File::create(folder.join("model.safetensors")).unwrap();
    let mut file = std::io::BufWriter::new(file);
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let mut seed = 1_u32;
    for _ in 0..at / 4 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        file.write_all(&(seed as f32 / u32::MAX as f32 - 0.5).to_le_bytes()).unwrap();
    }
    file.flush().unwrap();
    folder
}

fn convert(model: &Path, out: &Path, quant: &str) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("nanoinfer"));
    command.env("NANOINFER_HOME", out.parent().unwrap().join("home"));
    command.arg("convert").arg("--model").arg(model).args(["--quant", quant, "--out"]).arg(out);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn succeeds(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

/// The content of the target, if it exists.
fn target(out: &Path) -> Option<Vec<u8>> {
    fs::read(out).ok()
}

/// `NANOINFER_TEST_KILLS` sets the number of kills; releases use 200.
#[test]
fn a_kill_never_leaves_a_partial_file() {
    let kills = std::env::var("NANOINFER_TEST_KILLS").map_or(12, |n| n.parse().unwrap());
    let folder = temp();
    survives(kills, &model(folder.path()), "q8");
}

/// With the temporary 8-bit version that calibration needs.
#[test]
fn a_kill_while_calibrating_never_leaves_a_partial_file() {
    let folder = temp();
    survives(6, &talking(folder.path(), None), "q4");
}

/// Kills conversions to `quant` at random moments.
fn survives(kills: usize, source: &Path, quant: &str) {
    let folder = temp();
    let dir = folder.path().join("out");
    fs::create_dir(&dir).unwrap();
    let out = dir.join("m.nano");
    succeeds(convert(source, &out, "f32"));
    let old = fs::read(&out).unwrap();
    let begin = Instant::now();
    succeeds(convert(source, &out, quant));
    let usual = begin.elapsed();
    let new = fs::read(&out).unwrap();
    let mut seed = 7_u64;
    let mut left_behind = 0;
    let mut finished = 0;
    for i in 0..kills {
        // Alternately without and with an old file.
        if i % 2 == 0 {
            let _ = fs::remove_file(&out);
        } else {
            fs::write(&out, &old).unwrap();
        }
        let before = target(&out);
        let mut child: Child = convert(source, &out, quant).spawn().unwrap();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let moment = (seed >> 33) as f64 / (1_u64 << 31) as f64 * 1.1;
        std::thread::sleep(Duration::from_secs_f64(usual.as_secs_f64() * moment));
        child.kill().unwrap();
        child.wait().unwrap();
        let after = target(&out);
        finished += usize::from(after.as_ref() == Some(&new));
        assert!(
            after == before || after.as_ref() == Some(&new),
            "kill {i} at {moment} of {usual:?}"
        );
        left_behind += usize::from(temporary(&dir) > 0);
    }
    println!("{kills} kills: {finished} after the end, {left_behind} left a temporary file");
    succeeds(convert(source, &out, quant));
    assert_eq!((target(&out), temporary(&dir)), (Some(new), 0), "stale files are reclaimed");
}

/// Hidden files in a folder.
fn temporary(dir: &Path) -> usize {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
    names.filter(|n| n.to_string_lossy().starts_with('.')).count()
}

/// Under `ulimit -f`, writing fails partway through.
#[test]
fn a_file_size_limit_is_a_one_line_error() {
    let folder = temp();
    let source = model(folder.path());
    let dir = folder.path().join("out");
    fs::create_dir(&dir).unwrap();
    let out = dir.join("m.nano");
    for kilobytes in [0, 1, 64, 5000, 20000] {
        let inner = convert(&source, &out, "q8");
        let mut shell = Command::new("bash");
        shell.arg("-c").arg(format!("ulimit -f {kilobytes}; exec \"$@\"")).arg("bash");
        shell.arg(inner.get_program()).args(inner.get_args());
        shell.env("NANOINFER_HOME", folder.path().join("home"));
        let output: Output = shell.output().unwrap();
        assert_fails(&output, 1, &["m.nano", "cannot write", "File too large"]);
        assert_eq!(files(&dir), [] as [PathBuf; 0], "{kilobytes}");
    }
}

/// A small tmpfs, unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, bytes: u64) -> Self {
        fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(&at);
        assert!(mount.status().unwrap().success());
        Self(at)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
#[ignore = "mounts a small tmpfs, which requires root; run with --ignored"]
fn a_calibrated_conversion_needs_room_for_two_files() {
    let folder = temp();
    let source = model(folder.path());
    let whole = folder.path().join("whole.nano");
    succeeds(convert(&source, &whole, "q8"));
    // Enough for either file.
    let size = fs::metadata(&whole).unwrap().len();
    let disk = Disk::mount(folder.path().join("disk"), size + (4 << 20));
    let output = convert(&source, &disk.0.join("m.nano"), "q4").output().unwrap();
    assert_fails(&output, 1, &["bytes are needed here", "are available"]);
    assert!(!stderr(&output).contains("converting"), "{}", stderr(&output));
    let home = disk.0.join("home");
    assert!(files(&disk.0).iter().all(|file| file.starts_with(&home)));
}

#[test]
#[ignore = "mounts a small tmpfs, which requires root; run with --ignored"]
fn a_full_disk_is_a_one_line_error() {
    let folder = temp();
    let source = model(folder.path());
    let whole = folder.path().join("whole.nano");
    succeeds(convert(&source, &whole, "q8"));
    let (new, size) = (fs::read(&whole).unwrap(), fs::metadata(&whole).unwrap().len());
    let disk = Disk::mount(folder.path().join("disk"), size + (4 << 20));
    let out = disk.0.join("m.nano");
    for percent in [100, 99, 75, 50, 15] {
        // Too full for the output.
        let filler = disk.0.join("filler");
        fs::write(&filler, vec![1; ((size + (4 << 20)) * percent / 100 - 8192) as usize]).unwrap();
        let mut command = convert(&source, &out, "q8");
        command.env("NANOINFER_HOME", folder.path().join("home"));
        let output = command.output().unwrap();
        assert_fails(&output, 1, &["bytes are needed here", "are available"]);
        assert_eq!(files(&disk.0), [filler]);
    }
    // Filled by another process during the conversion.
    let filler = disk.0.join("filler");
    for milliseconds in [20, 40, 60, 80, 120] {
        let _ = fs::remove_file(&filler);
        let mut command = convert(&source, &out, "q8");
        command.env("NANOINFER_HOME", folder.path().join("home"));
        let child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        let mut file = fs::File::create(&filler).unwrap();
        while file.write_all(&[1; 1 << 16]).is_ok() {}
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            assert_eq!(fs::read(&out).unwrap(), new);
            fs::remove_file(&out).unwrap();
        } else {
            println!("{milliseconds} ms: {}", stderr(&output).lines().last().unwrap_or_default());
            assert_fails(&output, 1, &["disk"]);
        }
        assert_eq!(files(&disk.0), std::slice::from_ref(&filler));
    }
}
