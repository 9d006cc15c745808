//! Messages of a conversation, in the terms of chat APIs.

use std::borrow::Cow;

use minijinja::Value;

/// A message of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool` or any other role that the template supports.
    pub role: String,
    /// What it says.
    pub content: Content,
    /// The tools that an assistant's message calls.
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool's message answers.
    pub tool_call_id: Option<String>,
    /// The name of the tool, or of a participant.
    pub name: Option<String>,
    /// The reasoning before an assistant's answer.
    pub reasoning_content: Option<String>,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A text.
    Text(String),
    /// A list of parts, which templates join in their own way.
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// A text.
    Text(String),
}

/// A call of a tool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// Identifies the call for the message that answers it.
    pub id: Option<String>,
    /// The tool's name.
    pub name: String,
    /// Its arguments: an object as JSON. Templates get the object, or the text if it is not JSON; an empty
    /// text is an empty object.
    pub arguments: String,
}

impl Message {
    /// Creates a message.
    pub fn new(role: impl Into<String>, content: impl Into<Content>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }

    /// What a template sees: members that are not set are missing, as in the requests of chat APIs.
    pub(crate) fn value(&self) -> Value {
        let text = |text: &String| Value::from(text.as_str());
        let mut members = vec![("role", text(&self.role)), ("content", self.content.value())];
        members.extend(self.reasoning_content.as_ref().map(|r| ("reasoning_content", text(r))));
        if !self.tool_calls.is_empty() {
            let calls: Vec<Value> = self.tool_calls.iter().map(ToolCall::value).collect();
            members.push(("tool_calls", Value::from(calls)));
        }
        members.extend(self.tool_call_id.as_ref().map(|id| ("tool_call_id", text(id))));
        members.extend(self.name.as_ref().map(|name| ("name", text(name))));
        Value::from_pairs(members)
    }
}

impl Content {
    /// The text; that of parts is joined by line ends.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Parts(parts) => {
                let texts: Vec<&str> = parts.iter().map(|Part::Text(text)| text.as_str()).collect();
                Cow::Owned(texts.join("\n"))
            }
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Text(text) => Value::from(text.as_str()),
            Self::Parts(parts) => parts.iter().map(|Part::Text(text)| text_part(text)).collect(),
        }
    }
}

impl Default for Content {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&String> for Content {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl ToolCall {
    fn value(&self) -> Value {
        let arguments = match self.arguments.trim() {
            "" => "{}",
            arguments => arguments,
        };
        let arguments = serde_json::from_str(arguments);
        let arguments = arguments.unwrap_or_else(|_| Value::from(self.arguments.as_str()));
        let function = [("name", Value::from(self.name.as_str())), ("arguments", arguments)];
        let id = self.id.as_ref().map(|id| ("id", Value::from(id.as_str())));
        let call = [("type", Value::from("function")), ("function", Value::from_pairs(function))];
        Value::from_pairs(id.into_iter().chain(call))
    }
}

/// A part of a content, as templates see it.
pub(crate) fn text_part(text: &str) -> Value {
    Value::from_pairs([("type", "text"), ("text", text)])
}
