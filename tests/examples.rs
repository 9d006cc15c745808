//! The examples with the default model, run as a user would run them.

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn run(name: &str, input: &str) -> String {
    let mut example = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--example", name])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    example.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let Output { status, stdout, .. } = example.wait_with_output().unwrap();
    assert!(status.success(), "{name}: {status}");
    String::from_utf8(stdout).unwrap()
}

#[test]
fn hello_answers() {
    assert_eq!(run("hello", ""), "The capital of France is Paris.\n");
}

#[test]
fn chat_answers_every_line() {
    let answers = run("chat", "What is the capital of France?\nWhat is the capital of Germany?\n");
    assert!(answers.contains("Paris") && answers.contains("Berlin"), "{answers}");
}

#[test]
fn batched_prompts_are_answered() {
    let answers = run("batch", "");
    assert!(answers.contains("  The capital of France is Paris.\n"), "{answers}");
}

#[test]
fn logits_rank_tokens() {
    let ranking = run("logits", "");
    let best = ranking.lines().next().unwrap_or_default();
    assert!(best.ends_with("\" Paris\""), "{ranking}");
}

/// The README shows `hello`, which must be the program tested here.
#[test]
fn the_readme_shows_hello() {
    let readme = include_str!("../README.md");
    let (_, code) = include_str!("../examples/hello.rs").split_once("\n\n").unwrap();
    assert!(code.lines().count() <= 15);
    assert!(readme.contains(code), "README.md does not contain examples/hello.rs");
}
