//! Rules, and the regular expressions in them.

use std::fmt::Write;

/// A regular expression that matches exactly this text.
pub(crate) fn regex_of(text: &str) -> String {
    let mut regex = String::new();
    text.chars().for_each(|c| push_char(&mut regex, c));
    regex
}

/// Appends a character to a regular expression or a class in one.
pub(super) fn push_char(regex: &mut String, c: char) {
    if c.is_ascii_alphanumeric() || c == ' ' {
        regex.push(c);
    } else {
        let _ = write!(regex, "\\x{{{:x}}}", u32::from(c));
    }
}

pub(super) fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// A rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub name: String,
    pub expr: Expr,
}

/// What a rule matches.
#[derive(Clone, Debug)]
pub(super) enum Expr {
    /// A regular expression.
    Regex(String),
    /// A rule by its name, and the line that mentions it.
    Name(String, usize),
    Sequence(Vec<Expr>),
    Choice(Vec<Expr>),
    /// At least and at most that often; `None` is unlimited.
    Repeat(Box<Expr>, usize, Option<usize>),
}
