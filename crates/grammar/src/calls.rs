//! Calls of tools: JSON between the texts and tokens with which a model marks it.

use std::fmt::Write;

use nanoinfer_text::{CallShape, Piece};
use serde_json::Value;

use crate::gbnf::regex_of;
use crate::{Error, schema};

/// A grammar for at least one of these calls, in Lark. Every JSON value has the members of `style` added.
pub(crate) fn to_lark(
    calls: &[CallShape],
    style: impl Fn(Value) -> Value,
) -> Result<String, Error> {
    let mut text = String::from("start:");
    let further = calls.iter().any(|call| !call.next.is_empty());
    for (i, call) in calls.iter().enumerate() {
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
        let schema: Value = serde_json::from_str(&call.schema).map_err(|e| {
            Error::source(call.name.as_str(), format!("not JSON: {e}"), "correct the schema")
        })?;
        schema::check(&schema).map_err(|e| e.within(&call.name))?;
        let schema = style(schema);
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
        let _ = match piece.token {
            Some(id) => write!(text, "<[{id}]> "),
            None => write!(text, "/{}/ ", regex_of(&piece.text)),
        };
    }
    text
}
