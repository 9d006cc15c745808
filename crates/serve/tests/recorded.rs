//! Recorded answers in the formats of published templates, over HTTP: in every API, whole and streamed.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::fold::{
    CHAT, MESSAGES, OLLAMA, Part, RESPONSES, folded, in_form, streamed, tools_for, whole,
};
use common::{END, Running, Setup, chat, published, with};
use nanoinfer_text::Specials;
use serde::Deserialize;
use serde_json::{Value, json};

/// The answers of `crates/text/tests/data/answers.json`.
#[derive(Deserialize)]
struct Case {
    name: String,
    template: String,
    prompt: String,
    text: String,
    reasoning: String,
    content: String,
    calls: Vec<Call>,
}

#[derive(Deserialize)]
struct Call {
    name: String,
    arguments: String,
    complete: bool,
}

/// Reasoning, content and calls, with their arguments as JSON without spaces.
type Sums = (String, String, Vec<(String, String)>);

impl Case {
    fn sums(&self) -> Sums {
        let call = |call: &Call| (call.name.clone(), normal(&call.arguments));
        let calls = self.calls.iter().map(call).collect();
        (self.reasoning.clone(), self.content.clone(), calls)
    }

    /// Not every API can show the arguments of a call that was cut off.
    fn is_complete(&self) -> bool {
        self.calls.iter().all(|call| call.complete)
    }
}

fn normal(json: &str) -> String {
    serde_json::from_str::<Value>(json).map_or_else(|_| json.to_owned(), |v| v.to_string())
}

fn sums(parts: &[Part]) -> Sums {
    let text = |kind| parts.iter().filter(|p| p.0 == kind).map(|p| p.1.as_str()).collect();
    let calls = parts.iter().filter(|p| p.0 == "call");
    let calls = calls.map(|(_, arguments, name)| (name.clone(), normal(arguments)));
    (text("reasoning"), text("text"), calls.collect())
}

/// Those of the parsers' own tests.
fn tools() -> Value {
    let tool = |name: &str, properties: Value| {
        let parameters = json!({"type": "object", "properties": properties});
        json!({"type": "function", "function": {"name": name, "description": name, "parameters": parameters}})
    };
    json!([
        tool("get_weather", json!({"city": {"type": "string"}, "days": {"type": "integer"}})),
        tool("run", json!({"argv": {"type": "array"}, "x": {"enum": ["a", "b"]}})),
        tool("now", json!({})),
    ])
}

fn data(path: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../text/tests/data");
    std::fs::read_to_string(folder.join(path)).unwrap()
}

/// Sends the same request to every API, whole and streamed. The tokens of an answer are its bytes and markers, so a
/// stream has cuts everywhere.
fn check(server: &Running, case: &Case) {
    let label = format!("{}, {}: {:?}", case.template, case.name, case.text);
    for path in [CHAT, MESSAGES, RESPONSES, OLLAMA] {
        if !case.is_complete() && matches!(path, MESSAGES | OLLAMA) {
            continue;
        }
        let body = in_form(path, &chat("Now?", 400));
        let body = with(body, json!({"tools": tools_for(path, &tools())}));
        let answer = server.post(path, &with(body.clone(), json!({"stream": false})));
        assert_eq!(answer.status, 200, "{label}: {}", answer.text());
        let (parts, end) = whole(path, &answer.json());
        assert_eq!(sums(&parts), case.sums(), "{path}: {label}");
        let (stream, stream_end) = folded(path, &streamed(server, path, &body));
        assert_eq!(sums(&stream), case.sums(), "{path}, streamed: {label}");
        assert_eq!(stream_end, end, "{path}: {label}");
        if path == CHAT && case.is_complete() {
            assert_eq!(end, if case.calls.is_empty() { "stop" } else { "tool_calls" }, "{label}");
        }
    }
}

/// Returns how many answers and calls of each template were checked.
fn check_all(chosen: &[(&str, &[&str])]) -> BTreeMap<String, (usize, usize)> {
    let cases: Vec<Case> = serde_json::from_str(&data("answers.json")).unwrap();
    let mut checked = BTreeMap::new();
    for (template, markers) in chosen {
        let model = published(&data(&format!("tools/{template}.jinja")), markers);
        let server = Running::start(Setup { model: model.clone(), ctx: 8192, ..Setup::default() });
        let asked = with(chat("Now?", 1), json!({"tools": tools()}));
        let prompt = server.post("/apply-template", &asked).json()["prompt"].clone();
        let thinks = prompt.as_str().unwrap().ends_with("<think>\n");
        let own = cases.iter().filter(|case| case.template == *template);
        for case in own.filter(|case| case.prompt.ends_with("<think>\n") == thinks) {
            let mut tokens = model.tokenizer().unwrap().encode(&case.text, Specials::Parse);
            tokens.push(END);
            nanoinfer_serve::testing::script(&server.handle, Some(&tokens));
            check(&server, case);
            let count: &mut (usize, usize) = checked.entry((*template).to_owned()).or_default();
            (count.0, count.1) = (count.0 + 1, count.1 + case.calls.len());
        }
    }
    checked
}

#[test]
fn answers_of_gemma4_gpt_oss_and_qwen_are_the_same_in_every_api() {
    let checked = check_all(&[
        (
            "gemma4",
            &[
                "<|channel>",
                "<channel|>",
                "<|tool_call>",
                "<tool_call|>",
                "<|\"|>",
                "<|turn>",
                "<turn|>",
            ],
        ),
        (
            "gpt-oss",
            &[
                "<|start|>",
                "<|channel|>",
                "<|constrain|>",
                "<|message|>",
                "<|end|>",
                "<|call|>",
                "<|return|>",
            ],
        ),
        ("qwen3-coder", &["<tool_call>", "</tool_call>"]),
        ("qwen3.5", &["<think>", "</think>", "<tool_call>", "</tool_call>"]),
    ]);
    assert_eq!(
        checked
            .into_iter()
            .map(|(name, (answers, calls))| format!("{name} {answers} {calls}"))
            .collect::<Vec<_>>(),
        ["gemma4 8 6", "gpt-oss 7 5", "qwen3-coder 5 6", "qwen3.5 1 1"]
    );
}
