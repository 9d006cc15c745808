//! Answers taken apart into reasoning, content and calls.

use std::path::Path;

use nanoinfer_text::{
    Answer, AnswerEvent, AnswerFormat, AnswerParser, AnsweredCall, CallFormat, ChatTemplate, Tools,
    Vocab,
};
use proptest::prelude::*;
use serde::Deserialize;

const TOOLS: &str = r#"[
    {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}},
    {"type": "function", "function": {"name": "run", "parameters": {"type": "object",
        "properties": {"argv": {"type": "array"}, "x": {"enum": ["a", "b"]}}}}},
    {"type": "function", "function": {"name": "now"}}
]"#;

/// What surrounds reasoning and calls in any format.
const MARKERS: [&str; 29] = [
    "<think>",
    "</think>",
    "[THINK]",
    "[/THINK]",
    "<|channel>",
    "<channel|>",
    "<tool_call>",
    "</tool_call>",
    "<|python_tag|>",
    "[TOOL_CALLS]",
    "[CALL_ID]",
    "[ARGS]",
    "<|tool_call|>",
    "<|/tool_call|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|\"|>",
    "<start_function_call>",
    "<end_function_call>",
    "<escape>",
    "<|start|>",
    "<|channel|>",
    "<|constrain|>",
    "<|message|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
    "<response>",
    "</response>",
];

#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    template: String,
    prompt: String,
    tools: bool,
    text: String,
    reasoning: String,
    content: String,
    calls: Vec<Call>,
    cut: bool,
}

#[derive(Debug, Deserialize)]
struct Call {
    name: String,
    arguments: String,
    id: Option<String>,
    complete: bool,
}

impl Case {
    fn parser(&self, format: &AnswerFormat) -> AnswerParser {
        let tools = self.tools.then(|| Tools::from_json(TOOLS).unwrap());
        AnswerParser::new(format, &self.prompt, tools)
    }

    fn expected(&self) -> (Answer, bool) {
        let calls = self.calls.iter().map(|c| AnsweredCall {
            name: c.name.clone(),
            id: c.id.clone(),
            arguments: c.arguments.clone(),
            complete: c.complete,
        });
        let answer = Answer {
            reasoning: self.reasoning.clone(),
            content: self.content.clone(),
            calls: calls.collect(),
        };
        (answer, self.cut)
    }

    fn label(&self) -> String {
        format!("{}, {}: {:?}", self.template, self.name, self.text)
    }
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/answers.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn format(template: &str) -> AnswerFormat {
    let path = format!("{}/tests/data/tools/{template}.jinja", env!("CARGO_MANIFEST_DIR"));
    let source = std::fs::read_to_string(path).unwrap();
    ChatTemplate::new(&source, "<s>", "</s>").unwrap().answer_format()
}

/// The sum of the events, whether the answer was cut off in a call, and that the events make sense.
fn parse<'a>(
    mut parser: AnswerParser,
    tokens: impl IntoIterator<Item = (Option<u32>, &'a str)>,
) -> (Answer, bool) {
    let mut answer = Answer::default();
    let mut open = None;
    let mut begun = 0;
    let mut add = |event: AnswerEvent<'_>| {
        match event {
            AnswerEvent::ToolCall { index, .. } => {
                assert_eq!((index, open), (begun, None));
                (open, begun) = (Some(index), begun + 1);
            }
            AnswerEvent::Arguments { index, text } => {
                assert!(open == Some(index) && !text.is_empty());
            }
            AnswerEvent::CallEnd { index, .. } => assert_eq!(open.take(), Some(index)),
            AnswerEvent::Reasoning(text) | AnswerEvent::Content(text) => {
                assert!(open.is_none() && !text.is_empty());
            }
            _ => assert!(open.is_none()),
        }
        answer.add(event);
    };
    for (token, text) in tokens {
        parser.push(token, text, &mut add);
    }
    let was_cut = parser.finish(&mut add);
    assert_eq!(open, None);
    for call in answer.calls.iter().filter(|call| call.complete) {
        let arguments: serde_json::Value = serde_json::from_str(&call.arguments).unwrap();
        assert!(arguments.is_object(), "{arguments}");
    }
    (answer, was_cut)
}

/// A vocabulary of these tokens, see `vocab.rs`.
fn vocab(tokens: &[&str], is_special: bool) -> Vec<u8> {
    let words = |numbers: &[usize]| -> Vec<u8> {
        numbers.iter().flat_map(|n| u32::try_from(*n).unwrap().to_le_bytes()).collect()
    };
    let text = tokens.concat();
    let ends = tokens.iter().scan(0, |end, token| {
        *end += token.len();
        Some(*end)
    });
    let offsets: Vec<usize> = [0].into_iter().chain(ends).collect();
    let header = [b"NVOC".to_vec(), words(&[1, tokens.len(), 0, text.len(), 0, 0, 0])].concat();
    let flags = vec![u8::from(is_special); tokens.len()];
    [header, words(&offsets), flags, text.into_bytes()].concat()
}

/// Splits a text into the tokens of markers and other text.
fn tokens(text: &str, is_special: bool) -> Vec<(Option<u32>, &str)> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let id = MARKERS.iter().position(|m| text[at..].starts_with(m));
        let len = id
            .map_or_else(|| text[at..].chars().next().unwrap().len_utf8(), |id| MARKERS[id].len());
        let shown = if id.is_some() && is_special { "" } else { &text[at..at + len] };
        tokens.push((id.map(|id| u32::try_from(id).unwrap()), shown));
        at += len;
    }
    tokens
}

#[test]
fn answers_are_taken_apart_wherever_they_are_cut() {
    let cases = cases();
    assert!(cases.len() > 60);
    for case in cases {
        let (format, expected) = (format(&case.template), case.expected());
        let parse =
            |pieces: &[&str]| parse(case.parser(&format), pieces.iter().map(|p| (None, *p)));
        assert_eq!(parse(&[&case.text]), expected, "{}", case.label());
        for at in (0..=case.text.len()).filter(|at| case.text.is_char_boundary(*at)) {
            let (a, b) = case.text.split_at(at);
            assert_eq!(parse(&[a, b]), expected, "{} at {at}", case.label());
        }
        let chars: Vec<&str> = case.text.split("").filter(|c| !c.is_empty()).collect();
        assert_eq!(parse(&chars), expected, "{}", case.label());
    }
}

#[test]
fn tokens_of_markers_count_and_the_same_text_does_not() {
    let (text, control) = (vocab(&MARKERS, false), vocab(&MARKERS, true));
    // Part of a marker is none of its token.
    for case in cases().into_iter().filter(|case| !case.text.ends_with("</tool")) {
        let (expected, was_cut) = case.expected();
        let visible = format(&case.template).with_vocab(&Vocab::parse(&text).unwrap());
        let found = parse(case.parser(&visible), tokens(&case.text, false));
        assert_eq!(found, (expected.clone(), was_cut), "{}", case.label());

        // Control tokens have no text, so none is left of those out of place.
        let hidden = format(&case.template).with_vocab(&Vocab::parse(&control).unwrap());
        let found = parse(case.parser(&hidden), tokens(&case.text, true));
        let shown = |text: &str| MARKERS.iter().fold(text.to_owned(), |t, m| t.replace(m, ""));
        let expected = Answer { content: shown(&expected.content), ..expected };
        if !case.content.contains("</tool") {
            assert_eq!(found, (expected, was_cut), "{}", case.label());
        }

        let needs_no_marker = matches!(hidden.calls(), Some(CallFormat::Llama | CallFormat::Phi));
        let typed = case.text.split("").map(|c| (None, c));
        let (typed, _) = parse(case.parser(&hidden), typed);
        if case.prompt.is_empty() && !needs_no_marker {
            assert_eq!((&*typed.content, typed.calls.len()), (&*case.text, 0), "{}", case.label());
        }
    }
}

#[test]
fn a_marker_held_back_by_a_stop_string_still_counts() {
    let bytes = vocab(&MARKERS, false);
    let format = format("qwen3").with_vocab(&Vocab::parse(&bytes).unwrap());
    let call = u32::try_from(MARKERS.iter().position(|m| *m == "<tool_call>").unwrap()).unwrap();
    let tools = Tools::from_json(TOOLS).unwrap();
    let parser = AnswerParser::new(&format, "", Some(tools));
    let tokens =
        [(None, "<tool_call>x"), (Some(call), "<tool_"), (None, "call>{\"name\": \"now\"}")];
    let (answer, _) = parse(parser, tokens);
    assert_eq!((&*answer.content, &*answer.calls[0].name), ("<tool_call>x", "now"));
}

#[test]
fn formats_are_recognized_from_templates() {
    use CallFormat::{Elements, Gemma, Granite, Harmony, Hermes, Llama, Mistral, MistralList, Phi};
    for (template, calls, has_reasoning) in [
        ("qwen2.5", Some(Hermes), false),
        ("qwen3", Some(Hermes), true),
        ("granite4", Some(Hermes), false),
        ("hermes3", Some(Hermes), false),
        ("smollm3", None, true),
        ("llama3.1", Some(Llama), false),
        ("llama3.2", Some(Llama), false),
        ("mistral-nemo", Some(MistralList), false),
        ("mistral-small3.2", Some(Mistral), false),
        ("ministral3-reasoning", Some(Mistral), true),
        ("granite3.3", Some(Granite), true),
        ("phi4-mini", Some(Phi), false),
        ("gemma4", Some(Gemma), true),
        ("gpt-oss", Some(Harmony), true),
        ("qwen3-coder", Some(Elements), false),
        ("qwen3.5", Some(Elements), true),
    ] {
        let format = format(template);
        assert_eq!((format.calls(), format.has_reasoning()), (calls, has_reasoning), "{template}");
    }
    let plain = ChatTemplate::new("{{ messages[0].content }}", "", "").unwrap().answer_format();
    assert_eq!((plain.calls(), plain.has_reasoning()), (None, false));
}

#[test]
fn a_call_in_its_shape_is_that_call() {
    let tools = Tools::from_json(TOOLS).unwrap();
    for template in [
        "qwen2.5",
        "llama3.1",
        "mistral-nemo",
        "mistral-small3.2",
        "granite3.3",
        "phi4-mini",
        "gpt-oss",
    ] {
        let format = format(template);
        let shapes = format.call_shapes(&tools).unwrap();
        assert_eq!(
            shapes.iter().map(|s| &*s.name).collect::<Vec<_>>(),
            ["get_weather", "run", "now"]
        );
        let pieces = |pieces: &[nanoinfer_text::Piece]| -> String {
            pieces.iter().map(|piece| piece.text.as_str()).collect()
        };
        let body = |name: &str| match serde_json::from_str::<serde_json::Value>(
            &shapes.iter().find(|s| s.name == name).unwrap().schema,
        ) {
            Ok(schema) if schema["properties"]["name"]["const"] == name => {
                let arguments = schema["required"][1].as_str().unwrap().to_owned();
                format!(r#"{{"name": "{name}", "{arguments}": {{"x": 1}}}}"#)
            }
            _ => r#"{"x": 1}"#.to_owned(),
        };
        let mut text = pieces(&shapes[0].begin) + &body("get_weather");
        let mut expected = vec!["get_weather"];
        if !shapes[1].next.is_empty() {
            text = text + &pieces(&shapes[1].next) + &body("run");
            expected.push("run");
        }
        text += &pieces(&shapes[0].end);
        let (answer, was_cut) =
            parse(AnswerParser::new(&format, "", Some(tools.clone())), [(None, &*text)]);
        let found: Vec<&str> = answer.calls.iter().map(|c| &*c.name).collect();
        assert_eq!((found, was_cut, &*answer.content), (expected, false, ""), "{template}: {text}");
        assert!(answer.calls.iter().all(|c| c.complete && c.arguments == r#"{"x": 1}"#));
    }
    let bytes = vocab(&MARKERS, true);
    let format = format("mistral-small3.2").with_vocab(&Vocab::parse(&bytes).unwrap());
    let begin = &format.call_shapes(&tools).unwrap()[2].begin;
    let texts: Vec<_> = begin.iter().map(|p| (&*p.text, p.token.is_some())).collect();
    assert_eq!(texts, [("[TOOL_CALLS]", true), ("now", false), ("[ARGS]", true)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Any sequence of fragments gives the same whatever the cuts, and loses no letter.
    #[test]
    fn cuts_do_not_matter(
        template in prop::sample::select(vec![
            "qwen3", "llama3.1", "mistral-small3.2", "granite3.3", "phi4-mini", "gemma4", "gpt-oss",
            "qwen3.5",
        ]),
        fragments in prop::collection::vec(
            (prop::sample::select(MARKERS.iter().copied().chain([
                "{\"name\": \"now\", ", "\"arguments\": ", "\"parameters\": ", "{}", "{\"a\": ", "1", "\"x",
                "\"", "}", "}", "]", "[", ", ", ": ", "\n", "\\", "call:now{", "k:", "now", "analysis",
                "final", "commentary to=functions.now", "assistant", "<function=now>", "<parameter=p>",
                "</parameter>", "</function>", "text é", " ", "thought\n", "functools", "\n\n",
            ]).collect::<Vec<_>>()), any::<bool>()),
            0..16,
        ),
    ) {
        let format = format(template);
        let parser = || AnswerParser::new(&format, "", Some(Tools::from_json(TOOLS).unwrap()));
        let text: String = fragments.iter().map(|(fragment, _)| *fragment).collect();
        let whole = parse(parser(), [(None, &*text)]);
        let mut pieces = vec![String::new()];
        for (fragment, cut) in &fragments {
            for c in fragment.chars() {
                pieces.last_mut().unwrap().push(c);
                if *cut {
                    pieces.push(String::new());
                }
            }
        }
        let cut = parse(parser(), pieces.iter().map(|p| (None, p.as_str())));
        prop_assert_eq!(&whole, &cut, "{}", text);
    }
}
