//! Ollama's `/api/chat` and `/api/generate`, and what its clients want to know about models.

use std::time::Duration;

use nanoinfer_engine::{Message, Stats};
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Call, Encoder, Meta};
use super::fields::{self, Fields};
use super::openai_chat::finish_reason;
use super::problems::Form;
use super::{messages, structure, unsupported};
use crate::core::answer::{Answer, Chunk, End, Reason, Update};
use crate::core::ask::{Ask, AskOptions, Chat, Prompt};
use crate::core::model::ServedModel;
use crate::core::parts::{self, Part, Whole};
use crate::problem::Problem;

/// The version of Ollama whose API this is; clients compare it.
pub(crate) const VERSION: &str = "0.12.6";

/// Seconds that stand for no end: a hundred years.
const FOREVER: u64 = 100 * 365 * 86_400;
/// The last second of the year 9999.
const LATEST: u64 = 253_402_300_799;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OllamaFields {
    stream: Option<bool>,
    prompt: Option<String>,
    suffix: Option<String>,
    system: Option<String>,
    template: Option<String>,
    context: Option<Vec<u32>>,
    raw: Option<bool>,
}

/// `/api/chat`.
pub(crate) fn chat(body: &Value, served: &ServedModel) -> Result<Call, Problem> {
    unsupported::check(body, &messages::TEMPLATE)?;
    let own: OllamaFields = fields::read(body)?;
    let chat = with_thinking(messages::chat(body)?, body)?;
    call((body, served), Prompt::Chat(Box::new(chat)), own.stream, true)
}

/// `/api/generate`.
pub(crate) fn generate(body: &Value, served: &ServedModel) -> Result<Call, Problem> {
    unsupported::check(body, &["raw", "chat_template_kwargs"])?;
    let own: OllamaFields = fields::read(body)?;
    for (name, is_given) in [
        ("template", own.template.is_some_and(|template| !template.is_empty())),
        ("context", own.context.is_some_and(|context| !context.is_empty())),
    ] {
        if is_given {
            return Err(Problem::field(name, "is not supported by this server"));
        }
    }
    let prompt = own.prompt.unwrap_or_default();
    let prompt = match (own.suffix.filter(|suffix| !suffix.is_empty()), own.raw.unwrap_or(false)) {
        (Some(suffix), _) => Prompt::Infill { prefix: prompt, suffix },
        // The client writes the template itself.
        (None, true) => Prompt::Text { text: prompt, specials: true },
        (None, false) => {
            let system = own.system.map(|text| Message::new("system", text));
            let messages = system.into_iter().chain([Message::new("user", prompt)]).collect();
            let variables = messages::variables(body)?;
            let chat = Chat { messages, variables, ..Chat::default() };
            Prompt::Chat(Box::new(with_thinking(chat, body)?))
        }
    };
    call((body, served), prompt, own.stream, false)
}

/// Switches the model's reasoning on or off.
fn with_thinking(mut chat: Chat, body: &Value) -> Result<Chat, Problem> {
    match body.get("think") {
        None | Some(Value::Null) => {}
        Some(Value::Bool(thinks)) => {
            messages::set(&mut chat.variables, "enable_thinking", thinks.to_string());
        }
        effort @ Some(Value::String(_)) => messages::set_effort(&mut chat.variables, effort),
        Some(_) => return Err(Problem::field("think", "expected true, false or an effort")),
    }
    Ok(chat)
}

fn call(
    (body, served): (&Value, &ServedModel),
    prompt: Prompt,
    stream: Option<bool>,
    is_chat: bool,
) -> Result<Call, Problem> {
    let options = match body.get("options") {
        None | Some(Value::Null) => Fields::default(),
        Some(options) => {
            unsupported::check(options, &[])?;
            Fields::read(options)?
        }
    };
    let options = AskOptions { structure: structure::read(body)?, ..options.options(served)? };
    Ok(Call {
        ask: Ask { prompts: vec![prompt], n: 1, options },
        stream: stream.unwrap_or(true),
        encoder: Box::new(OllamaEncoder { is_chat, calls: Vec::new() }),
    })
}

/// The entry of a loaded model, which is unloaded after `idle` without requests.
pub(crate) fn loaded(served: &ServedModel, now: u64, idle: Option<Duration>) -> Value {
    let mut entry = model(served);
    let left = idle.map_or(FOREVER, |idle| idle.as_secs());
    entry["expires_at"] = time(now.saturating_add(left).min(LATEST)).into();
    entry["size"] = served.memory.into();
    entry["size_vram"] = 0.into();
    entry["context_length"] = served.ctx.into();
    entry
}

/// The entry of a model in lists.
pub(crate) fn model(served: &ServedModel) -> Value {
    let (config, file) = (served.model.config(), served.model.file());
    let digest: String = file.header().content_id.iter().map(|b| format!("{b:02x}")).collect();
    json!({
        "name": served.name,
        "model": served.name,
        "modified_at": time(served.created),
        "size": file.header().file_len,
        "digest": digest,
        "details": {
            "parent_model": "",
            "format": "nano",
            "family": config.architecture,
            "families": [config.architecture],
            "parameter_size": "",
            "quantization_level": config.quant.name(),
        },
    })
}

/// `/api/show`.
pub(crate) fn show(_body: &Value, served: &ServedModel) -> Result<Value, Problem> {
    let family = &served.model.config().architecture;
    let mut about = model(served);
    about["model_info"] = json!({
        "general.architecture": family,
        format!("{family}.context_length"): served.ctx,
    });
    let format = served.format();
    let mut capabilities = vec!["completion"];
    capabilities.extend(format.calls().map(|_| "tools"));
    capabilities.extend(format.has_reasoning().then_some("thinking"));
    capabilities.extend(served.is_named("embed").then_some("embedding"));
    about["capabilities"] = json!(capabilities);
    Ok(about)
}

struct OllamaEncoder {
    is_chat: bool,
    /// Calls in progress: they are sent as a whole.
    calls: Vec<Whole>,
}

/// What a line shows.
#[derive(Default)]
struct Shown {
    thinking: String,
    text: String,
    calls: Vec<Value>,
}

impl Shown {
    fn add(&mut self, part: &Whole) {
        match part {
            Whole::Reasoning(text) => self.thinking.push_str(text),
            Whole::Text(text) => self.text.push_str(text),
            Whole::Call { name, arguments, .. } => {
                // A call that was cut off has no arguments in this API.
                if let Ok(arguments @ Value::Object(_)) = serde_json::from_str(arguments) {
                    let function = json!({"name": name, "arguments": arguments});
                    self.calls.push(json!({"function": function}));
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.thinking.is_empty() && self.text.is_empty() && self.calls.is_empty()
    }
}

impl OllamaEncoder {
    /// What the parts of a token show; `None` if nothing yet.
    fn shown(&mut self, chunk: &Chunk) -> Option<Shown> {
        let mut shown = Shown::default();
        for part in &chunk.parts {
            match part {
                Part::Reasoning(text) => shown.thinking.push_str(text),
                Part::Text(text) => shown.text.push_str(text),
                Part::CallEnd { .. } => self.calls.drain(..).for_each(|call| shown.add(&call)),
                part => parts::fold(&mut self.calls, part.clone()),
            }
        }
        (!shown.is_empty()).then_some(shown)
    }

    fn object(&self, served: &ServedModel, meta: &Meta, shown: Shown, end: Option<&End>) -> Value {
        let mut object = json!({
            "model": served.name,
            "created_at": time(meta.created),
            "done": end.is_some(),
        });
        let Shown { thinking, text, calls } = shown;
        let mut message = json!({"role": "assistant", "content": text});
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        if !thinking.is_empty() {
            message["thinking"] = thinking.into();
        }
        match self.is_chat {
            true => object["message"] = message,
            false => {
                object["response"] = message["content"].take();
                if let Some(thinking) = message.get_mut("thinking") {
                    object["thinking"] = thinking.take();
                }
            }
        }
        if let Some(end) = end {
            let Stats { prefill, first_token, decode, .. } = end.stats;
            object["done_reason"] = match end.reason {
                Reason::Calls => "stop",
                reason => finish_reason(reason),
            }
            .into();
            object["total_duration"] = ((first_token + decode).as_nanos() as u64).into();
            object["load_duration"] = 0.into();
            object["prompt_eval_count"] = end.stats.prompt_tokens.into();
            object["prompt_eval_duration"] = (prefill.as_nanos() as u64).into();
            object["eval_count"] = end.stats.generated.into();
            object["eval_duration"] = (decode.as_nanos() as u64).into();
            object["seed"] = meta.seed.into();
        }
        object
    }
}

fn line(object: &Value, out: &mut Vec<u8>) {
    out.extend_from_slice(object.to_string().as_bytes());
    out.push(b'\n');
}

impl Encoder for OllamaEncoder {
    fn media_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn update(&mut self, served: &ServedModel, meta: &Meta, update: &Update, out: &mut Vec<u8>) {
        match update {
            Update::Prefill { .. } | Update::Prompt { .. } => {}
            Update::Chunk(chunk) => {
                if let Some(shown) = self.shown(chunk) {
                    line(&self.object(served, meta, shown, None), out);
                }
            }
            Update::End(end) => {
                line(&self.object(served, meta, Shown::default(), Some(end)), out);
            }
            Update::Failed(problem) => line(&Form::Ollama.body(problem), out),
        }
    }

    fn end(&mut self, _served: &ServedModel, _meta: &Meta, _out: &mut Vec<u8>) {}

    /// Lines of JSON have no comments.
    fn alive(&self, _note: &str, _out: &mut Vec<u8>) {}

    fn whole(&mut self, served: &ServedModel, meta: &Meta, answers: Vec<Answer>) -> Value {
        let Answer { parts, reason, stop, stats, .. } =
            answers.into_iter().next().unwrap_or_default();
        let mut shown = Shown::default();
        parts.iter().for_each(|part| shown.add(part));
        self.object(served, meta, shown, Some(&End { choice: 0, reason, stop, stats }))
    }
}

/// A time in RFC 3339, from seconds since 1970.
fn time(unix: u64) -> String {
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    // Howard Hinnant's algorithm: years begin in March, so that leap days are at their end.
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * shifted + 2) / 5 + 1, (shifted + 2) % 12 + 1);
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_962_645, "2026-11-29T14:30:45Z"),
            (LATEST, "9999-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(time(unix), text);
        }
    }
}
