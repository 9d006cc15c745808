//! `generate --json-schema` and `--grammar`, with the default model.

mod common;

use std::fs;
use std::path::Path;
use std::process::Output;

use common::{assert_fails, json, stderr, stdout, temp, with_default_model};
use serde_json::Value;

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "country": {"enum": ["France", "Italy", "Spain"]},
        "age": {"type": "integer", "minimum": 1, "maximum": 99}
    },
    "required": ["name", "country", "age"],
    "additionalProperties": false
}"#;

/// Runs `generate` with a file that the answer must follow.
fn follow(folder: &Path, option: &str, content: &str, args: &[&str]) -> Output {
    let file = folder.join("source.txt");
    fs::write(&file, content).unwrap();
    let mut command = with_default_model();
    command.arg("generate").arg(option).arg(file).args(["--prompt", "Invent a person."]).args(args);
    command.output().unwrap()
}

#[test]
fn an_answer_follows_a_schema() {
    let folder = temp();
    for args in [&["--chat"][..], &["--chat", "--temp", "1.2", "--seed", "5"], &[]] {
        let output = follow(folder.path(), "--json-schema", SCHEMA, args);
        let text = stdout(&output);
        let person: Value = serde_json::from_str(&text).expect(&text);
        let keys: Vec<&String> = person.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["name", "country", "age"], "{text}");
        assert!((1..=99).contains(&person["age"].as_u64().unwrap()), "{text}");
        assert_eq!(stderr(&output), "");
    }
}

#[test]
fn text_without_alternative_is_drafted() {
    let folder = temp();
    let run = |args: &[&str]| {
        let args = [&["--chat", "--json", "--temp", "0.8"], args].concat();
        json(&follow(folder.path(), "--json-schema", SCHEMA, &args))
    };
    let (drafted, plain) = (run(&["--draft-length", "4"]), run(&["--no-draft"]));
    assert_eq!(drafted["tokens"], plain["tokens"]);
    assert_eq!(drafted["finish_reason"], "stop");
    assert!(drafted["drafts"]["forced"]["accepted"].as_u64().unwrap() >= 5, "{drafted}");
    assert_eq!(plain["drafts"]["forced"]["drafted"], 0);
}

#[test]
fn an_answer_follows_a_grammar_in_either_format() {
    let folder = temp();
    for grammar in [
        "root ::= answer (\", \" answer)? \"!\" # in short\nanswer ::= \"yes\" | \"no\"",
        "start: answer (\", \" answer)? \"!\"\nanswer: \"yes\" | \"no\"",
    ] {
        let text = stdout(&follow(folder.path(), "--grammar", grammar, &["--chat", "--seed", "3"]));
        let answers = text.strip_suffix('!').expect(&text);
        assert!(answers.split(", ").all(|a| a == "yes" || a == "no"), "{text}");
    }
}

#[test]
fn an_answer_that_is_cut_off_says_so() {
    let folder = temp();
    let output = follow(folder.path(), "--json-schema", SCHEMA, &["--chat", "-n", "3"]);
    assert!(output.status.success() && stdout(&output).starts_with('{'));
    assert_eq!(
        stderr(&output),
        "nanoinfer: note: the answer is incomplete; use a larger --max-tokens\n"
    );
}

#[test]
fn errors_name_the_file_and_the_place() {
    let folder = temp();
    for (option, content, place, advice) in [
        (
            "--json-schema",
            r#"{"properties": {"a": {"not": {}}}}"#,
            "#/properties/a/not",
            "remove it",
        ),
        ("--json-schema", r#"{"pattern": "(?=x)"}"#, "#/pattern", "use another regular expression"),
        ("--json-schema", r#"{"format": "colour"}"#, "#/format", "change this part"),
        ("--json-schema", "{\"type\":\n", "line 2, column 0", "correct the schema"),
        ("--grammar", "root ::= \"a\"\n\nb ::= [", "line 3", "correct the grammar"),
        ("--grammar", "start: b\nb: c", "line 2, column 4", "change this part"),
    ] {
        let output = follow(folder.path(), option, content, &[]);
        assert_fails(&output, 1, &["source.txt: ", place, &format!("; {advice}")]);
    }
    let mut command = with_default_model();
    let output = command.args(["generate", "--prompt", "x", "--grammar", "missing.gbnf"]).output();
    assert_fails(&output.unwrap(), 1, &["missing.gbnf: cannot open"]);
    let output = follow(folder.path(), "--json-schema", "{}", &["--grammar", "x"]);
    assert_fails(&output, 2, &["--json-schema", "--grammar"]);
}
