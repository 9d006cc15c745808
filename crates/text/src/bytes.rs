//! GPT-2's byte alphabet: every byte as one printable character.
//!
//! Printable Latin-1 bytes stand for themselves, the other 68 are numbered from U+0100 on, so that
//! vocabularies of bytes can be written as text ("Ġ" is a blank, "Ċ" a newline).

/// The character of every byte.
pub(crate) fn byte_chars() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|b| {
        let byte = b as u8;
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
    })
}

/// The bytes that `text` spells, or `None` if a character is not of the alphabet.
pub(crate) fn spelled(text: &str) -> Option<Vec<u8>> {
    let table = byte_chars();
    text.chars()
        .map(|c| match c {
            '!'..='~' | '¡'..='¬' | '®'..='ÿ' => u8::try_from(u32::from(c)).ok(),
            _ => table.iter().position(|t| *t == c).and_then(|b| u8::try_from(b).ok()),
        })
        .collect()
}

/// The byte of a SentencePiece byte token, `<0xNN>`.
pub(crate) fn byte_token(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok())?
}
