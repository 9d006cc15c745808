//! OpenAI's responses: `/v1/responses`. Nothing is stored, so no response can be continued by its id.

use nanoinfer_engine::Message;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Call, Encoder, Meta, event};
use super::fields::{self, Fields};
use super::usage::{Totals, remarks};
use super::{messages, unsupported};
use crate::core::answer::{Answer, End, Reason, Update};
use crate::core::ask::{Ask, Prompt};
use crate::core::model::ServedModel;
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
    unsupported::check(body, &["tools"])?;
    let (common, own) = (Fields::read(body)?, fields::read::<ResponseFields>(body)?);
    let unsupported = |name: &str| {
        Err(Problem::field(name, "is not supported by this server").code("unsupported_parameter"))
    };
    let tools = body.get("tools").and_then(Value::as_array);
    // Tools that run elsewhere than at the client do not exist here, so the model is not told of them.
    if tools.is_some_and(|tools| tools.iter().any(|tool| tool["type"] == "function")) {
        return unsupported("tools");
    }
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
    let format = own.text.as_ref().and_then(|text| text.get("format"));
    if format.is_some_and(|format| !format.is_null() && format["type"] != "text") {
        return unsupported("text.format");
    }
    let mut conversation = Vec::new();
    conversation.extend(own.instructions.as_ref().map(|text| Message::new("system", text)));
    conversation.extend(input(body)?);
    let options = common.options(served)?;
    Ok(Call {
        ask: Ask { prompts: vec![Prompt::Chat(conversation)], n: 1, options },
        stream: common.stream.unwrap_or(false),
        encoder: Box::new(ResponseEncoder {
            request: echoed(body),
            text: String::new(),
            sequence: 0,
            begun: false,
            status: Status::default(),
        }),
    })
}

/// The items of the input that are messages. Reasoning of earlier answers is not shown to the model.
fn input(body: &Value) -> Result<Vec<Message>, Problem> {
    let items = match body.get("input") {
        Some(Value::String(text)) => return Ok(vec![Message::new("user", text)]),
        Some(Value::Array(items)) if !items.is_empty() => items,
        _ => return Err(Problem::field("input", "expected a text or a list of items")),
    };
    let mut found = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let at = format!("input[{i}]");
        match item.get("type").and_then(Value::as_str) {
            None | Some("message") => found.push(messages::message(item, &at)?),
            Some("reasoning") => {}
            Some(kind) => {
                let what = format!("items of type {kind:?} are not supported by this server");
                return Err(Problem::field(at, what).code("unsupported_parameter"));
            }
        }
    }
    Ok(found)
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
        "tool_choice": "auto",
        "tools": [],
        "text": {"format": {"type": "text"}},
        "truncation": "disabled",
        "reasoning": {"effort": null, "summary": null},
        "previous_response_id": null,
        "store": false,
        "background": false,
        "user": of("user", Value::Null),
    })
}

struct ResponseEncoder {
    request: Value,
    text: String,
    /// Number of the next event.
    sequence: u64,
    begun: bool,
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
    fn item(&self, meta: &Meta, done: bool) -> Value {
        let (status, content) = match done {
            true => ("completed", json!([self.part(&self.text)])),
            false => ("in_progress", json!([])),
        };
        let id = item_id(meta);
        json!({"type": "message", "id": id, "status": status, "role": "assistant", "content": content})
    }

    fn part(&self, text: &str) -> Value {
        json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
    }

    fn response(&self, served: &ServedModel, meta: &Meta) -> Value {
        let (status, details) = match (&self.status.error, self.status.ended) {
            (Some(_), _) => ("failed", Value::Null),
            (None, None) => ("in_progress", Value::Null),
            (None, Some(Reason::Stop)) => ("completed", Value::Null),
            (None, Some(_)) => ("incomplete", json!({"reason": "max_output_tokens"})),
        };
        let error = self.status.error.as_ref();
        let error =
            error.map(|e| json!({"code": e.code.unwrap_or("server_error"), "message": e.message}));
        let output = match self.status.ended {
            Some(_) => json!([self.item(meta, true)]),
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

    /// Writes the events before the first text.
    fn begin_item(&mut self, meta: &Meta, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let item = json!({"output_index": 0, "item": self.item(meta, false)});
        self.event(None, "response.output_item.added", item, out);
        let part = with_place(meta, json!({"part": self.part("")}));
        self.event(None, "response.content_part.added", part, out);
    }

    fn finish(&mut self, served: &ServedModel, meta: &Meta, end: &End) {
        let mut totals = Totals::default();
        totals.add(0, 1, &end.stats);
        self.status.ended = Some(end.reason);
        self.status.usage = Some(usage(&totals));
        self.status.remarks = remarks(served, meta, &end.stats, end.reason);
    }
}

fn item_id(meta: &Meta) -> String {
    format!("msg_{}", meta.id)
}

/// `data` with the place of the only part of the only item.
fn with_place(meta: &Meta, mut data: Value) -> Value {
    data["item_id"] = item_id(meta).into();
    (data["output_index"], data["content_index"]) = (0.into(), 0.into());
    data
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
            Update::Chunk(chunk) => {
                self.begin_item(meta, out);
                self.text.push_str(&chunk.text);
                let delta = with_place(meta, json!({"delta": chunk.text, "logprobs": []}));
                self.event(Some(chunk.count), "response.output_text.delta", delta, out);
            }
            Update::End(end) => {
                self.begin_item(meta, out);
                let text = with_place(meta, json!({"text": self.text, "logprobs": []}));
                self.event(None, "response.output_text.done", text, out);
                let part = with_place(meta, json!({"part": self.part(&self.text)}));
                self.event(None, "response.content_part.done", part, out);
                let item = json!({"output_index": 0, "item": self.item(meta, true)});
                self.event(None, "response.output_item.done", item, out);
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
            Some(Reason::Stop) => "response.completed",
            _ => "response.incomplete",
        };
        let data = json!({"response": self.response(served, meta)});
        self.event(None, name, data, out);
    }

    fn whole(&mut self, served: &ServedModel, meta: &Meta, answers: Vec<Answer>) -> Value {
        for answer in answers {
            let Answer { text, reason, stop, stats, .. } = answer;
            self.text = text;
            self.finish(served, meta, &End { choice: 0, reason, stop, stats });
        }
        self.response(served, meta)
    }
}
