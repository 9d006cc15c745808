//! Conversations in the form of OpenAI's API, which others resemble.

use nanoinfer_engine::Message;
use nanoinfer_text::ToolCall;
use serde_json::Value;

use super::tools;
use crate::core::ask::Chat;
use crate::problem::Problem;

/// Maximum number of messages.
const MAX: usize = 100_000;

/// The members of a request that chat templates need, which are those of conversations.
pub(crate) const TEMPLATE: [&str; 3] = ["tools", "tool_choice", "chat_template_kwargs"];

/// Reads a conversation with its tools and the template's variables.
pub(crate) fn chat(body: &Value) -> Result<Chat, Problem> {
    let mut variables = variables(body)?;
    set_effort(&mut variables, body.get("reasoning_effort"));
    Ok(Chat { messages: read(body)?, toolbox: tools::read(body)?, variables })
}

/// Sets how much the model thinks before it answers, unless the variables do.
pub(crate) fn set_effort(variables: &mut Vec<(String, String)>, effort: Option<&Value>) {
    match effort.and_then(Value::as_str) {
        None => {}
        Some("none") => set(variables, "enable_thinking", "false".into()),
        Some(effort) => set(variables, "reasoning_effort", Value::from(effort).to_string()),
    }
}

/// Sets a variable that the request itself does not set.
pub(crate) fn set(variables: &mut Vec<(String, String)>, name: &str, json: String) {
    if !variables.iter().any(|(known, _)| known == name) {
        variables.push((name.to_owned(), json));
    }
}

/// The variables of the template, as JSON.
pub(crate) fn variables(body: &Value) -> Result<Vec<(String, String)>, Problem> {
    match body.get("chat_template_kwargs") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(members)) => {
            Ok(members.iter().map(|(name, value)| (name.clone(), value.to_string())).collect())
        }
        Some(_) => Err(Problem::field("chat_template_kwargs", "expected an object")),
    }
}

/// Reads a list of messages.
fn read(body: &Value) -> Result<Vec<Message>, Problem> {
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
        Some("function") => "tool",
        Some(role @ ("system" | "user" | "assistant" | "tool")) => role,
        _ => {
            let what = "expected system, developer, user, assistant or tool";
            return Err(Problem::field(format!("{at}.role"), what));
        }
    };
    for name in ["function_call", "audio", "images"] {
        let value = value.get(name).filter(|v| !v.is_null());
        if value.is_some_and(|v| v.as_array().is_none_or(|list| !list.is_empty())) {
            let what = "is not supported by this server";
            return Err(Problem::field(format!("{at}.{name}"), what).code("unsupported_parameter"));
        }
    }
    let mut message = Message::new(role, text(value.get("content"), &format!("{at}.content"))?);
    let member = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let first =
        |names: &[&str]| names.iter().find_map(|name| member(name)).filter(|s| !s.is_empty());
    match role {
        "assistant" => {
            message.tool_calls = calls(value.get("tool_calls"), &format!("{at}.tool_calls"))?;
            message.reasoning_content = first(&["reasoning_content", "reasoning", "thinking"]);
        }
        "tool" => {
            message.tool_call_id = member("tool_call_id");
            message.name = first(&["name", "tool_name"]);
        }
        _ => {}
    }
    Ok(message)
}

/// The calls of an earlier answer.
fn calls(value: Option<&Value>, at: &str) -> Result<Vec<ToolCall>, Problem> {
    let list = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(Problem::field(at, "expected a list of calls")),
    };
    let one = |(i, value): (usize, &Value)| {
        let id = value.get("id").and_then(Value::as_str).map(str::to_owned);
        call(value.get("function").unwrap_or(&Value::Null), id, &format!("{at}[{i}].function"))
    };
    list.iter().enumerate().map(one).collect()
}

/// A call with `name` and `arguments`, which are a text or an object.
pub(crate) fn call(function: &Value, id: Option<String>, at: &str) -> Result<ToolCall, Problem> {
    let name = function.get("name").and_then(Value::as_str).map(str::to_owned);
    let name = name.ok_or_else(|| Problem::field(format!("{at}.name"), "expected a name"))?;
    let arguments = match function.get("arguments") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(arguments @ Value::Object(_)) => arguments.to_string(),
        Some(_) => {
            return Err(Problem::field(format!("{at}.arguments"), "expected an object as JSON"));
        }
    };
    Ok(ToolCall { id, name, arguments })
}

/// The text of a content: a string, or a list of parts.
pub(crate) fn text(content: Option<&Value>, at: &str) -> Result<String, Problem> {
    match content {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let mut all = String::new();
            for (i, part) in parts.iter().enumerate() {
                match part.get("text").unwrap_or(part).as_str() {
                    Some(text) => all.push_str(text),
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
