//! Splits a chat template into tags and tokens, following minijinja's lexical rules.

use crate::Error;

/// A `{{ … }}` or `{% … %}` tag. Comments, raw blocks and plain text are not tags.
pub(crate) struct Tag<'s> {
    /// Whether this is a `{% … %}` tag.
    pub(crate) is_block: bool,
    pub(crate) tokens: Vec<Token<'s>>,
}

pub(crate) struct Token<'s> {
    pub(crate) kind: Kind,
    pub(crate) text: &'s str,
    /// Byte offset in the source.
    pub(crate) start: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An identifier or keyword.
    Name,
    /// A number or string.
    Literal,
    /// An opening bracket of any kind. The brackets within a tag always match.
    Open,
    Close,
    /// Everything else.
    Operator,
}

impl Token<'_> {
    pub(crate) const fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// Whether this is the keyword `name`.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.kind == Kind::Name && self.text == name
    }
}

/// The tags of a template, in order.
///
/// # Errors
/// [`Error::Template`] for an unterminated tag, string, comment or raw block, for brackets that do not
/// match, and for a misplaced `not`.
pub(crate) fn tags(source: &str) -> Result<Vec<Tag<'_>>, Error> {
    let mut scanner = Scanner { source, at: 0 };
    let mut tags = Vec::new();
    while let Some(marker) = scanner.next_marker() {
        match marker {
            b'#' => scanner.skip_past("#}", "comment")?,
            b'%' if scanner.skip_word("raw", false) => scanner.skip_raw()?,
            _ => tags.push(scanner.tag(marker == b'%')?),
        }
    }
    Ok(tags)
}

struct Scanner<'s> {
    source: &'s str,
    at: usize,
}

impl<'s> Scanner<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    /// Moves past the next `{{`, `{%` or `{#` and its whitespace control; returns the marker's second
    /// byte.
    fn next_marker(&mut self) -> Option<u8> {
        let bytes = self.source.as_bytes();
        let is_marker = |pair: &[u8]| pair[0] == b'{' && matches!(pair[1], b'{' | b'%' | b'#');
        let start = self.at + bytes[self.at..].windows(2).position(is_marker)?;
        let control = usize::from(matches!(bytes.get(start + 2), Some(b'-' | b'+')));
        self.at = start + 2 + control;
        Some(bytes[start + 1])
    }

    fn skip_past(&mut self, end: &str, construct: &str) -> Result<(), Error> {
        let Some(len) = self.rest().find(end) else { return self.unterminated(construct) };
        self.at += len + end.len();
        Ok(())
    }

    /// Moves past `raw %}` or `endraw %}`, if that comes next.
    fn skip_word(&mut self, word: &str, control_first: bool) -> bool {
        let blank = |c: char| c.is_ascii_whitespace();
        let rest = self.rest();
        let inner = if control_first { strip_control(rest) } else { rest };
        let Some(after) = inner.trim_start_matches(blank).strip_prefix(word) else { return false };
        let Some(after) = strip_control(after.trim_start_matches(blank)).strip_prefix("%}") else {
            return false;
        };
        self.at = self.source.len() - after.len();
        true
    }

    fn skip_raw(&mut self) -> Result<(), Error> {
        loop {
            self.skip_past("{%", "raw block")?;
            if self.skip_word("endraw", true) {
                return Ok(());
            }
        }
    }

    fn tag(&mut self, is_block: bool) -> Result<Tag<'s>, Error> {
        let end = if is_block { "%}" } else { "}}" };
        let mut tokens = Vec::new();
        let mut closers = Vec::new();
        loop {
            self.at += self.rest().len() - self.rest().trim_ascii_start().len();
            if closers.is_empty()
                && let Some(after) = strip_control(self.rest()).strip_prefix(end)
            {
                self.at = self.source.len() - after.len();
                return Ok(Tag { is_block, tokens });
            }
            let token = self.token()?;
            match token.kind {
                Kind::Open => closers.push(closer(token.text)),
                Kind::Close if closers.pop() != Some(token.text) => return self.unexpected(&token),
                Kind::Name if token.text == "not" && tokens.last().is_some_and(takes_value) => {
                    return self.unexpected(&token);
                }
                _ => {}
            }
            tokens.push(token);
        }
    }

    fn token(&mut self) -> Result<Token<'s>, Error> {
        let rest = self.rest();
        let Some(&first) = rest.as_bytes().first() else { return self.unterminated("tag") };
        let (kind, len) = match first {
            b'\'' | b'"' => (Kind::Literal, self.string_len()?),
            b'0'..=b'9' => (Kind::Literal, number_len(rest, self.source[..self.at].ends_with('.'))),
            b'(' | b'[' | b'{' => (Kind::Open, 1),
            b')' | b']' | b'}' => (Kind::Close, 1),
            b'_' | b'a'..=b'z' | b'A'..=b'Z' | 0x80.. => (Kind::Name, name_len(rest)),
            _ if ["//", "**", "==", "!=", ">=", "<="].iter().any(|op| rest.starts_with(op)) => {
                (Kind::Operator, 2)
            }
            _ => (Kind::Operator, 1),
        };
        let start = self.at;
        self.at += len;
        Ok(Token { kind, text: &rest[..len], start })
    }

    fn string_len(&self) -> Result<usize, Error> {
        let bytes = self.rest().as_bytes();
        let mut escaped = false;
        for (i, &byte) in bytes.iter().enumerate().skip(1) {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                byte if byte == bytes[0] => return Ok(i + 1),
                _ => {}
            }
        }
        self.unterminated("string")
    }

    fn unterminated<T>(&self, construct: &str) -> Result<T, Error> {
        self.syntax(&format!("unexpected end of {construct}"))
    }

    fn unexpected<T>(&self, token: &Token<'_>) -> Result<T, Error> {
        self.syntax(&format!("unexpected `{}`", token.text))
    }

    /// An error worded like minijinja's.
    fn syntax<T>(&self, what: &str) -> Result<T, Error> {
        let line = 1 + self.source[..self.at].matches('\n').count();
        Err(Error::Template(format!("syntax error: {what} (in chat:{line})")))
    }
}

/// Whether `not` must not follow `token`: minijinja would read it as a variable; Jinja rejects it.
fn takes_value(token: &Token<'_>) -> bool {
    let is_separator = matches!(token.text, "," | ":" | "=" | "|");
    token.is("in") || token.kind == Kind::Operator && !is_separator
}

fn strip_control(text: &str) -> &str {
    text.strip_prefix(['-', '+']).unwrap_or(text)
}

fn closer(open: &str) -> &'static str {
    match open {
        "(" => ")",
        "[" => "]",
        _ => "}",
    }
}

/// Length of the number that starts `text`. A name may follow directly, as in `1if`. The sign of an
/// exponent is part of the number. An index, as in `a.0`, has no fraction.
fn number_len(text: &str, is_index: bool) -> usize {
    let bytes = text.as_bytes();
    let radix = bytes.get(1).filter(|_| bytes[0] == b'0').map(u8::to_ascii_lowercase);
    if let Some(radix @ (b'x' | b'o' | b'b')) = radix {
        let is_digit = |b: &&u8| match b {
            b'0'..=b'9' | b'_' => true,
            _ => radix == b'x' && b.is_ascii_hexdigit(),
        };
        return 2 + bytes[2..].iter().take_while(is_digit).count();
    }
    let starts_exponent =
        |rest: &[u8]| matches!(rest, [b'e' | b'E', b'0'..=b'9' | b'+' | b'-', ..]);
    let starts_name = |b: &u8| *b == b'_' || *b >= 0x80 || b.is_ascii_alphabetic();
    let (mut has_fraction, mut has_exponent) = (is_index, false);
    let is_end = |&i: &usize| match bytes[i] {
        b'0'..=b'9' | b'_' => false,
        b'.' => {
            let rest = &bytes[i + 1..];
            let continues = starts_exponent(rest) || !rest.first().is_some_and(starts_name);
            std::mem::replace(&mut has_fraction, true) || has_exponent || !continues
        }
        b'e' | b'E' => std::mem::replace(&mut has_exponent, true),
        b'+' | b'-' => {
            let before = bytes[..i].iter().rev().find(|b| **b != b'_');
            !matches!(before, Some(b'e' | b'E'))
        }
        _ => true,
    };
    (1..bytes.len()).find(is_end).unwrap_or(bytes.len())
}

/// Length of the name that starts `text`. Non-ASCII bytes count as letters; minijinja does the same or
/// rejects them.
fn name_len(text: &str) -> usize {
    let continues = |b: &u8| *b == b'_' || *b >= 0x80 || b.is_ascii_alphanumeric();
    text.as_bytes().iter().take_while(|b| continues(b)).count()
}

#[cfg(test)]
mod tests {
    use minijinja::machinery::{Token as Reference, tokenize};
    use minijinja::syntax::SyntaxConfig;
    use proptest::prelude::*;

    use super::*;

    /// Byte ranges of minijinja's tokens within tags; `None` if it rejects one.
    fn reference(source: &str) -> Option<Vec<(usize, usize)>> {
        let mut ranges = Vec::new();
        for token in tokenize(source, false, SyntaxConfig::default()) {
            let (token, span) = token.ok()?;
            let is_tag_or_text = matches!(
                token,
                Reference::TemplateData(_)
                    | Reference::VariableStart
                    | Reference::VariableEnd
                    | Reference::BlockStart
                    | Reference::BlockEnd
            );
            if !is_tag_or_text {
                ranges.push((span.start_offset as usize, span.end_offset as usize));
            }
        }
        Some(ranges)
    }

    fn assert_same_tokens(source: &str) {
        let (Ok(tags), Some(expected)) = (tags(source), reference(source)) else { return };
        let tokens = tags.iter().flat_map(|tag| &tag.tokens);
        let found: Vec<_> = tokens.map(|token| (token.start, token.end())).collect();
        assert_eq!(found, expected, "{source:?}");
    }

    #[test]
    fn numbers_end_where_minijinja_ends_them() {
        for expression in ["0. or i", "1. if a", "1.e+2", "1e_+2", "1._2", "a.0.b", "1_.5", "0x1.2"]
        {
            let source = format!("{{{{ {expression} * j + k }}}}");
            assert!(tags(&source).is_ok(), "{source}");
            assert_same_tokens(&source);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn tokens_are_those_of_minijinja(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "0", "1", "0x", "0b", "0o", "f", ".", "_", "e", "E", "+", "-", "*", "/", "|", "=",
                    "!", "<", "~", ",", ":", " ", "or", "if", "is", "in", "not", "a", "'", "\"", "\\",
                    "(", ")", "[", "]", "{", "}", "%", "%}", "{{", "}}", "{%", "{#", "#}", "{% raw %}",
                    "{% endraw %}", "\n",
                ]),
                1..14,
            ),
        ) {
            assert_same_tokens(&format!("{{{{ {} }}}}", pieces.concat()));
        }
    }
}
