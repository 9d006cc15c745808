#![no_main]
use libfuzzer_sys::fuzz_target;
use nanoinfer_text::{ChatInput, ChatTemplate, Message};

const REQUEST: &str = r#"{
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "a\tb 1"}]},
        {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1.5]}}}]}
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": "é"}}]
}"#;

fuzz_target!(|bytes: &[u8]| {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    if let Ok(template) = ChatTemplate::new(source, "<s>", "</s>") {
        let messages = [Message::new("system", "Be brief."), Message::new("user", "Hi {{ x }}")];
        let _ = template.render(&messages, true);
        let input = ChatInput::from_json(REQUEST).expect("the request is valid");
        let _ = template.render_input(&input);
    }
});
