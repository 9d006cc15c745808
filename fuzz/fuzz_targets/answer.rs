#![no_main]
use libfuzzer_sys::fuzz_target;
use nanoinfer_text::{Answer, AnswerFormat, AnswerParser, ChatTemplate, Tools};
use serde::de::IgnoredAny;
use std::sync::LazyLock;

/// Templates from which each format is recognized.
const TEMPLATES: [&str; 10] = [
    "<think></think><tool_call>{\"name\"",
    "<|start_header_id|>\"parameters\": ",
    "[TOOL_CALLS]",
    "[TOOL_CALLS][ARGS][THINK][/THINK]",
    "<|tool_call|><|start_of_role|><think></think><response>",
    "<|tool|>",
    "<|tool_call>call:<|channel>thought",
    "<start_function_call>",
    "<|channel|><|call|>",
    "</think><tool_call><function=",
];

static FORMATS: LazyLock<Vec<AnswerFormat>> = LazyLock::new(|| {
    let format = |source: &&str| {
        let template = ChatTemplate::new(source, "", "").expect("the template is valid");
        template.answer_format()
    };
    TEMPLATES.iter().map(format).collect()
});

static TOOLS: LazyLock<Tools> = LazyLock::new(|| {
    let tools = r#"[{"type": "function", "function": {"name": "f", "parameters":
        {"properties": {"s": {"type": "string"}}}}}]"#;
    Tools::from_json(tools).expect("the tools are valid")
});

/// The answer, in pieces of `size` characters.
fn parse(format: &AnswerFormat, text: &str, size: usize) -> (Answer, bool) {
    let mut parser = AnswerParser::new(format, "", Some(TOOLS.clone()));
    let mut answer = Answer::default();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.char_indices().nth(size).map_or(rest.len(), |(at, _)| at);
        parser.push(None, &rest[..end], &mut |event| answer.add(event));
        rest = &rest[end..];
    }
    let was_cut = parser.finish(&mut |event| answer.add(event));
    (answer, was_cut)
}

fuzz_target!(|bytes: &[u8]| {
    let [first, size, text @ ..] = bytes else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let format = &FORMATS[usize::from(*first) % FORMATS.len()];
    let whole = parse(format, text, usize::MAX);
    assert_eq!(whole, parse(format, text, usize::from(*size).max(1)));
    for call in whole.0.calls.iter().filter(|call| call.complete) {
        assert!(call.arguments.starts_with('{'));
        serde_json::from_str::<IgnoredAny>(&call.arguments).expect("the arguments are JSON");
    }
});
