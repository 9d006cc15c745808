//! Calls of tools: JSON between the texts and tokens with which a model marks it.

use std::fmt::Write;

use serde_json::Value;

use crate::gbnf::regex_of;
use crate::{Error, schema};

/// What calls of one tool look like.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The tool's name, for error messages.
    pub name: String,
    /// What begins the first call of an answer.
    pub begin: Vec<Piece>,
    /// What separates a call of this tool from the one before it; empty if there can be no further calls.
    pub next: Vec<Piece>,
    /// JSON schema of what follows.
    pub schema: Value,
    /// What ends the answer after such a call.
    pub end: Vec<Piece>,
}

/// A part of what surrounds a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A text, in any tokens.
    Text(String),
    /// A token that has no text, such as a control token.
    Token(u32),
}

/// A grammar for at least one of these calls, in Lark. Every JSON value has the members of `style` added.
pub(crate) fn to_lark(calls: &[Call], style: impl Fn(Value) -> Value) -> Result<String, Error> {
    let mut text = String::from("start:");
    let further = calls.iter().any(|call| !call.next.is_empty());
    for (i, call) in calls.iter().enumerate() {
        schema::check(&call.schema).map_err(|e| e.within(&call.name))?;
        let or = if i == 0 { "" } else { " |" };
        let _ = write!(text, "{or} {}c{i}", pieces(&call.begin));
    }
    text.push('\n');
    for (i, call) in calls.iter().enumerate() {
        let end = pieces(&call.end);
        let rest = match (further, end.is_empty()) {
            (false, _) => end,
            (true, true) => "[more]".to_owned(),
            (true, false) => format!("({end}| more)"),
        };
        let schema = style(call.schema.clone());
        let _ = writeln!(text, "c{i}: j{i} {rest}\nj{i}: %json {schema}");
    }
    let next = calls.iter().enumerate().filter(|(_, call)| !call.next.is_empty());
    let next: Vec<String> = next.map(|(i, call)| format!("{}c{i}", pieces(&call.next))).collect();
    if further {
        let _ = writeln!(text, "more: {}", next.join(" | "));
    }
    Ok(text)
}

/// The pieces, each followed by a space.
fn pieces(pieces: &[Piece]) -> String {
    let mut text = String::new();
    for piece in pieces {
        let _ = match piece {
            Piece::Text(piece) if piece.is_empty() => Ok(()),
            Piece::Text(piece) => write!(text, "/{}/ ", regex_of(piece)),
            Piece::Token(id) => write!(text, "<[{id}]> "),
        };
    }
    text
}
