//! Makes model output safe to show on a terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// Replaces characters that are harmful on a terminal with visible ones.
///
/// Escape sequences can move the cursor, rename the window or paste commands, and bidirectional
/// overrides can disguise text. C0 controls (except newline and tab) and DEL become their Unicode
/// control pictures (ESC is `␛`); C1 and bidirectional controls are escaped, as in `\u{9b}`. Piped
/// output should be written unchanged.
pub fn terminal_safe(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            _ if !is_harmful(c) => out.push(c),
            '\u{7f}' => out.push('\u{2421}'),
            '\0'..='\u{1f}' => out.extend(char::from_u32(0x2400 + u32::from(c))),
            _ => write!(out, "\\u{{{:x}}}", u32::from(c)).expect("writing to a String cannot fail"),
        }
    }
    Cow::Owned(out)
}

fn is_harmful(c: char) -> bool {
    let is_bidi = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    is_bidi || c.is_control() && !matches!(c, '\n' | '\t')
}
