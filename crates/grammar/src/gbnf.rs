//! llama.cpp's grammar format (GBNF), translated to Lark.
//!
//! The parser behind Lark reads lexemes: a regular expression each, matched greedily. GBNF has no lexemes, so
//! they are chosen here: rules that do not recur become regular expressions, and in the others, every run of
//! items without recursion becomes one. A text in the translated grammar is always in the original one. The
//! reverse holds unless a lexeme can be continued by what follows it, which the parser then reads as a part
//! of the lexeme.

mod emit;
mod parse;
mod rule;

use crate::Error;
use rule::is_name;
pub(crate) use rule::regex_of;

/// Whether a text is GBNF rather than Lark.
pub(crate) fn is_gbnf(text: &str) -> bool {
    text.lines().any(|line| {
        let name = line.trim_start();
        let end = name.find(|c: char| !is_name(c)).unwrap_or(name.len());
        end > 0 && name[end..].trim_start().starts_with("::=")
    })
}

/// Translates a grammar.
pub(crate) fn to_lark(text: &str) -> Result<String, Error> {
    emit::lark(&parse::rules(text)?)
}

#[cfg(test)]
mod tests;
