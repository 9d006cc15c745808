//! Anthropic's messages: `/v1/messages` and `/v1/messages/count_tokens`.

use nanoinfer_engine::{Message, Stats};
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Call, Encoder, Meta, comment, event};
use super::fields::{self, Fields};
use super::problems::Form;
use super::unsupported;
use crate::core::answer::{Answer, Reason, Update};
use crate::core::ask::{Ask, Prompt};
use crate::core::model::ServedModel;
use crate::problem::Problem;

/// A line that one client puts before its instructions. It changes with every request, and nothing after it
/// would be found in the cache.
const BILLING: &str = "x-anthropic-billing-header:";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MessageFields {
    system: Option<Value>,
    messages: Option<Vec<Value>>,
}

pub(crate) fn parse(body: &Value, served: &ServedModel) -> Result<Call, Problem> {
    unsupported::check(body, &["tool_choice"])?;
    let common = Fields::read(body)?;
    let options = common.options(served)?;
    if common.max_tokens.is_none() {
        return Err(Problem::field("max_tokens", "is required"));
    }
    Ok(Call {
        ask: Ask { prompts: vec![Prompt::Chat(conversation(body)?)], n: 1, options },
        stream: common.stream.unwrap_or(false),
        encoder: Box::new(MessageEncoder::default()),
    })
}

/// The number of tokens that a conversation has.
pub(crate) fn count_tokens(body: &Value, served: &ServedModel) -> Result<Value, Problem> {
    unsupported::check(body, &["tool_choice"])?;
    let ids = served.model.encode_chat(&conversation(body)?).map_err(|e| Problem::engine(&e))?;
    Ok(json!({"input_tokens": ids.len()}))
}

fn conversation(body: &Value) -> Result<Vec<Message>, Problem> {
    let own: MessageFields = fields::read(body)?;
    let mut conversation = Vec::new();
    if let Some(system) = own.system.filter(|system| !system.is_null()) {
        let text = text(&system, "system")?;
        conversation.extend((!text.is_empty()).then(|| Message::new("system", text)));
    }
    let messages = own.messages.filter(|messages| !messages.is_empty());
    let messages =
        messages.ok_or_else(|| Problem::field("messages", "expected a list of messages"))?;
    for (i, message) in messages.iter().enumerate() {
        let role = match message.get("role").and_then(Value::as_str) {
            Some(role @ ("user" | "assistant" | "system")) => role,
            _ => {
                let at = format!("messages[{i}].role");
                return Err(Problem::field(at, "expected user or assistant"));
            }
        };
        let at = format!("messages[{i}].content");
        let content = message.get("content").unwrap_or(&Value::Null);
        conversation.push(Message::new(role, text(content, &at)?));
    }
    Ok(conversation)
}

/// The text of a string or of blocks. The model's earlier thoughts are not shown to it again.
fn text(content: &Value, at: &str) -> Result<String, Problem> {
    let blocks = match content {
        Value::String(text) => return Ok(without_billing(text).to_owned()),
        Value::Array(blocks) => blocks,
        _ => return Err(Problem::field(at, "expected a string or a list of blocks")),
    };
    let mut texts = Vec::new();
    for (i, block) in blocks.iter().enumerate() {
        let kind = block.get("type").and_then(Value::as_str);
        match (kind, block.get("text").and_then(Value::as_str)) {
            (Some("text"), Some(text)) => texts.push(without_billing(text)),
            (Some("thinking" | "redacted_thinking"), _) => {}
            (kind, _) => {
                let kind = kind.unwrap_or("unknown");
                let what = format!("blocks of type {kind:?} are not supported by this server");
                return Err(Problem::field(format!("{at}[{i}]"), what));
            }
        }
    }
    texts.retain(|text| !text.is_empty());
    Ok(texts.join("\n\n"))
}

fn without_billing(text: &str) -> &str {
    match text.starts_with(BILLING) {
        true => text.split_once('\n').map_or("", |(_, rest)| rest.trim_start_matches('\n')),
        false => text,
    }
}

#[derive(Default)]
struct MessageEncoder {
    begun: bool,
}

impl MessageEncoder {
    fn begin_block(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.begun, true) {
            let block = json!({"type": "text", "text": ""});
            named("content_block_start", json!({"index": 0, "content_block": block}), out);
        }
    }
}

/// Writes an event whose data repeats its name.
fn named(name: &str, mut data: Value, out: &mut Vec<u8>) {
    data["type"] = name.into();
    event(None, Some(name), &data, out);
}

fn message(
    served: &ServedModel,
    meta: &Meta,
    content: Value,
    end: (Value, Value),
    usage: Value,
) -> Value {
    json!({
        "id": format!("msg_{}", meta.id),
        "type": "message",
        "role": "assistant",
        "model": served.name,
        "content": content,
        "stop_reason": end.0,
        "stop_sequence": end.1,
        "usage": usage,
        "seed": meta.seed,
        "system_fingerprint": served.fingerprint,
    })
}

fn usage(stats: &Stats) -> Value {
    json!({
        "input_tokens": stats.prompt_tokens - stats.reused_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": stats.reused_tokens,
        "output_tokens": stats.generated,
    })
}

/// The reason of the end, and the stop string.
fn ended(reason: Reason, stop: Option<&str>) -> (Value, Value) {
    let name = match (reason, stop) {
        (Reason::Stop, Some(_)) => "stop_sequence",
        (Reason::Stop, None) => "end_turn",
        (Reason::Context, _) => "model_context_window_exceeded",
        (Reason::Length | Reason::Time, _) => "max_tokens",
    };
    (name.into(), stop.into())
}

impl Encoder for MessageEncoder {
    fn begin(&mut self, served: &ServedModel, meta: &Meta, out: &mut Vec<u8>) {
        let stats = Stats { prompt_tokens: meta.prompts[0], ..Stats::default() };
        let none = (Value::Null, Value::Null);
        let message = message(served, meta, json!([]), none, usage(&stats));
        named("message_start", json!({"message": message}), out);
    }

    fn update(&mut self, _served: &ServedModel, _meta: &Meta, update: &Update, out: &mut Vec<u8>) {
        match update {
            Update::Prefill { done, total } => comment(&format!("prefill {done}/{total}"), out),
            Update::Chunk(chunk) => {
                self.begin_block(out);
                let delta = json!({"type": "text_delta", "text": chunk.text});
                let name = "content_block_delta";
                let data = json!({"type": name, "index": 0, "delta": delta});
                event(Some(chunk.count), Some(name), &data, out);
            }
            Update::End(end) => {
                self.begin_block(out);
                named("content_block_stop", json!({"index": 0}), out);
                let (reason, stop) = ended(end.reason, end.stop.as_deref());
                let delta = json!({"stop_reason": reason, "stop_sequence": stop});
                named("message_delta", json!({"delta": delta, "usage": usage(&end.stats)}), out);
            }
            Update::Failed(problem) => {
                event(None, Some("error"), &Form::Anthropic.body(problem), out);
            }
        }
    }

    fn end(&mut self, _served: &ServedModel, _meta: &Meta, out: &mut Vec<u8>) {
        named("message_stop", json!({}), out);
    }

    /// A ping, which is this API's own sign of life.
    fn alive(&self, note: &str, out: &mut Vec<u8>) {
        comment(note, out);
        named("ping", json!({}), out);
    }

    fn whole(&mut self, served: &ServedModel, meta: &Meta, answers: Vec<Answer>) -> Value {
        let answer = answers.into_iter().next().unwrap_or_default();
        let end = ended(answer.reason, answer.stop.as_deref());
        let content = json!([{"type": "text", "text": answer.text}]);
        message(served, meta, content, end, usage(&answer.stats))
    }
}
