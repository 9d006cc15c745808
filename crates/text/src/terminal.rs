//! Model text on a terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// Makes text harmless for a terminal, and what was changed visible.
///
/// Escape sequences can move the cursor, rename the window or paste commands, and bidirectional
/// overrides can make text read other than it is. C0 controls but newline and tab, and DEL, become
/// their Unicode pictures (ESC is `␛`); C1 controls and bidirectional controls become `\u{9b}`.
/// For output that is piped, write the bytes as they are.
pub fn terminal_safe(text: &str) -> Cow<'_, str> {
    if !text.chars().any(harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            _ if !harmful(c) => out.push(c),
            '\u{7f}' => out.push('\u{2421}'),
            '\0'..='\u{1f}' => out.extend(char::from_u32(0x2400 + u32::from(c))),
            _ => write!(out, "\\u{{{:x}}}", u32::from(c)).expect("a String takes any text"),
        }
    }
    Cow::Owned(out)
}

fn harmful(c: char) -> bool {
    let bidi = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    bidi || c.is_control() && !matches!(c, '\n' | '\t')
}
