//! GPT-2's byte alphabet, which maps every byte to a printable character.
//!
//! Printable Latin-1 bytes map to themselves and the other 68 to U+0100 and up, so that byte
//! vocabularies can be stored as text ("Ġ" is a space, "Ċ" a newline).

/// [256] the character for each byte.
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

/// The bytes that `text` encodes, or `None` if a character is not in the alphabet.
pub(crate) fn decode_bytes(text: &str) -> Option<Vec<u8>> {
    let table = byte_chars();
    text.chars()
        .map(|c| match c {
            '!'..='~' | '¡'..='¬' | '®'..='ÿ' => u8::try_from(u32::from(c)).ok(),
            _ => table.iter().position(|t| *t == c).and_then(|b| u8::try_from(b).ok()),
        })
        .collect()
}

/// The value of a SentencePiece byte token, `<0xNN>`.
pub(crate) fn byte_token(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok())?
}
