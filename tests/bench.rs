//! `nanoinfer bench` with a tiny model whose speed does not matter.

mod common;

use std::path::Path;

use common::{assert_fails, files, json, nanoinfer, stderr, stdout, temp, tiny};

#[test]
fn json_has_one_object_per_combination() {
    let home = temp();
    let mut command = nanoinfer(home.path());
    command.args(["bench", "--synthetic", "tiny", "-p", "8,0", "-n", "2", "-d", "0,70"]);
    command.args(["-b", "1,3", "-t", "1,2", "--kv", "q8,f32", "-r", "2", "--json"]);
    let rows = json(&command.output().unwrap());
    let rows = rows.as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|r| r["test"].as_str().unwrap()).collect();
    let each = ["pp8", "tg2", "tg2x3", "pp8@d70", "tg2@d70", "tg2x3@d70"];
    assert_eq!(names, each.repeat(4));
    let column = |key: &str| rows.iter().step_by(6).map(|r| r[key].clone()).collect::<Vec<_>>();
    assert_eq!(column("threads"), [1, 1, 2, 2]);
    assert_eq!(column("kv"), ["q8", "f32", "q8", "f32"]);
    for row in rows {
        let runs: Vec<f64> =
            row["runs"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        let number = |key: &str| row[key].as_f64().unwrap();
        let mean = (runs[0] + runs[1]) / 2.0;
        assert!(runs.len() == 2 && runs.iter().all(|&x| x > 0.0), "{row}");
        assert!((number("tps") - mean).abs() < 1e-6 * mean, "not the median of two: {row}");
        assert!((number("mean") - mean).abs() < 1e-6 * mean, "{row}");
        assert!(number("sd") >= 0.0 && number("share_of_limit") > 0.0, "{row}");
        assert!(row["isa"].is_string(), "{row}");
    }
    // With a deeper context or more sequences, a pass reads more bytes.
    let bytes = |i: usize| rows[i]["pass_bytes"].as_u64().unwrap();
    assert!(bytes(1) < bytes(2) && bytes(1) < bytes(4), "{rows:?}");
    // tiny: 2 layers, 2 KV heads of 32 bytes for keys and values, each with a scale per position.
    assert_eq!(bytes(4) - bytes(1), 70 * 2 * 2 * 2 * (32 + 4));
    assert!(files(home.path()).is_empty());
}

#[test]
fn inactive_experts_are_not_counted_as_read() {
    let home = temp();
    let mut command = nanoinfer(home.path());
    command.args([
        "bench",
        "--synthetic",
        "tiny-moe",
        "-p",
        "0",
        "-n",
        "1",
        "-b",
        "1,2,8",
        "-r",
        "1",
        "--json",
    ]);
    let rows = json(&command.output().unwrap());
    let bytes = |i: usize| rows[i]["pass_bytes"].as_u64().unwrap();
    // 2 layers of 16 experts, of which a token chooses 4; gate, up and down are 128 × 64 bytes with scales per row.
    let experts = 2.0 * 16.0 * (3.0 * 128.0 * 64.0 + 4.0 * (64.0 + 64.0 + 128.0));
    // A token's keys and values in 2 layers with 2 heads of 32, each with a scale.
    let kv = |n: f64| n * 2.0 * 2.0 * 2.0 * (32.0 + 4.0);
    for (i, n) in [(1, 2.0), (2, 8.0)] {
        let more = experts * (0.75 - f64::powf(0.75, n)) + kv(n - 1.0);
        assert!(((bytes(i) - bytes(0)) as f64 - more).abs() < 0.01 * more, "{n}: {more}, {rows}");
    }
}

#[test]
fn results_as_markdown_and_csv() {
    let home = temp();
    let run = |model: &str, args: &[&str]| {
        let mut command = nanoinfer(home.path());
        command.arg("bench").arg("--model").arg(tiny(model)).args(["-r", "1"]).args(args);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let table = run("llama-gqa", &["-p", "4", "-n", "2", "--profile"]);
    for part in ["| pp4 ", "| tg2 ", "limits with ", "GB/s", "| attention ", "| head "] {
        assert!(table.contains(part), "{part:?} not in {table}");
    }
    assert!(!table.contains("| states "), "it has none: {table}");
    let table = run("qwen3-5", &["-p", "4", "-n", "2", "--profile"]);
    assert!(table.contains("| convolve ") && table.contains("| states "), "{table}");
    let csv = run("llama-gqa", &["-p", "0", "-n", "1", "-o", "csv"]);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 2, "{csv}");
    assert!(lines[0].starts_with("test,tps,") && lines[1].starts_with("tg1,"), "{csv}");
    assert_eq!(lines[0].split(',').count(), lines[1].split(',').count());
}

#[test]
fn copy_tests_use_drafts() {
    let home = temp();
    let run = |output: &str, more: &[&str]| {
        let mut command = nanoinfer(home.path());
        command.args(["bench", "--synthetic", "tiny", "-p", "0", "-n", "0", "-r", "2"]);
        command.args(["--n-copy", "64", "--profile", "-o", output]).args(more).output().unwrap()
    };
    // The number of drafts depends on timing unless the length is fixed.
    let rows = json(&run("json", &["--draft-length", "7"]));
    let row = &rows[0];
    assert!(rows.as_array().unwrap().len() == 1 && row["test"] == "cp64", "{rows}");
    assert!(row["tps"].as_f64().unwrap() > 0.0 && row["share_of_limit"].is_null(), "{row}");
    let (drafts, reused) = (&row["drafts"], row["reused_tokens"].as_u64().unwrap());
    assert!(reused >= 60, "the prompt is not reused: {row}");
    let count = |key: &str| drafts["lookup"][key].as_u64().unwrap();
    assert!(count("drafted") >= count("accepted") && count("accepted") > 0, "{row}");
    assert!(drafts["tokens_per_pass"].as_f64().unwrap() > 1.0, "{row}");
    let table = stdout(&run("md", &[]));
    assert!(table.contains("| cp64 ") && table.contains(" tokens per pass, "), "{table}");
}

#[test]
fn an_empty_benchmark_is_an_error() {
    let home = temp();
    let mut command = nanoinfer(home.path());
    command.args(["bench", "--synthetic", "tiny", "-p", "0", "-n", "0"]);
    let advice = "-p or -n to at least 1, or --n-copy to at least 2";
    assert_fails(&command.output().unwrap(), 1, &[advice]);
}

#[test]
fn a_config_alone_can_be_measured() {
    let home = temp();
    let run = |config: &Path| {
        let mut command = nanoinfer(home.path());
        command.args(["bench", "-p", "4", "-n", "2", "-r", "1", "-o", "json", "--synthetic"]);
        command.arg(config).output().unwrap()
    };
    let rows = json(&run(&tiny("gemma4-e").join("config.json")));
    assert!(rows[1]["test"] == "tg2" && rows[1]["tps"].as_f64().unwrap() > 0.0, "{rows}");
    let missing = home.path().join("config.json");
    assert_fails(&run(&missing), 1, &["--synthetic", "config.json", "No such file"]);
    std::fs::write(&missing, r#"{"model_type": "bert"}"#).unwrap();
    assert_fails(&run(&missing), 1, &["--synthetic", "config.json", "bert", "supported"]);
}
