//! What a chat template renders: messages, tools, documents and further variables.

use minijinja::Value;
use minijinja::value::ValueKind;
use serde::Deserialize;
use serde::de::Error as _;

use crate::message::text_part;
use crate::meter::BYTES_PER_ITEM;
use crate::{Error, Message};

/// A conversation in the format of chat APIs, which also has tools, tool calls and contents of several
/// parts.
#[derive(Debug, Clone)]
pub struct ChatInput {
    pub(crate) messages: Vec<Value>,
    pub(crate) tools: Value,
    pub(crate) documents: Value,
    pub(crate) variables: Vec<(String, Value)>,
    pub(crate) add_generation_prompt: bool,
    pub(crate) now: Option<u64>,
}

/// The members of a request that concern a template.
#[derive(Deserialize)]
struct Request {
    messages: Vec<Value>,
    #[serde(default)]
    tools: Option<Vec<Value>>,
    #[serde(default)]
    documents: Option<Vec<Value>>,
    #[serde(default)]
    add_generation_prompt: bool,
    #[serde(default)]
    chat_template_kwargs: Option<Value>,
}

impl ChatInput {
    /// Reads a request to a chat API, a JSON object: `messages`, whose members templates use as they are
    /// (`role`, `content`, `tool_calls` …), and optionally `tools`, `documents`, `add_generation_prompt`
    /// and, in `chat_template_kwargs`, further variables. Other members are ignored.
    ///
    /// # Errors
    /// [`Error::ChatInput`] if the text is not such a request.
    pub fn from_json(request: &str) -> Result<Self, Error> {
        let request: Request = serde_json::from_str(request).map_err(Error::ChatInput)?;
        let is_object = |v: &Value| v.kind() == ValueKind::Map;
        if !request.messages.iter().all(is_object) {
            return Err(malformed("a message is not an object"));
        }
        let variables = request.chat_template_kwargs.unwrap_or_default();
        if !(is_object(&variables) || variables.is_none() || variables.is_undefined()) {
            return Err(malformed("chat_template_kwargs is not an object"));
        }
        let list = |values: Option<Vec<Value>>| Value::from(values);
        Ok(Self {
            messages: request.messages,
            tools: list(request.tools),
            documents: list(request.documents),
            variables: pairs(&variables).map(|(k, v)| (k.to_string(), v)).collect(),
            add_generation_prompt: request.add_generation_prompt,
            now: None,
        })
    }

    /// A conversation without tools; with `add_generation_prompt`, rendered up to the start of the model's
    /// answer.
    pub fn from_messages(messages: &[Message], add_generation_prompt: bool) -> Self {
        Self {
            messages: messages.iter().map(Message::value).collect(),
            tools: Value::from(()),
            documents: Value::from(()),
            variables: Vec::new(),
            add_generation_prompt,
            now: None,
        }
    }

    /// Sets the tools that the model may call: a JSON list of descriptions as chat APIs have them
    /// (`{"type": "function", "function": {"name": …, "description": …, "parameters": …}}`), which templates
    /// use as they are.
    ///
    /// # Errors
    /// [`Error::ChatInput`] if it is not a list of objects.
    pub fn with_tools(mut self, tools: &str) -> Result<Self, Error> {
        let tools: Vec<Value> = serde_json::from_str(tools).map_err(Error::ChatInput)?;
        if !tools.iter().all(|tool| tool.kind() == ValueKind::Map) {
            return Err(malformed("a tool is not an object"));
        }
        // Templates ask whether there are tools in several ways, of which not all mean an empty list.
        self.tools = if tools.is_empty() { Value::from(()) } else { Value::from(tools) };
        Ok(self)
    }

    /// Sets a variable of the template, such as `enable_thinking` or `date_string`, to a JSON value.
    ///
    /// # Errors
    /// [`Error::ChatInput`] if the value is not JSON, or the name belongs to the conversation, its tokens or
    /// a function.
    pub fn with_variable(mut self, name: &str, value: &str) -> Result<Self, Error> {
        if RESERVED.contains(&name) {
            return Err(malformed(&format!("{name} cannot be set as a variable of the template")));
        }
        let value = serde_json::from_str(value).map_err(Error::ChatInput)?;
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value));
        Ok(self)
    }

    /// Sets the time that `strftime_now` formats, in seconds since 1970, instead of the time of rendering.
    #[must_use]
    pub const fn at_time(mut self, unix: u64) -> Self {
        self.now = Some(unix);
        self
    }

    /// All values but the variables.
    fn texts(&self) -> impl Iterator<Item = &Value> {
        self.messages.iter().chain([&self.tools, &self.documents])
    }

    /// The number of items, counted like those of a template's own values, and of bytes in strings.
    pub(crate) fn size(&self) -> Size {
        let mut size = Size::default();
        let variables = self.variables.iter().map(|(_, value)| value);
        self.texts().chain(variables).for_each(|value| size.add(value));
        size
    }

    /// Calls `visit` with every string.
    pub(crate) fn visit_strings(&self, visit: &mut dyn FnMut(&str)) {
        let mut visit = |s: &str, _| visit(s);
        self.texts().for_each(|value| visit_strings(value, Place::Text, &mut visit));
        let variables = self.variables.iter().map(|(_, value)| value);
        variables.for_each(|value| visit_strings(value, Place::Name, &mut visit));
    }

    /// The index of a message with a name that is `bad`, or 0 if another part of the input has one. A key
    /// is a name if it is a word.
    pub(crate) fn find_name(&self, bad: &dyn Fn(&str) -> bool) -> Option<usize> {
        let has = |value: &Value, place| {
            let mut found = false;
            visit_strings(value, place, &mut |s, place| {
                let is_name = place == Place::Name || place == Place::Key && is_word(s);
                found |= is_name && bad(s);
            });
            found
        };
        let other = || {
            let variables = self.variables.iter().any(|(_, value)| has(value, Place::Name));
            variables || has(&self.tools, Place::Text) || has(&self.documents, Place::Text)
        };
        let message = self.messages.iter().position(|m| has(m, Place::Text));
        message.or_else(|| other().then_some(0))
    }

    /// The same input with every text changed. Names and keys that are words are kept, because templates
    /// compare them.
    pub(crate) fn map_texts(&self, change: &dyn Fn(&str) -> String) -> Self {
        let mapped = |value: &Value| map_strings(value, Place::Text, change);
        let variable = |(name, value): &(String, Value)| {
            (name.clone(), map_strings(value, Place::Name, change))
        };
        Self {
            messages: self.messages.iter().map(mapped).collect(),
            tools: mapped(&self.tools),
            documents: mapped(&self.documents),
            variables: self.variables.iter().map(variable).collect(),
            ..self.clone()
        }
    }

    /// Whether there is a system message.
    pub(crate) fn has_system(&self) -> bool {
        self.messages.iter().any(|m| has_role(m, "system"))
    }

    /// Puts system messages before the content of the next user message, joined by a blank line, for
    /// templates that have no system role. Without such a message, they become a user message.
    pub(crate) fn move_system(&mut self) {
        let mut system: Option<String> = None;
        let mut moved = Vec::with_capacity(self.messages.len());
        for m in &self.messages {
            if has_role(m, "system") {
                let text = text_of(&content(m));
                system = Some(system.map_or_else(|| text.clone(), |s| s + JOIN + &text));
                continue;
            }
            let before = if has_role(m, "user") { system.take() } else { None };
            moved.push(match before {
                Some(system) => with_content(m, prepend(&system, &content(m))),
                None => m.clone(),
            });
        }
        moved.extend(system.map(|system| message([("role", "user"), ("content", &system)])));
        self.messages = moved;
    }

    /// Puts the tools' functions into the system message as JSON, for templates that look for them there.
    /// Without such a message, there is a new one without text.
    pub(crate) fn move_tools(&mut self) {
        let tools = self.tools.try_iter().into_iter().flatten();
        let functions: Vec<_> = tools.filter_map(|tool| tool.get_attr("function").ok()).collect();
        let Ok(functions) = serde_json::to_string(&functions) else { return };
        if !self.messages.first().is_some_and(|m| has_role(m, "system")) {
            self.messages.insert(0, message([("role", "system"), ("content", "")]));
        }
        let members = pairs(&self.messages[0]).chain([("tools".into(), functions.into())]);
        self.messages[0] = Value::from_pairs(members);
    }

    /// Turns contents that are strings into lists with one part, for templates that accept only lists.
    pub(crate) fn split_into_parts(&mut self) {
        for m in &mut self.messages {
            if let Some(text) = content(m).as_str() {
                *m = with_content(m, Value::from(vec![text_part(text)]));
            }
        }
    }
}

fn malformed(what: &str) -> Error {
    Error::ChatInput(serde_json::Error::custom(what))
}

/// Names that variables must not take.
const RESERVED: [&str; 14] = [
    "messages",
    "tools",
    "documents",
    "bos_token",
    "eos_token",
    "pad_token",
    "add_generation_prompt",
    "raise_exception",
    "strftime_now",
    "range",
    "dict",
    "namespace",
    "lipsum",
    "cycler",
];

/// What joins a system message to the user message that it precedes.
const JOIN: &str = "\n\n";

fn message<const N: usize>(members: [(&str, &str); N]) -> Value {
    Value::from_pairs(members)
}

fn has_role(message: &Value, role: &str) -> bool {
    message.get_attr("role").is_ok_and(|value| value.as_str() == Some(role))
}

fn content(message: &Value) -> Value {
    message.get_attr("content").unwrap_or_default()
}

/// The same message with another content.
fn with_content(message: &Value, content: Value) -> Value {
    Value::from_pairs(pairs(message).chain([("content".into(), content)]))
}

/// The text of a content, which may be a list of parts.
fn text_of(content: &Value) -> String {
    match content.as_str() {
        Some(text) => text.to_owned(),
        None => {
            let parts = content.try_iter().into_iter().flatten();
            let texts = parts.filter_map(|part| part.get_attr("text").ok()?.to_str());
            texts.collect::<Vec<_>>().join("\n")
        }
    }
}

/// A user message's content, which may be missing, with the system message before it.
fn prepend(system: &str, content: &Value) -> Value {
    match (content.as_str(), content.kind()) {
        (Some(text), _) => Value::from([system, text].join(JOIN)),
        (None, ValueKind::Seq) => {
            let parts = content.try_iter().into_iter().flatten();
            [text_part(&format!("{system}{JOIN}"))].into_iter().chain(parts).collect()
        }
        _ => Value::from(system),
    }
}

fn pairs(map: &Value) -> impl Iterator<Item = (Value, Value)> + '_ {
    let keys = (map.kind() == ValueKind::Map).then(|| map.try_iter().ok()).flatten();
    keys.into_iter().flatten().map(|key| {
        let value = map.get_item(&key).unwrap_or_default();
        (key, value)
    })
}

/// What a string is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Text,
    /// A role, a type or a variable, which templates compare with words of their own.
    Name,
    /// The key of an object.
    Key,
}

impl Place {
    /// The place of the value under a key.
    fn under(self, key: &Value, value: &Value) -> Self {
        let is_name = matches!(key.as_str(), Some("role" | "type")) && value.as_str().is_some();
        if is_name { Self::Name } else { self }
    }
}

/// Whether a template may look a string up or compare it. Such strings have no punctuation that could
/// complete a control token.
fn is_word(s: &str) -> bool {
    s.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

/// Calls `visit` with every string and its place. JSON has a maximum depth, which bounds the recursion.
fn visit_strings(value: &Value, place: Place, visit: &mut dyn FnMut(&str, Place)) {
    match value.kind() {
        ValueKind::String => visit(value.as_str().unwrap_or_default(), place),
        ValueKind::Map => pairs(value).for_each(|(key, value)| {
            visit(key.as_str().unwrap_or_default(), Place::Key);
            visit_strings(&value, place.under(&key, &value), visit);
        }),
        ValueKind::Seq => {
            let items = value.try_iter().into_iter().flatten();
            items.for_each(|item| visit_strings(&item, place, visit));
        }
        _ => {}
    }
}

fn map_strings(value: &Value, place: Place, change: &dyn Fn(&str) -> String) -> Value {
    match value.kind() {
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            let is_kept = place != Place::Text && is_word(text);
            if is_kept { value.clone() } else { Value::from(change(text)) }
        }
        ValueKind::Map => Value::from_pairs(pairs(value).map(|(key, value)| {
            let value = map_strings(&value, place.under(&key, &value), change);
            (map_strings(&key, Place::Key, change), value)
        })),
        ValueKind::Seq => {
            let items = value.try_iter().into_iter().flatten();
            Value::from(items.map(|item| map_strings(&item, place, change)).collect::<Vec<_>>())
        }
        _ => value.clone(),
    }
}

/// The size of an input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

impl Size {
    fn add(&mut self, value: &Value) {
        let bytes = value.as_str().map_or(0, str::len);
        self.bytes += bytes;
        self.items += 1 + bytes / BYTES_PER_ITEM;
        match value.kind() {
            ValueKind::Map => pairs(value).for_each(|(key, value)| {
                self.add(&key);
                self.add(&value);
            }),
            ValueKind::Seq => {
                value.try_iter().into_iter().flatten().for_each(|item| self.add(&item))
            }
            _ => {}
        }
    }
}
