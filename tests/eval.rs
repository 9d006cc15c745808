//! `nanoinfer eval` with the default model; see `common::with_default_model`.

mod common;

use std::fs;
use std::path::Path;

use common::{assert_fails, json, nanoinfer, stderr, stdout, temp, tiny, with_default_model};
use serde_json::Value;

const TEXT: &str = include_str!("../README.md");

fn eval(args: &[&str]) -> Value {
    json(
        &with_default_model()
            .args(["eval", "--json"])
            .args(args)
            .write_stdin(TEXT)
            .output()
            .unwrap(),
    )
}

fn number(object: &Value, key: &str) -> f64 {
    object[key].as_f64().unwrap_or_else(|| panic!("{key} in {object}"))
}

/// -log p of each token after the first, computed from the output of `nanoinfer logits`.
fn nlls(folder: &Path, ids: &[u64]) -> Vec<f64> {
    let out = folder.join("logits");
    let list: Vec<String> = ids.iter().map(u64::to_string).collect();
    let mut command = with_default_model();
    command.args(["logits", "--tokens", &list.join(","), "--out"]).arg(&out).assert().success();
    let file = fs::read(&out).unwrap();
    let file = safetensors::SafeTensors::deserialize(&file).unwrap();
    let logits = file.tensor("logits").unwrap();
    let vocab = logits.shape()[1];
    let value = |b: &[u8; 4]| f64::from(f32::from_le_bytes(*b));
    let rows: Vec<f64> = logits.data().as_chunks::<4>().0.iter().map(value).collect();
    let pairs = rows.chunks(vocab).zip(&ids[1..]);
    pairs.map(|(x, &id)| x.iter().map(|x| x.exp()).sum::<f64>().ln() - x[id as usize]).collect()
}

#[test]
fn perplexity_agrees_with_the_logits() {
    let home = temp();
    let tokenize =
        with_default_model().args(["tokenize", "--json", "--text", TEXT]).output().unwrap();
    let ids: Vec<u64> =
        json(&tokenize)["ids"].as_array().unwrap().iter().map(|i| i.as_u64().unwrap()).collect();
    let windows: Vec<Vec<f64>> = ids[..120].chunks(60).map(|w| nlls(home.path(), w)).collect();
    for (score, from, tokens) in [("half", 30, 58), ("all", 0, 118)] {
        let nll: f64 = windows.iter().flat_map(|w| &w[from..]).sum();
        let got = eval(&["--window", "60", "--tokens", "130", "--score", score]);
        assert_eq!((&got["tokens"], &got["windows"]), (&tokens.into(), &2.into()), "{got}");
        let (mean, expected) = (number(&got, "mean_nll"), nll / f64::from(tokens));
        assert!((mean - expected).abs() < 1e-5, "{mean}, expected {expected}");
        assert!((number(&got, "perplexity") - mean.exp()).abs() < 1e-9);
        assert!(got.get("mean_kl").is_none(), "{got}");
    }
}

#[test]
fn divergence_is_zero_from_itself_and_small_with_another_cache_type() {
    let args = ["--window", "64", "--tokens", "128", "--reference", "smollm2", "--kv"];
    let same = eval(&[&args[..], &["q8"]].concat());
    for (key, expected) in
        [("mean_kl", 0.0), ("max_kl", 0.0), ("max_change", 0.0), ("top1", 1.0), ("top5", 1.0)]
    {
        assert!((number(&same, key) - expected).abs() < 1e-9, "{key} in {same}");
    }
    assert_eq!(same["perplexity"], same["reference_perplexity"]);
    let other = eval(&[&args[..], &["f32"]].concat());
    assert_eq!((&other["kv"], &other["tokens"]), (&"f32".into(), &62.into()));
    let [p50, mean, p99, max] =
        ["p50_kl", "mean_kl", "p99_kl", "max_kl"].map(|key| number(&other, key));
    assert!(0.0 < p50 && p50 <= p99 && p99 <= max && mean <= max && mean < 0.02, "{other}");
    assert!(number(&other, "max_change") > 0.0 && number(&other, "top1") > 0.8, "{other}");
}

#[test]
fn questions_are_answered_by_likelihood() {
    let home = temp();
    let file = home.path().join("questions.jsonl");
    let lines = r#"{"question":"The capital of France is","choices":["banana","Paris","of"],"answer":1}

{"question":"The opposite of hot is","choices":["cold","seventeen"],"answer":"cold","subject":"x"}
{"question":"The opposite of hot is","choices":["cold","seventeen"],"answer":"B"}
"#;
    fs::write(&file, lines).unwrap();
    let object = eval(&["--choices", file.to_str().unwrap()]);
    assert_eq!(object["questions"], 3);
    assert!((number(&object, "accuracy") - 2.0 / 3.0).abs() < 1e-9, "{object}");
    assert!(number(&object, "accuracy_normalized") > 0.0, "{object}");

    let fails = |line: &str, parts: &[&str]| {
        fs::write(&file, format!("\n{line}\n")).unwrap();
        let mut command = with_default_model();
        let output = command.args(["eval", "--choices"]).arg(&file).output().unwrap();
        assert_fails(&output, 1, &[parts, &["questions.jsonl"]].concat());
    };
    fails("{", &["line 2", "expected question"]);
    fails(r#"{"question":"?","choices":["a"],"answer":1}"#, &["line 2", "not one of the choices"]);
    fails("", &["no questions"]);
}

#[test]
fn unusable_input_is_explained() {
    let home = temp();
    let short = with_default_model().args(["eval"]).write_stdin("Hello").output().unwrap();
    assert_fails(&short, 1, &["--window of 512"]);
    let mut command = nanoinfer(home.path());
    let none = command.args(["eval", "--text", "none.txt"]).output().unwrap();
    assert_fails(&none, 1, &["none.txt", "cannot open"]);
    let mut command = nanoinfer(home.path());
    command.args(["eval", "--window", "8", "--model"]).arg(tiny("llama-gqa")).write_stdin(TEXT);
    let output = command.output().unwrap();
    assert!(!output.status.success() && stderr(&output).contains("tokenizer"), "{output:?}");
}

#[test]
fn results_as_text() {
    let mut command = with_default_model();
    command.args(["eval", "--window", "32", "--tokens", "32", "--reference", "smollm2"]);
    let table = stdout(&command.write_stdin(TEXT).output().unwrap());
    for part in ["perplexity ", "second halves of 1 windows of 32", "KL divergence", "top-5 100"] {
        assert!(table.contains(part), "{part:?} not in {table}");
    }
}
