#![no_main]
//! A `tokenizer.model`.
use libfuzzer_sys::fuzz_target;
use nanoinfer_text::{Specials, Tokenizer, tokenizer_json_from_sentencepiece};

fuzz_target!(|bytes: &[u8]| {
    let Ok(json) = tokenizer_json_from_sentencepiece(bytes, true) else { return };
    if let Ok(tokenizer) = Tokenizer::from_json(&json) {
        let _ = tokenizer.encode("a text <s>", Specials::Parse);
    }
});
