#![no_main]
//! `tokenizer.json` and, after a zero byte, the text to encode.
use libfuzzer_sys::fuzz_target;
use nanoinfer_text::{Specials, Tokenizer, build_vocab};

fuzz_target!(|bytes: &[u8]| {
    let at = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let (json, text) = bytes.split_at(at);
    let text = String::from_utf8_lossy(text);
    let _ = build_vocab(json, 300);
    if let Ok(tokenizer) = Tokenizer::from_json(json) {
        for specials in [Specials::Plain, Specials::Parse] {
            let _ = tokenizer.encode(&text, specials);
        }
        let hash = *blake3::hash(json).as_bytes();
        let native = tokenizer.to_native(&hash);
        assert!(Tokenizer::load(json, &hash, Some(&native)).is_ok());
    }
});
