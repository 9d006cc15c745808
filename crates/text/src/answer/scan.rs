//! Checks one JSON value, character by character.

/// Maximum depth of a value: common parsers have limits of 128 or more.
const DEPTH: usize = 100;

/// The result of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scan {
    /// The value goes on.
    More,
    /// The value is complete.
    End,
    /// The value was complete before this character.
    EndBefore,
    /// The value is not JSON.
    Bad,
}

/// A checker for one value. Control characters are accepted in strings: models write line ends there, which
/// have to be escaped.
#[derive(Debug, Clone)]
pub(super) struct JsonScan {
    open: Vec<u8>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a value; the flag says that a bracket may close instead.
    Value(bool),
    /// Before a key; the flag says that a brace may close instead.
    Key(bool),
    Colon,
    /// After a value or member.
    After,
    Text {
        is_key: bool,
        escape: Escape,
    },
    Number(Number),
    /// The rest of `true`, `false` or `null`.
    Word(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    Begun,
    /// Digits that are missing, their value so far, and whether a low surrogate is required.
    Hex(u8, u32, bool),
    /// After a high surrogate: the backslash, then the `u` of the low one.
    LowBackslash,
    LowU,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    Sign,
    Power,
}

impl Default for JsonScan {
    fn default() -> Self {
        Self { open: Vec::new(), state: State::Value(false) }
    }
}

impl JsonScan {
    /// Whether the next character belongs to a string.
    pub(super) const fn in_string(&self) -> bool {
        matches!(self.state, State::Text { .. })
    }

    /// Adds a character.
    pub(super) fn push(&mut self, c: char) -> Scan {
        match self.state {
            State::Text { is_key, escape } => return self.text(c, is_key, escape),
            State::Number(number) => return self.number(c, number),
            State::Word(rest) => {
                let Some(rest) = rest.strip_prefix(c) else { return Scan::Bad };
                self.state = State::Word(rest);
                return if rest.is_empty() { self.end_value() } else { Scan::More };
            }
            _ if matches!(c, ' ' | '\t' | '\n' | '\r') => return Scan::More,
            State::Value(may_close) => return self.value(c, may_close),
            State::Key(may_close) => match c {
                '"' => self.state = State::Text { is_key: true, escape: Escape::None },
                '}' if may_close => return self.close(),
                _ => return Scan::Bad,
            },
            State::Colon if c == ':' => self.state = State::Value(false),
            State::Colon => return Scan::Bad,
            State::After => match (self.open.last(), c) {
                (Some(b'{'), ',') => self.state = State::Key(false),
                (Some(_), ',') => self.state = State::Value(false),
                (Some(b'{'), '}') | (Some(b'['), ']') => return self.close(),
                _ => return Scan::Bad,
            },
        }
        Scan::More
    }

    /// Adds a character and writes it if it belongs to the value. Control characters in strings are escaped.
    pub(super) fn copy(&mut self, c: char, write: &mut dyn FnMut(char)) -> Scan {
        let is_escaped = c < ' ' && self.in_string();
        let scan = self.push(c);
        match scan {
            Scan::More | Scan::End if is_escaped => escape(c, write),
            Scan::More | Scan::End => write(c),
            Scan::EndBefore | Scan::Bad => {}
        }
        scan
    }

    fn value(&mut self, c: char, may_close: bool) -> Scan {
        self.state = match c {
            '"' => State::Text { is_key: false, escape: Escape::None },
            '{' | '[' if self.open.len() == DEPTH => return Scan::Bad,
            '{' => {
                self.open.push(b'{');
                State::Key(true)
            }
            '[' => {
                self.open.push(b'[');
                State::Value(true)
            }
            ']' if may_close => return self.close(),
            '-' => State::Number(Number::Minus),
            '0' => State::Number(Number::Zero),
            '1'..='9' => State::Number(Number::Digits),
            't' => State::Word("rue"),
            'f' => State::Word("alse"),
            'n' => State::Word("ull"),
            _ => return Scan::Bad,
        };
        Scan::More
    }

    fn text(&mut self, c: char, is_key: bool, escape: Escape) -> Scan {
        let next = match (escape, c) {
            (Escape::None, '"') if is_key => {
                self.state = State::Colon;
                return Scan::More;
            }
            (Escape::None, '"') => return self.end_value(),
            (Escape::None, '\\') => Escape::Begun,
            (Escape::None, _) => Escape::None,
            (Escape::Begun, 'u') => Escape::Hex(4, 0, false),
            (Escape::Begun, '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => Escape::None,
            (Escape::LowBackslash, '\\') => Escape::LowU,
            (Escape::LowU, 'u') => Escape::Hex(4, 0, true),
            (Escape::Hex(left, value, low), _) => {
                let Some(digit) = c.to_digit(16) else { return Scan::Bad };
                let value = value << 4 | digit;
                match (left, value, low) {
                    (2.., ..) => Escape::Hex(left - 1, value, low),
                    (_, 0xdc00..=0xdfff, true) => Escape::None,
                    (_, 0xd800..=0xdbff, false) => Escape::LowBackslash,
                    (_, 0xdc00..=0xdfff, false) | (_, _, true) => return Scan::Bad,
                    _ => Escape::None,
                }
            }
            _ => return Scan::Bad,
        };
        self.state = State::Text { is_key, escape: next };
        Scan::More
    }

    fn number(&mut self, c: char, number: Number) -> Scan {
        use Number::{Digits, Exponent, Fraction, Minus, Point, Power, Sign, Zero};
        let next = match (number, c) {
            (Minus, '0') => Zero,
            (Minus, '1'..='9') | (Digits, '0'..='9') => Digits,
            (Zero | Digits, '.') => Point,
            (Point | Fraction, '0'..='9') => Fraction,
            (Zero | Digits | Fraction, 'e' | 'E') => Exponent,
            (Exponent, '+' | '-') => Sign,
            (Exponent | Sign | Power, '0'..='9') => Power,
            (Zero | Digits | Fraction | Power, _) => {
                return match self.end_value() {
                    Scan::End => Scan::EndBefore,
                    _ => self.push(c),
                };
            }
            _ => return Scan::Bad,
        };
        self.state = State::Number(next);
        Scan::More
    }

    fn close(&mut self) -> Scan {
        self.open.pop();
        self.end_value()
    }

    fn end_value(&mut self) -> Scan {
        self.state = State::After;
        if self.open.is_empty() { Scan::End } else { Scan::More }
    }
}

/// A text as JSON, if it is one value or one of Python's names.
pub(super) fn json_of(text: &str) -> Option<String> {
    let text = match text.trim() {
        "True" => "true",
        "False" => "false",
        "None" => "null",
        text => text,
    };
    let (mut scan, mut json) = (JsonScan::default(), String::new());
    let mut chars = text.chars().chain([' ']); // ends a number
    let scans = chars.by_ref().map(|c| scan.copy(c, &mut |c| json.push(c)));
    let is_whole = match { scans }.find(|scan| *scan != Scan::More)? {
        Scan::End => chars.eq([' ']),
        Scan::EndBefore => chars.next().is_none(),
        Scan::More | Scan::Bad => false,
    };
    is_whole.then_some(json)
}

/// Writes a character of a string as JSON.
pub(super) fn escape(c: char, write: &mut dyn FnMut(char)) {
    let short = match c {
        '"' | '\\' => Some(c),
        '\n' => Some('n'),
        '\r' => Some('r'),
        '\t' => Some('t'),
        _ => None,
    };
    match short {
        Some(short) => ['\\', short].into_iter().for_each(write),
        None if c < ' ' => format!("\\u{:04x}", u32::from(c)).chars().for_each(write),
        None => write(c),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    /// Whether the text is exactly one value.
    fn accepts(text: &str) -> bool {
        let mut scan = JsonScan::default();
        let mut ended = false;
        for c in text.chars() {
            if ended {
                if !matches!(c, ' ' | '\t' | '\n' | '\r') {
                    return false;
                }
                continue;
            }
            match scan.push(c) {
                Scan::More => {}
                Scan::End => ended = true,
                Scan::EndBefore if c.is_ascii_whitespace() => ended = true,
                Scan::EndBefore | Scan::Bad => return false,
            }
        }
        // A number ends with the text.
        ended || scan.push(' ') == Scan::EndBefore
    }

    #[test]
    fn surrogates_have_to_be_pairs() {
        for (text, is_valid) in [
            (r#""\ud83d\ude00""#, true),
            (r#""\ud83d""#, false),
            (r#""\ud83dx""#, false),
            (r#""\ude00""#, false),
            (r#""\ud83d\ud83d""#, false),
            (r#""\u00e9""#, true),
        ] {
            assert_eq!(accepts(text), is_valid, "{text}");
            assert_eq!(serde_json::from_str::<String>(text).is_ok(), is_valid, "{text}");
        }
    }

    #[test]
    fn whole_values_are_json() {
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        for (text, json) in [
            (" 12 ", Some("12")),
            ("True", Some("true")),
            ("{\"a\": \"x\ny\"}", Some(r#"{"a": "x\ny"}"#)),
            ("{\n}", Some("{\n}")),
            ("1 2", None),
            ("12.", None),
            ("{} x", None),
            ("", None),
            (&deep(DEPTH), Some(&*deep(DEPTH))),
            (&deep(DEPTH + 1), None),
        ] {
            assert_eq!(json_of(text).as_deref(), json, "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn accepts_what_a_json_parser_accepts(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "{", "}", "[", "]", ":", ",", "\"", "\\", "a", "u00e9", "true", "false", "null", "-",
                    "0", "1", "23", ".", "e", "E+", " ", "\n", "\"k\":", "\"v\"", "tru",
                ]),
                0..12,
            ),
        ) {
            let text = pieces.concat();
            if text.contains('\n') && text.contains('"') {
                return Ok(()); // raw line ends in strings are accepted here
            }
            prop_assert_eq!(accepts(&text), serde_json::from_str::<IgnoredAny>(&text).is_ok(), "{}", text);
        }
    }
}
