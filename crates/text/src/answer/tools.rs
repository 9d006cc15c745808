//! The tools that a model may call.

use minijinja::Value;
use serde::Deserialize;

use crate::Error;

/// The tools that a model may call.
#[derive(Debug, Clone, Default)]
pub struct Tools {
    tools: Vec<Tool>,
}

#[derive(Debug, Clone)]
pub(super) struct Tool {
    pub name: String,
    /// The JSON schema of the arguments.
    pub parameters: Value,
}

#[derive(Deserialize)]
struct Entry {
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    #[serde(default)]
    parameters: Option<Value>,
}

impl Tools {
    /// Reads a JSON list of descriptions as chat APIs have them, see
    /// [`ChatInput::with_tools`](crate::ChatInput::with_tools).
    ///
    /// # Errors
    /// [`Error::ChatInput`] if it is not such a list, or a function has no name.
    pub fn from_json(tools: &str) -> Result<Self, Error> {
        let entries: Vec<Entry> = serde_json::from_str(tools).map_err(Error::ChatInput)?;
        let tool = |Entry { function: Function { name, parameters } }| Tool {
            name,
            parameters: parameters.unwrap_or_default(),
        };
        Ok(Self { tools: entries.into_iter().map(tool).collect() })
    }

    /// The names of the tools.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tools.iter().map(|tool| tool.name.as_str())
    }

    /// The same tools, with any arguments.
    #[must_use]
    pub fn without_parameters(&self) -> Self {
        let tool = |tool: &Tool| Tool { name: tool.name.clone(), parameters: Value::default() };
        Self { tools: self.tools.iter().map(tool).collect() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Tool> {
        self.tools.iter()
    }

    /// Whether a parameter of a tool is a string: its schema has that type, or lists strings to choose from.
    pub(super) fn is_string(&self, tool: &str, parameter: &str) -> bool {
        let Some(tool) = self.tools.iter().find(|t| t.name == tool) else { return false };
        let member = |value: &Value, key: &str| value.get_attr(key).unwrap_or_default();
        let schema = member(&member(&tool.parameters, "properties"), parameter);
        let choices = member(&schema, "enum");
        match member(&schema, "type").as_str() {
            Some(kind) => kind == "string",
            None => choices.try_iter().is_ok_and(|mut choices| {
                choices.next().is_some_and(|choice| choice.as_str().is_some())
            }),
        }
    }
}

impl Tool {
    /// The schema of the arguments as JSON; without one, that of any object.
    pub(super) fn schema(&self) -> String {
        let schema = serde_json::to_string(&self.parameters).unwrap_or_default();
        if schema.starts_with('{') { schema } else { r#"{"type":"object"}"#.to_owned() }
    }
}
