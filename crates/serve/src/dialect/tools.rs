//! Tools that the model may call, in the form of OpenAI's API and those that resemble it.

use serde_json::{Value, json};

use crate::core::ask::{ToolChoice, Toolbox};
use crate::problem::Problem;

/// Maximum number of tools.
const MAX: usize = 4096;
/// Maximum number of bytes of a name.
const MAX_NAME: usize = 256;

/// Reads `tools`, `tool_choice` and `parallel_tool_calls`.
pub(crate) fn read(body: &Value) -> Result<Option<Toolbox>, Problem> {
    let mut tools = Vec::new();
    for (i, tool) in list(body)?.iter().enumerate() {
        let function = tool.get("function").unwrap_or(&Value::Null);
        tools.push(function_tool(function, "parameters", &format!("tools[{i}].function"))?);
    }
    let parallel = body.get("parallel_tool_calls").and_then(Value::as_bool).unwrap_or(true);
    with_choice(tools, choice(body)?, parallel)
}

/// The list of tools.
pub(crate) fn list(body: &Value) -> Result<&[Value], Problem> {
    match body.get("tools") {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(tools)) if tools.len() <= MAX => Ok(tools),
        _ => Err(Problem::field("tools", format!("expected a list of at most {MAX} tools"))),
    }
}

/// A tool in OpenAI's form, from an object with its name, description and the schema of its arguments.
pub(crate) fn function_tool(function: &Value, schema: &str, at: &str) -> Result<Value, Problem> {
    let name = function.get("name").and_then(Value::as_str);
    let name = name.filter(|name| !name.is_empty() && name.len() <= MAX_NAME);
    let name = name.ok_or_else(|| {
        Problem::field(format!("{at}.name"), format!("expected a name of at most {MAX_NAME} bytes"))
    })?;
    let mut tool = json!({"name": name});
    if let Some(text) = function.get("description").and_then(Value::as_str) {
        tool["description"] = text.into();
    }
    match function.get(schema) {
        None | Some(Value::Null) => {}
        Some(Value::Object(parameters)) => tool["parameters"] = parameters.clone().into(),
        Some(_) => return Err(Problem::field(format!("{at}.{schema}"), "expected a JSON schema")),
    }
    Ok(json!({"type": "function", "function": tool}))
}

/// `tool_choice` in OpenAI's APIs; `None` if the model may not call any tool.
pub(crate) fn choice(body: &Value) -> Result<Option<ToolChoice>, Problem> {
    let expected = "expected none, auto, required or the name of a function";
    let bad = || Problem::field("tool_choice", expected);
    match body.get("tool_choice") {
        None | Some(Value::Null) => Ok(Some(ToolChoice::Auto)),
        Some(Value::String(choice)) => match choice.as_str() {
            "none" => Ok(None),
            "auto" => Ok(Some(ToolChoice::Auto)),
            "required" | "any" => Ok(Some(ToolChoice::Required)),
            _ => Err(bad()),
        },
        Some(choice) if choice["type"] == "function" => {
            let name = choice["function"]["name"].as_str().or(choice["name"].as_str());
            Ok(Some(ToolChoice::Named(name.ok_or_else(bad)?.to_owned())))
        }
        Some(_) => Err(bad()),
    }
}

/// The tools with a choice, which must fit them.
pub(crate) fn with_choice(
    tools: Vec<Value>,
    choice: Option<ToolChoice>,
    parallel: bool,
) -> Result<Option<Toolbox>, Problem> {
    let Some(choice) = choice else { return Ok(None) };
    match &choice {
        ToolChoice::Auto => {}
        ToolChoice::Required if tools.is_empty() => {
            return Err(Problem::field("tool_choice", "requires tools"));
        }
        ToolChoice::Required => {}
        ToolChoice::Named(name) => {
            if !tools.iter().any(|tool| tool["function"]["name"] == **name) {
                return Err(Problem::field("tool_choice", format!("there is no tool {name:?}")));
            }
        }
    }
    let tools = (!tools.is_empty()).then(|| Value::from(tools).to_string());
    Ok(tools.map(|tools| Toolbox { tools, choice, parallel }))
}
