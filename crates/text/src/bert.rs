//! BERT's normalization: control characters are removed, blanks unified, Chinese characters set apart, accents
//! stripped, and letters lowercased.

use std::sync::LazyLock;

use regex_automata::meta::Regex;
use unicode_normalization::UnicodeNormalization;

/// Which steps to apply.
#[derive(Clone, Copy)]
pub(crate) struct Bert {
    pub(crate) clean_text: bool,
    pub(crate) handle_chinese_chars: bool,
    pub(crate) strip_accents: bool,
    pub(crate) lowercase: bool,
}

fn matches(regex: &Regex, c: char) -> bool {
    regex.is_match(&*c.encode_utf8(&mut [0; 4]))
}

fn is_control(c: char) -> bool {
    static OTHER: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"[\p{Cc}\p{Cf}\p{Co}]").expect("a valid pattern"));
    match c {
        '\t' | '\n' | '\r' => false,
        _ if c.is_ascii() => c.is_ascii_control(),
        _ => c == '\u{fffd}' || matches(&OTHER, c),
    }
}

fn is_accent(c: char) -> bool {
    static MARK: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\p{Mn}").expect("a valid pattern"));
    !c.is_ascii() && matches(&MARK, c)
}

/// CJK ideographs.
fn is_chinese(c: char) -> bool {
    matches!(
        u32::from(c),
        0x4e00..=0x9fff
            | 0x3400..=0x4dbf
            | 0x20000..=0x2a6df
            | 0x2a700..=0x2b73f
            | 0x2b740..=0x2b81f
            | 0x2b920..=0x2ceaf
            | 0xf900..=0xfaff
            | 0x2f800..=0x2fa1f
    )
}

impl Bert {
    pub(crate) fn apply(self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + text.len() / 8);
        for c in text.chars().filter(|c| !(self.clean_text && is_control(*c))) {
            let c = if self.clean_text && c.is_whitespace() { ' ' } else { c };
            if self.handle_chinese_chars && is_chinese(c) {
                out.extend([' ', c, ' ']);
            } else {
                out.push(c);
            }
        }
        if self.strip_accents {
            out = out.nfd().filter(|c| !is_accent(*c)).collect();
        }
        if self.lowercase {
            out = out.chars().flat_map(char::to_lowercase).collect();
        }
        out
    }
}
