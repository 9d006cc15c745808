//! `nanoinfer doctor`, shell completions and manual pages.

mod common;

use std::fs;
use std::process::Command;

use common::{assert_fails, files, json, nanoinfer, stderr, stdout, temp};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

#[test]
fn findings_are_consistent() {
    let home = temp();
    let report = json(&nanoinfer(home.path()).args(["doctor", "--json"]).output().unwrap());
    let available = report["isa"]["available"].as_array().unwrap();
    assert_eq!(available.last(), Some(&report["isa"]["used"]), "the last is not the fastest");
    assert_eq!(available[0], "scalar");
    let [bandwidth, int8] = ["bandwidth", "int8"].map(|key| {
        let value = |i: usize| report["roofline"][key][i].as_f64().unwrap();
        assert!(0.0 < value(1) && value(1) <= value(0) && value(0) <= value(2), "{report}");
        value(0)
    });
    let ridge = report["roofline"]["ridge"].as_f64().unwrap();
    assert!((ridge - int8 / bandwidth).abs() < 1e-6 * ridge, "{report}");
    let room = report["memory"]["available"].as_u64().unwrap();
    let models = report["models"].as_array().unwrap();
    assert!(models.iter().any(|m| m["shape"] == "tinyllama-1.1b"), "{report}");
    for model in models {
        // Consistent with the memory in the same report.
        assert_eq!(model["fits"], model["bytes"].as_u64().unwrap() <= room, "{report}");
        assert!(model["decode_tps"].as_f64().unwrap() > 0.0, "{report}");
        let needs = ["q2", "q3", "q4", "q5", "q8"].map(|q| model["needs"][q].as_u64().unwrap());
        assert!(needs.is_sorted() && model["bytes"] == needs[4], "{report}");
    }
    let encodings = report["encodings"].as_array().unwrap();
    let number = |e: &serde_json::Value, key: &str| e[key].as_f64().unwrap();
    assert_eq!((encodings.len(), number(&encodings[0], "relative")), (5, 1.0), "{report}");
    for e in encodings {
        assert!(number(e, "relative") > 0.0 && number(e, "gain") >= 1.0, "{report}");
    }
    assert!(files(home.path()).is_empty());
}

#[test]
fn findings_as_text() {
    let home = temp();
    let output = nanoinfer(home.path()).arg("doctor").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let table = stdout(&output);
    for part in
        ["isa  ", "threads  ", "GB available of", "GB/s", "GOPS", "llama-2-7b", "largest", "as q8"]
    {
        assert!(table.contains(part), "{part:?} not in {table}");
    }
}

#[test]
fn a_forced_instruction_set_is_used_and_explained() {
    let home = temp();
    let doctor = |isa: &str| {
        nanoinfer(home.path())
            .args(["doctor", "--json"])
            .env("NANOINFER_ISA", isa)
            .output()
            .unwrap()
    };
    let report = json(&doctor("scalar"));
    assert_eq!(report["isa"]["used"], "scalar");
    assert!(report["isa"]["reason"].as_str().unwrap().contains("NANOINFER_ISA=scalar"), "{report}");
    assert!(!report["advice"].as_array().unwrap().is_empty(), "{report}");
    assert_fails(&doctor("sse9"), 1, &["NANOINFER_ISA", "sse9", "avx2"]);
}

/// Child processes inherit the affinity of the thread that starts them.
#[test]
fn an_affinity_of_one_cpu_means_one_thread() {
    let here = sched_getaffinity(None).unwrap();
    let one = (0..CpuSet::MAX_CPU).find(|&cpu| here.is_set(cpu)).unwrap();
    let report = std::thread::spawn(move || {
        let mut set = CpuSet::new();
        set.set(one);
        sched_setaffinity(None, &set).unwrap();
        let home = temp();
        json(&nanoinfer(home.path()).args(["doctor", "--json"]).output().unwrap())
    });
    let threads = &report.join().unwrap()["threads"];
    assert_eq!([&threads["used"], &threads["allowed"]], [1, 1], "{threads}");
    if threads["online"].as_u64() > Some(1) {
        assert!(threads["reason"].as_str().unwrap().contains("affinity"), "{threads}");
    }
}

#[test]
fn bash_completes_commands_and_options() {
    let home = temp();
    let script = nanoinfer(home.path()).args(["completions", "bash"]).output().unwrap();
    assert!(script.status.success(), "{}", stderr(&script));
    let file = home.path().join("nanoinfer.bash");
    fs::write(&file, &script.stdout).unwrap();
    let complete = |words: &str, last: &str, before: &str| {
        let typed = "source \"$0\"; COMP_WORDS=($1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); \
                     _nanoinfer nanoinfer \"$2\" \"$3\"; echo \"${COMPREPLY[@]}\"";
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", typed]).arg(&file).args([words, last, before]);
        stdout(&bash.output().unwrap()).trim().to_owned()
    };
    assert_eq!(complete("nanoinfer doc", "doc", "nanoinfer"), "doctor");
    assert_eq!(complete("nanoinfer bench --synth", "--synth", "bench"), "--synthetic");
    assert_eq!(complete("nanoinfer bench --kv f1", "f1", "--kv"), "f16");
    for shell in ["zsh", "fish"] {
        let script = nanoinfer(home.path()).args(["completions", shell]).output().unwrap();
        assert!(stdout(&script).contains("synthetic"), "{shell}");
    }
    let none = nanoinfer(home.path()).args(["completions", "dos"]).output().unwrap();
    assert_fails(&none, 2, &["dos", "bash"]);
}

#[test]
fn every_command_has_a_manual_page() {
    let home = temp();
    let folder = home.path().join("man/man1");
    let output = nanoinfer(home.path()).args(["man", "--dir"]).arg(&folder).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{}", stderr(&output));
    let page = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let whole = stdout(&nanoinfer(home.path()).arg("man").output().unwrap());
    assert_eq!(whole, page("nanoinfer.1"));
    for command in ["chat", "bench", "doctor", "models-remove"] {
        let text = page(&format!("nanoinfer-{command}.1"));
        assert!(text.contains(&format!(".TH nanoinfer-{command} 1")), "{text}");
    }
    assert!(page("nanoinfer-bench.1").contains("\\-\\-synthetic"));
    let taken = home.path().join("file");
    fs::write(&taken, "").unwrap();
    let fails = nanoinfer(home.path()).args(["man", "--dir"]).arg(&taken).output().unwrap();
    assert_fails(&fails, 1, &["file", "cannot create the folder"]);
}
