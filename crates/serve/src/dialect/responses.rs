//! OpenAI's responses: `/v1/responses`. Nothing is stored, so no response can be continued by its id.

use nanoinfer_engine::Message;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Call, Encoder, Meta, event};
use super::fields::{self, Fields};
use super::usage::{Totals, remarks};
use super::{items, messages, structure, unsupported};
use crate::core::answer::{Answer, End, Reason, Update};
use crate::core::ask::{Ask, Chat, Prompt};
use crate::core::model::ServedModel;
use crate::core::parts::{self, Part, Whole};
use crate::problem::Problem;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ResponseFields {
    instructions: Option<String>,
    previous_response_id: Option<String>,
    background: Option<bool>,
    text: Option<Value>,
    conversation: Option<Value>,
    prompt: Option<Value>,
}

pub(crate) fn parse(body: &Value, served: &ServedModel) -> Result<Call, Problem> {
    unsupported::check(body, &messages::TEMPLATE)?;
    let (common, own) = (Fields::read(body)?, fields::read::<ResponseFields>(body)?);
    let unsupported = |name: &str| {
        Err(Problem::field(name, "is not supported by this server").code("unsupported_parameter"))
    };
    for (name, is_given) in [
        ("previous_response_id", own.previous_response_id.is_some()),
        ("background", own.background == Some(true)),
        ("conversation", own.conversation.is_some()),
        ("prompt", own.prompt.is_some()),
    ] {
        if is_given {
            return unsupported(name);
        }
    }
    let mut variables = messages::variables(body)?;
    let effort = body.get("reasoning").and_then(|reasoning| reasoning.get("effort"));
    messages::set_effort(&mut variables, effort);
    let mut conversation = Vec::new();
    conversation.extend(own.instructions.as_ref().map(|text| Message::new("system", text)));
    items::input(body, &mut conversation)?;
    let mut options = common.options(served)?;
    let format = own.text.as_ref().and_then(|text| text.get("format"));
    options.structure = match format {
        None => structure::read(body)?,
        format => structure::nested(format, "text.format")?,
    };
    let chat = Chat { messages: conversation, toolbox: items::toolbox(body)?, variables };
    Ok(Call {
        ask: Ask { prompts: vec![Prompt::Chat(Box::new(chat))], n: 1, options },
        stream: common.stream.unwrap_or(false),
        encoder: Box::new(ResponseEncoder {
            request: echoed(body),
            items: Vec::new(),
            is_open: false,
            sequence: 0,
            status: Status::default(),
        }),
    })
}

/// The members of a request that its response repeats.
fn echoed(body: &Value) -> Value {
    let of = |name: &str, default: Value| body.get(name).cloned().unwrap_or(default);
    json!({
        "instructions": of("instructions", Value::Null),
        "max_output_tokens": of("max_output_tokens", Value::Null),
        "metadata": of("metadata", json!({})),
        "temperature": of("temperature", Value::Null),
        "top_p": of("top_p", Value::Null),
        "parallel_tool_calls": of("parallel_tool_calls", json!(true)),
        "tool_choice": of("tool_choice", json!("auto")),
        "tools": of("tools", json!([])),
        "text": of("text", json!({"format": {"type": "text"}})),
        "truncation": "disabled",
        "reasoning": of("reasoning", json!({"effort": null, "summary": null})),
        "previous_response_id": null,
        "store": false,
        "background": false,
        "user": of("user", Value::Null),
    })
}

struct ResponseEncoder {
    request: Value,
    /// The items so far.
    items: Vec<Whole>,
    /// Whether the last one is in progress.
    is_open: bool,
    /// Number of the next event.
    sequence: u64,
    status: Status,
}

/// How far a response is.
#[derive(Default)]
struct Status {
    ended: Option<Reason>,
    usage: Option<Value>,
    error: Option<Problem>,
    remarks: Value,
}

impl ResponseEncoder {
    /// An item of the output.
    fn item(&self, meta: &Meta, index: usize, done: bool) -> Value {
        let status = if done { "completed" } else { "in_progress" };
        let item = &self.items[index];
        let mut value = match item {
            Whole::Text(_) => json!({"type": "message", "role": "assistant"}),
            Whole::Reasoning(_) => json!({"type": "reasoning", "summary": []}),
            Whole::Call { id, name, arguments } => {
                let arguments = if done { arguments.as_str() } else { "" };
                json!({"type": "function_call", "call_id": id, "name": name, "arguments": arguments})
            }
        };
        (value["id"], value["status"]) = (item_id(meta, item, index).into(), status.into());
        if !matches!(item, Whole::Call { .. }) {
            value["content"] = if done { json!([part(item, true)]) } else { json!([]) };
        }
        value
    }

    fn response(&self, served: &ServedModel, meta: &Meta) -> Value {
        let (status, details) = match (&self.status.error, self.status.ended) {
            (Some(_), _) => ("failed", Value::Null),
            (None, None) => ("in_progress", Value::Null),
            (None, Some(Reason::Stop | Reason::Calls)) => ("completed", Value::Null),
            (None, Some(_)) => ("incomplete", json!({"reason": "max_output_tokens"})),
        };
        let error = self.status.error.as_ref();
        let error =
            error.map(|e| json!({"code": e.code.unwrap_or("server_error"), "message": e.message}));
        let output = match self.status.ended {
            Some(_) => (0..self.items.len()).map(|i| self.item(meta, i, true)).collect(),
            None => json!([]),
        };
        let mut response = json!({
            "id": format!("resp_{}", meta.id),
            "object": "response",
            "created_at": meta.created,
            "status": status,
            "error": error,
            "incomplete_details": details,
            "model": served.name,
            "system_fingerprint": served.fingerprint,
            "seed": meta.seed,
            "output": output,
            "usage": self.status.usage,
            "nanoinfer": self.status.remarks,
        });
        if let (Value::Object(response), Value::Object(echoed)) = (&mut response, &self.request) {
            response.extend(echoed.clone());
        }
        response
    }

    /// Writes an event with its type and number.
    fn event(&mut self, id: Option<usize>, name: &str, mut data: Value, out: &mut Vec<u8>) {
        data["type"] = name.into();
        data["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        event(id, Some(name), &data, out);
    }

    /// Writes the events that begin an item. A call has a single one, which gets the id.
    fn begin_item(&mut self, meta: &Meta, id: Option<usize>, item: Whole, out: &mut Vec<u8>) {
        self.end_item(meta, None, out);
        let has_parts = !matches!(item, Whole::Call { .. });
        self.items.push(item);
        self.is_open = true;
        let index = self.items.len() - 1;
        let added = json!({"output_index": index, "item": self.item(meta, index, false)});
        self.event(id, "response.output_item.added", added, out);
        if has_parts {
            let part = json!({"part": part(&self.items[index], false)});
            let part = self.with_place(meta, part);
            self.event(None, "response.content_part.added", part, out);
        }
    }

    /// Writes the events that end the item in progress, of which the last gets the id.
    fn end_item(&mut self, meta: &Meta, id: Option<usize>, out: &mut Vec<u8>) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        let index = self.items.len() - 1;
        let item = &self.items[index];
        let (name, data, has_parts) = match item {
            Whole::Text(text) => {
                ("response.output_text.done", json!({"text": text, "logprobs": []}), true)
            }
            Whole::Reasoning(text) => ("response.reasoning_text.done", json!({"text": text}), true),
            Whole::Call { name, arguments, .. } => {
                let data = json!({"name": name, "arguments": arguments});
                ("response.function_call_arguments.done", data, false)
            }
        };
        let part = json!({"part": part(item, true)});
        let data = self.with_place(meta, data);
        self.event(None, name, data, out);
        if has_parts {
            let part = self.with_place(meta, part);
            self.event(None, "response.content_part.done", part, out);
        }
        let done = json!({"output_index": index, "item": self.item(meta, index, true)});
        self.event(id, "response.output_item.done", done, out);
    }

    /// Writes a part of the answer.
    fn part(&mut self, meta: &Meta, id: Option<usize>, part: &Part, out: &mut Vec<u8>) {
        let last = self.items.last().filter(|_| self.is_open);
        let (name, delta) = match part {
            Part::Text(text) => {
                if !matches!(last, Some(Whole::Text(_))) {
                    self.begin_item(meta, None, Whole::Text(String::new()), out);
                }
                ("response.output_text.delta", json!({"delta": text, "logprobs": []}))
            }
            Part::Reasoning(text) => {
                if !matches!(last, Some(Whole::Reasoning(_))) {
                    self.begin_item(meta, None, Whole::Reasoning(String::new()), out);
                }
                ("response.reasoning_text.delta", json!({"delta": text}))
            }
            Part::Call { id: call, name, .. } => {
                let (call, name, arguments) = (call.clone(), name.clone(), String::new());
                return self.begin_item(meta, id, Whole::Call { id: call, name, arguments }, out);
            }
            Part::Arguments { text, .. } => {
                ("response.function_call_arguments.delta", json!({"delta": text}))
            }
            Part::CallEnd { .. } => return self.end_item(meta, id, out),
        };
        parts::fold(&mut self.items, part.clone());
        let delta = self.with_place(meta, delta);
        self.event(id, name, delta, out);
    }

    /// `data` with the place of the last item, and of its only part if it has one.
    fn with_place(&self, meta: &Meta, mut data: Value) -> Value {
        let index = self.items.len() - 1;
        let item = &self.items[index];
        data["item_id"] = item_id(meta, item, index).into();
        data["output_index"] = index.into();
        if !matches!(item, Whole::Call { .. }) {
            data["content_index"] = 0.into();
        }
        data
    }

    fn finish(&mut self, served: &ServedModel, meta: &Meta, end: &End) {
        let mut totals = Totals::default();
        totals.add(0, 1, &end.stats);
        self.status.ended = Some(end.reason);
        self.status.usage = Some(usage(&totals));
        self.status.remarks = remarks(served, meta, &end.stats, end.reason);
    }
}

fn item_id(meta: &Meta, item: &Whole, index: usize) -> String {
    let kind = match item {
        Whole::Text(_) => "msg",
        Whole::Reasoning(_) => "rs",
        Whole::Call { .. } => "fc",
    };
    format!("{kind}_{}_{index}", meta.id)
}

/// The only part of an item, before or after its text.
fn part(item: &Whole, done: bool) -> Value {
    let shown = |text: &str| if done { text.to_owned() } else { String::new() };
    match item {
        Whole::Text(text) => {
            let text = shown(text);
            json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
        }
        Whole::Reasoning(text) => json!({"type": "reasoning_text", "text": shown(text)}),
        Whole::Call { .. } => Value::Null,
    }
}

fn usage(totals: &Totals) -> Value {
    json!({
        "input_tokens": totals.prompt,
        "input_tokens_details": {"cached_tokens": totals.cached},
        "output_tokens": totals.generated,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": totals.prompt + totals.generated,
    })
}

impl Encoder for ResponseEncoder {
    fn begin(&mut self, served: &ServedModel, meta: &Meta, out: &mut Vec<u8>) {
        for name in ["response.created", "response.in_progress"] {
            let data = json!({"response": self.response(served, meta)});
            self.event(None, name, data, out);
        }
    }

    fn update(&mut self, served: &ServedModel, meta: &Meta, update: &Update, out: &mut Vec<u8>) {
        match update {
            Update::Prefill { done, total } => self.alive(&format!("prefill {done}/{total}"), out),
            Update::Prompt { .. } => {} // of completions only
            Update::Chunk(chunk) => {
                for (i, part) in chunk.parts.iter().enumerate() {
                    let is_last = i + 1 == chunk.parts.len();
                    self.part(meta, is_last.then_some(chunk.count), part, out);
                }
            }
            Update::End(end) => {
                if self.items.is_empty() {
                    self.begin_item(meta, None, Whole::Text(String::new()), out);
                }
                self.end_item(meta, None, out);
                self.finish(served, meta, end);
            }
            Update::Failed(problem) => {
                self.status.error = Some(problem.clone());
                let data = json!({"response": self.response(served, meta)});
                self.event(None, "response.failed", data, out);
            }
        }
    }

    fn end(&mut self, served: &ServedModel, meta: &Meta, out: &mut Vec<u8>) {
        let name = match self.status.ended {
            Some(Reason::Stop | Reason::Calls) => "response.completed",
            _ => "response.incomplete",
        };
        let data = json!({"response": self.response(served, meta)});
        self.event(None, name, data, out);
    }

    fn whole(&mut self, served: &ServedModel, meta: &Meta, answers: Vec<Answer>) -> Value {
        for answer in answers {
            let Answer { parts, reason, stop, stats, .. } = answer;
            self.items = parts;
            if self.items.is_empty() {
                self.items.push(Whole::Text(String::new()));
            }
            self.finish(served, meta, &End { choice: 0, reason, stop, stats });
        }
        self.response(served, meta)
    }
}
