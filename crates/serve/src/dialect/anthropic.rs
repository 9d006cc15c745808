//! Anthropic's messages: `/v1/messages` and `/v1/messages/count_tokens`.

use nanoinfer_engine::{Message, Stats};
use nanoinfer_text::ToolCall;
use serde_json::{Value, json};

use super::call::{Call, Encoder, Meta, comment, event};
use super::fields::Fields;
use super::problems::Form;
use super::{messages, structure, tools, unsupported};
use crate::core::answer::{Answer, Reason, Update};
use crate::core::ask::{Ask, Chat, Prompt, ToolChoice, Toolbox};
use crate::core::model::ServedModel;
use crate::core::parts::{Part, Whole};
use crate::core::prepare::{self, Caller};
use crate::problem::Problem;

/// A line that one client puts before its instructions. It changes with every request, and nothing after it
/// would be found in the cache.
const BILLING: &str = "x-anthropic-billing-header:";

/// The fields that this API reads besides the common ones.
const OWN: [&str; 3] = messages::TEMPLATE;

pub(crate) fn parse(body: &Value, served: &ServedModel) -> Result<Call, Problem> {
    unsupported::check(body, &OWN)?;
    let common = Fields::read(body)?;
    let mut options = common.options(served)?;
    if common.max_tokens.is_none() {
        return Err(Problem::field("max_tokens", "is required"));
    }
    let format = body.get("output_config").and_then(|config| config.get("format"));
    options.structure = match format {
        None => structure::read(body)?,
        format => structure::nested(format, "output_config.format")?,
    };
    options.max_reasoning = reasoning_budget(body)?;
    Ok(Call {
        ask: Ask { prompts: vec![Prompt::Chat(Box::new(conversation(body)?))], n: 1, options },
        stream: common.stream.unwrap_or(false),
        encoder: Box::new(MessageEncoder::default()),
    })
}

/// The maximum number of tokens of reasoning, if `thinking` has one.
fn reasoning_budget(body: &Value) -> Result<Option<usize>, Problem> {
    let budget = body.get("thinking").and_then(|thinking| thinking.get("budget_tokens"));
    let count = |budget: &Value| {
        let count = budget.as_u64().and_then(|n| usize::try_from(n).ok());
        count.ok_or_else(|| Problem::field("thinking.budget_tokens", "expected a number of tokens"))
    };
    budget.filter(|budget| !budget.is_null()).map(count).transpose()
}

/// The number of tokens that a conversation has.
pub(crate) fn count_tokens(
    body: &Value,
    served: &ServedModel,
    caller: Caller,
) -> Result<Value, Problem> {
    unsupported::check(body, &OWN)?;
    let count = prepare::encode_chat(served, &conversation(body)?, caller)?.len();
    Ok(json!({"input_tokens": count}))
}

fn conversation(body: &Value) -> Result<Chat, Problem> {
    let mut conversation = Vec::new();
    if let Some(system) = body.get("system").filter(|system| !system.is_null()) {
        let text = text(system, "system")?;
        conversation.extend((!text.is_empty()).then(|| Message::new("system", text)));
    }
    let messages = body.get("messages").and_then(Value::as_array).filter(|list| !list.is_empty());
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
        read_message(role, content, &at, &mut conversation)?;
    }
    let mut variables = messages::variables(body)?;
    if let Some(kind) = body.get("thinking").and_then(|t| t.get("type")).and_then(Value::as_str) {
        let thinks = (kind != "disabled").to_string();
        messages::set(&mut variables, "enable_thinking", thinks);
    }
    Ok(Chat { messages: conversation, toolbox: toolbox(body)?, variables })
}

/// The tools that run at the client. The model is not told of others, which do not exist here.
fn toolbox(body: &Value) -> Result<Option<Toolbox>, Problem> {
    let mut found = Vec::new();
    for (i, tool) in tools::list(body)?.iter().enumerate() {
        if matches!(tool.get("type").and_then(Value::as_str), None | Some("custom")) {
            found.push(tools::function_tool(tool, "input_schema", &format!("tools[{i}]"))?);
        }
    }
    let given = body.get("tool_choice").filter(|choice| !choice.is_null());
    let member = |name: &str| given.and_then(|choice| choice.get(name));
    let choice = match (given, member("type").and_then(Value::as_str)) {
        (None, _) | (_, Some("auto")) => Some(ToolChoice::Auto),
        (_, Some("none")) => None,
        (_, Some("any")) => Some(ToolChoice::Required),
        (_, Some("tool")) => {
            let name = member("name").and_then(Value::as_str);
            let name = name.ok_or_else(|| Problem::field("tool_choice.name", "expected a name"))?;
            Some(ToolChoice::Named(name.to_owned()))
        }
        _ => return Err(Problem::field("tool_choice", "expected auto, any, tool or none")),
    };
    let single = member("disable_parallel_tool_use").and_then(Value::as_bool).unwrap_or(false);
    tools::with_choice(found, choice, !single)
}

/// Reads a message, whose blocks may be several messages of a chat template.
fn read_message(
    role: &str,
    content: &Value,
    at: &str,
    out: &mut Vec<Message>,
) -> Result<(), Problem> {
    let Value::Array(blocks) = content else {
        out.push(Message::new(role, text(content, at)?));
        return Ok(());
    };
    let (mut message, mut texts) = (Message::new(role, ""), Vec::new());
    let before = out.len();
    for (i, block) in blocks.iter().enumerate() {
        let at = format!("{at}[{i}]");
        let member = |name: &str| block.get(name).and_then(Value::as_str);
        match member("type") {
            Some("thinking") if role == "assistant" => {
                let thinking = member("thinking").filter(|text| !text.is_empty());
                message.reasoning_content = thinking.map(str::to_owned);
            }
            Some("tool_use") if role == "assistant" => {
                let name = member("name");
                let name = name.ok_or_else(|| Problem::field(&*at, "a call without a name"))?;
                let input = block.get("input").filter(|input| !input.is_null());
                message.tool_calls.push(ToolCall {
                    id: member("id").map(str::to_owned),
                    name: name.to_owned(),
                    arguments: input.map(Value::to_string).unwrap_or_default(),
                });
            }
            Some("tool_result") if role == "user" => {
                let content = match block.get("content") {
                    None | Some(Value::Null) => String::new(),
                    Some(content) => text(content, &format!("{at}.content"))?,
                };
                let mut result = Message::new("tool", content);
                result.tool_call_id = member("tool_use_id").map(str::to_owned);
                out.push(result);
            }
            _ => texts.extend(block_text(block, &at)?),
        }
    }
    texts.retain(|text| !text.is_empty());
    message.content = texts.join("\n\n").into();
    // Results alone are no message of the user.
    if out.len() == before || !texts.is_empty() {
        out.push(message);
    }
    Ok(())
}

/// The text of a string or of blocks.
fn text(content: &Value, at: &str) -> Result<String, Problem> {
    let blocks = match content {
        Value::String(text) => return Ok(without_billing(text).to_owned()),
        Value::Array(blocks) => blocks,
        _ => return Err(Problem::field(at, "expected a string or a list of blocks")),
    };
    let mut texts = Vec::new();
    for (i, block) in blocks.iter().enumerate() {
        texts.extend(block_text(block, &format!("{at}[{i}]"))?);
    }
    texts.retain(|text| !text.is_empty());
    Ok(texts.join("\n\n"))
}

fn block_text<'b>(block: &'b Value, at: &str) -> Result<Option<&'b str>, Problem> {
    let kind = block.get("type").and_then(Value::as_str);
    match (kind, block.get("text").and_then(Value::as_str)) {
        (Some("text"), Some(text)) => Ok(Some(without_billing(text))),
        (Some("thinking" | "redacted_thinking"), _) => Ok(None),
        (kind, _) => {
            let kind = kind.unwrap_or("unknown");
            let what = format!("blocks of type {kind:?} are not supported by this server");
            Err(Problem::field(at, what))
        }
    }
}

fn without_billing(text: &str) -> &str {
    match text.starts_with(BILLING) {
        true => text.split_once('\n').map_or("", |(_, rest)| rest.trim_start_matches('\n')),
        false => text,
    }
}

#[derive(Default)]
struct MessageEncoder {
    /// The kind of the block in progress.
    open: Option<BlockKind>,
    /// Number of blocks that have begun.
    blocks: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BlockKind {
    Text,
    Thinking,
    Call,
}

impl MessageEncoder {
    fn begin_block(
        &mut self,
        id: Option<usize>,
        (kind, block): (BlockKind, Value),
        out: &mut Vec<u8>,
    ) {
        self.end_block(None, out);
        let data = json!({"index": self.blocks, "content_block": block});
        named(id, "content_block_start", data, out);
        self.open = Some(kind);
        self.blocks += 1;
    }

    fn end_block(&mut self, id: Option<usize>, out: &mut Vec<u8>) {
        if self.open.take().is_some() {
            named(id, "content_block_stop", json!({"index": self.blocks - 1}), out);
        }
    }

    /// Writes a part of an answer. Only the last event of a token has an id.
    fn part(&mut self, id: Option<usize>, part: &Part, out: &mut Vec<u8>) {
        let delta = match part {
            Part::Text(text) => {
                if self.open != Some(BlockKind::Text) {
                    self.begin_block(None, empty_text(), out);
                }
                json!({"type": "text_delta", "text": text})
            }
            Part::Reasoning(text) => {
                if self.open != Some(BlockKind::Thinking) {
                    let block = json!({"type": "thinking", "thinking": "", "signature": ""});
                    self.begin_block(None, (BlockKind::Thinking, block), out);
                }
                json!({"type": "thinking_delta", "thinking": text})
            }
            Part::Call { id: call, name, .. } => {
                let block = json!({"type": "tool_use", "id": call, "name": name, "input": {}});
                return self.begin_block(id, (BlockKind::Call, block), out);
            }
            Part::Arguments { text, .. } => {
                json!({"type": "input_json_delta", "partial_json": text})
            }
            Part::CallEnd { .. } => return self.end_block(id, out),
        };
        let data = json!({"index": self.blocks.saturating_sub(1), "delta": delta});
        named(id, "content_block_delta", data, out);
    }
}

/// A block of text that begins.
fn empty_text() -> (BlockKind, Value) {
    (BlockKind::Text, json!({"type": "text", "text": ""}))
}

/// The blocks of a whole answer.
fn content(parts: &[Whole]) -> Value {
    let block = |part: &Whole| match part {
        Whole::Text(text) => json!({"type": "text", "text": text}),
        Whole::Reasoning(text) => json!({"type": "thinking", "thinking": text, "signature": ""}),
        Whole::Call { id, name, arguments } => {
            let input: Value = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
            json!({"type": "tool_use", "id": id, "name": name, "input": input})
        }
    };
    match parts {
        [] => json!([{"type": "text", "text": ""}]),
        parts => parts.iter().map(block).collect(),
    }
}

/// Writes an event whose data repeats its name.
fn named(id: Option<usize>, name: &str, mut data: Value, out: &mut Vec<u8>) {
    data["type"] = name.into();
    event(id, Some(name), &data, out);
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
        (Reason::Calls, _) => "tool_use",
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
        named(None, "message_start", json!({"message": message}), out);
    }

    fn update(&mut self, _served: &ServedModel, _meta: &Meta, update: &Update, out: &mut Vec<u8>) {
        match update {
            Update::Prefill { done, total } => comment(&format!("prefill {done}/{total}"), out),
            Update::Prompt { .. } => {} // of completions only
            Update::Chunk(chunk) => {
                for (i, part) in chunk.parts.iter().enumerate() {
                    let is_last = i + 1 == chunk.parts.len();
                    self.part(is_last.then_some(chunk.count), part, out);
                }
            }
            Update::End(end) => {
                if self.blocks == 0 {
                    self.begin_block(None, empty_text(), out);
                }
                self.end_block(None, out);
                let (reason, stop) = ended(end.reason, end.stop.as_deref());
                let delta = json!({"stop_reason": reason, "stop_sequence": stop});
                let data = json!({"delta": delta, "usage": usage(&end.stats)});
                named(None, "message_delta", data, out);
            }
            Update::Failed(problem) => {
                event(None, Some("error"), &Form::Anthropic.body(problem), out);
            }
        }
    }

    fn end(&mut self, _served: &ServedModel, _meta: &Meta, out: &mut Vec<u8>) {
        named(None, "message_stop", json!({}), out);
    }

    /// A ping, which is this API's own sign of life.
    fn alive(&self, note: &str, out: &mut Vec<u8>) {
        comment(note, out);
        named(None, "ping", json!({}), out);
    }

    fn whole(&mut self, served: &ServedModel, meta: &Meta, answers: Vec<Answer>) -> Value {
        let answer = answers.into_iter().next().unwrap_or_default();
        let end = ended(answer.reason, answer.stop.as_deref());
        message(served, meta, content(&answer.parts), end, usage(&answer.stats))
    }
}
