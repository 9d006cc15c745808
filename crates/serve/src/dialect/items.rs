//! The input of `/v1/responses`: items that are messages, reasoning, calls and their results.

use nanoinfer_engine::Message;
use serde_json::Value;

use super::{messages, tools};
use crate::core::ask::Toolbox;
use crate::problem::Problem;

/// The functions. The model is not told of tools that run elsewhere than at the client: they do not exist here.
pub(crate) fn toolbox(body: &Value) -> Result<Option<Toolbox>, Problem> {
    let mut found = Vec::new();
    for (i, tool) in tools::list(body)?.iter().enumerate() {
        if tool.get("type").and_then(Value::as_str) == Some("function") {
            found.push(tools::function_tool(tool, "parameters", &format!("tools[{i}]"))?);
        }
    }
    let parallel = body.get("parallel_tool_calls").and_then(Value::as_bool).unwrap_or(true);
    tools::with_choice(found, tools::choice(body)?, parallel)
}

/// Reads the items of the input. Reasoning, a message and calls that follow each other are one answer.
pub(crate) fn input(body: &Value, out: &mut Vec<Message>) -> Result<(), Problem> {
    let items = match body.get("input") {
        Some(Value::String(text)) => {
            out.push(Message::new("user", text));
            return Ok(());
        }
        Some(Value::Array(items)) if !items.is_empty() => items,
        _ => return Err(Problem::field("input", "expected a text or a list of items")),
    };
    for (i, item) in items.iter().enumerate() {
        let at = format!("input[{i}]");
        match item.get("type").and_then(Value::as_str) {
            None | Some("message") => {
                let message = messages::message(item, &at)?;
                let is_answer = message.role == "assistant";
                match out.last_mut().filter(|last| is_answer && is_reasoning(last)) {
                    Some(last) => last.content = message.content,
                    None => out.push(message),
                }
            }
            Some("reasoning") => {
                let parts = item.get("content").filter(|content| content.is_array());
                let text = messages::text(parts, &format!("{at}.content"))?;
                if !text.is_empty() {
                    let mut message = Message::new("assistant", "");
                    message.reasoning_content = Some(text);
                    out.push(message);
                }
            }
            Some("function_call") => {
                let id = item.get("call_id").and_then(Value::as_str).map(str::to_owned);
                let call = messages::call(item, id, &at)?;
                match out.last_mut().filter(|last| last.role == "assistant") {
                    Some(last) => last.tool_calls.push(call),
                    None => {
                        let mut message = Message::new("assistant", "");
                        message.tool_calls.push(call);
                        out.push(message);
                    }
                }
            }
            Some("function_call_output") => {
                let text = messages::text(item.get("output"), &format!("{at}.output"))?;
                let mut message = Message::new("tool", text);
                message.tool_call_id =
                    item.get("call_id").and_then(Value::as_str).map(str::to_owned);
                out.push(message);
            }
            Some(kind) => {
                let what = format!("items of type {kind:?} are not supported by this server");
                return Err(Problem::field(at, what).code("unsupported_parameter"));
            }
        }
    }
    Ok(())
}

/// Whether a message is only the reasoning before an answer.
fn is_reasoning(message: &Message) -> bool {
    message.reasoning_content.is_some()
        && message.tool_calls.is_empty()
        && message.content.text().is_empty()
}
