#![no_main]
use libfuzzer_sys::fuzz_target;
use nanoinfer_text::{ChatTemplate, Message};

fuzz_target!(|bytes: &[u8]| {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    if let Ok(template) = ChatTemplate::new(source, "<s>", "</s>") {
        let messages = [Message::new("system", "Be brief."), Message::new("user", "Hi {{ x }}")];
        let _ = template.render(&messages, true);
    }
});
