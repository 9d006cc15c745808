//! Conversations in the form of OpenAI's API, which others resemble.

use nanoinfer_engine::Message;
use serde_json::Value;

use crate::problem::Problem;

/// Maximum number of messages.
const MAX: usize = 100_000;

/// Reads a list of messages.
pub(crate) fn read(body: &Value) -> Result<Vec<Message>, Problem> {
    let list = match body.get("messages") {
        Some(Value::Array(list)) if !list.is_empty() && list.len() <= MAX => list,
        Some(Value::Array(_)) => {
            return Err(Problem::field("messages", format!("expected 1 to {MAX} messages")));
        }
        _ => return Err(Problem::field("messages", "expected a list of messages")),
    };
    list.iter().enumerate().map(|(i, m)| message(m, &format!("messages[{i}]"))).collect()
}

pub(crate) fn message(value: &Value, at: &str) -> Result<Message, Problem> {
    let role = match value.get("role").and_then(Value::as_str) {
        Some("developer") => "system", // the name of newer models, whose templates are not published
        Some(role @ ("system" | "user" | "assistant")) => role,
        Some("tool" | "function") => {
            let what = "results of tools are not supported by this server";
            return Err(Problem::field(format!("{at}.role"), what).code("unsupported_parameter"));
        }
        _ => {
            let what = "expected system, developer, user or assistant";
            return Err(Problem::field(format!("{at}.role"), what));
        }
    };
    for name in ["tool_calls", "function_call", "audio", "images"] {
        let value = value.get(name).filter(|v| !v.is_null());
        if value.is_some_and(|v| v.as_array().is_none_or(|list| !list.is_empty())) {
            let what = "is not supported by this server";
            return Err(Problem::field(format!("{at}.{name}"), what).code("unsupported_parameter"));
        }
    }
    Ok(Message::new(role, text(value.get("content"), &format!("{at}.content"))?))
}

/// The text of a content: a string, or a list of parts.
pub(crate) fn text(content: Option<&Value>, at: &str) -> Result<String, Problem> {
    match content {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let mut all = String::new();
            for (i, part) in parts.iter().enumerate() {
                match part.get("text").and_then(Value::as_str) {
                    Some(text) => all.push_str(text),
                    None if part.as_str().is_some() => all.push_str(part.as_str().unwrap_or("")),
                    None => {
                        let kind = part.get("type").and_then(Value::as_str).unwrap_or("unknown");
                        let what = format!("parts of type {kind:?} are not supported; use text");
                        return Err(Problem::field(format!("{at}[{i}]"), what));
                    }
                }
            }
            Ok(all)
        }
        Some(_) => Err(Problem::field(at, "expected a string or a list of parts")),
    }
}
