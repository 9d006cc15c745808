//! OpenAI's chat completions: `/v1/chat/completions`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::call::{Call, Encoder, Meta, event};
use super::fields::{self, Fields, StreamOptions};
use super::problems::Form;
use super::usage::{Totals, Usage, remarks};
use super::{messages, structure, unsupported};
use crate::core::answer::{Answer, Reason, Update};
use crate::core::ask::{Ask, Prompt};
use crate::core::model::ServedModel;
use crate::core::parts::{Part, Whole};
use crate::problem::Problem;
use crate::runner::Logprobs;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ChatFields {
    logprobs: Option<bool>,
    top_logprobs: Option<u64>,
}

pub(crate) fn parse(body: &Value, served: &ServedModel) -> Result<Call, Problem> {
    unsupported::check(body, &messages::TEMPLATE)?;
    let (common, chat) = (Fields::read(body)?, fields::read::<ChatFields>(body)?);
    let mut options = common.options(served)?;
    let top = chat.top_logprobs.map(|n| fields::top_logprobs("top_logprobs", n)).transpose()?;
    options.logprobs = match (chat.logprobs.unwrap_or(false), top) {
        (true, top) => Some(top.unwrap_or(0)),
        (false, None | Some(0)) => None,
        (false, Some(_)) => return Err(Problem::field("top_logprobs", "requires logprobs: true")),
    };
    options.structure = structure::read(body)?;
    let n = common.choices(1)?;
    let chat = messages::chat(body)?;
    Ok(Call {
        ask: Ask { prompts: vec![Prompt::Chat(Box::new(chat))], n, options },
        stream: common.stream.unwrap_or(false),
        encoder: Box::new(ChatEncoder {
            stream: common.stream_options.unwrap_or_default(),
            begun: vec![false; n],
            totals: Totals::default(),
        }),
    })
}

struct ChatEncoder {
    stream: StreamOptions,
    /// Which choices have said their role.
    begun: Vec<bool>,
    totals: Totals,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    seed: u64,
    choices: &'a [ChunkChoice],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nanoinfer: Option<Value>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<Value>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Value>,
}

impl Delta {
    /// All that a token adds is one delta, so that a stream can be resumed after it.
    fn new(parts: &[Part]) -> Self {
        let mut delta = Self::default();
        for part in parts {
            match part {
                Part::Reasoning(text) => {
                    delta.reasoning_content.get_or_insert_default().push_str(text);
                }
                Part::Text(text) => delta.content.get_or_insert_default().push_str(text),
                Part::Call { index, id, name } => delta.tool_calls.push(json!({
                    "index": index,
                    "id": id,
                    "type": "function",
                    "function": {"name": name, "arguments": ""},
                })),
                Part::Arguments { index, text } => match delta.tool_calls.last_mut() {
                    Some(last) if last["index"] == *index => {
                        let all = last["function"]["arguments"].as_str().unwrap_or_default();
                        last["function"]["arguments"] = (all.to_owned() + text).into();
                    }
                    _ => delta.tool_calls.push(json!({
                        "index": index,
                        "function": {"arguments": text},
                    })),
                },
                Part::CallEnd { .. } => {}
            }
        }
        delta
    }

    fn is_empty(&self) -> bool {
        let Self { reasoning_content, content, tool_calls, .. } = self;
        reasoning_content.is_none() && content.is_none() && tool_calls.is_empty()
    }
}

impl ChatEncoder {
    fn chunk<'a>(
        &self,
        (served, meta): (&'a ServedModel, &'a Meta),
        choices: &'a [ChunkChoice],
    ) -> Chunk<'a> {
        Chunk {
            id: &meta.id,
            object: "chat.completion.chunk",
            created: meta.created,
            model: &served.name,
            system_fingerprint: &served.fingerprint,
            seed: meta.seed,
            choices,
            usage: self.stream.include_usage.unwrap_or(false).then_some(None),
            nanoinfer: None,
        }
    }

    /// The role, unless the choice has said it.
    fn role(&mut self, choice: usize) -> Option<&'static str> {
        (!std::mem::replace(&mut self.begun[choice], true)).then_some("assistant")
    }
}

impl Encoder for ChatEncoder {
    fn update(&mut self, served: &ServedModel, meta: &Meta, update: &Update, out: &mut Vec<u8>) {
        let at = (served, meta);
        let usage_so_far = self.stream.continuous_usage_stats.unwrap_or(false);
        match update {
            Update::Prefill { done, total } => self.alive(&format!("prefill {done}/{total}"), out),
            Update::Prompt { .. } => {} // of completions only
            Update::Chunk(new) => {
                let mut delta = Delta::new(&new.parts);
                if delta.is_empty() {
                    if new.token.is_none() {
                        return;
                    }
                    delta.content = Some(String::new());
                }
                delta.role = self.role(new.choice);
                let logprobs = new.token.as_ref().map(|token| logprobs(served, [token]));
                let choice =
                    ChunkChoice { index: new.choice, delta, logprobs, finish_reason: None };
                let choices = [choice];
                let mut chunk = self.chunk(at, &choices);
                if usage_so_far {
                    let prompt = meta.prompts[new.choice];
                    let so_far = Totals { prompt, generated: new.count, cached: 0 };
                    chunk.usage = Some(Some(so_far.usage()));
                }
                event(meta.resumable.then_some(new.count), None, &chunk, out);
            }
            Update::End(end) => {
                self.totals.add(end.choice, self.begun.len(), &end.stats);
                let delta = Delta { role: self.role(end.choice), ..Delta::default() };
                let finish_reason = Some(finish_reason(end.reason));
                let choice =
                    ChunkChoice { index: end.choice, delta, logprobs: None, finish_reason };
                let choices = [choice];
                let mut chunk = self.chunk(at, &choices);
                chunk.nanoinfer = Some(remarks(served, meta, &end.stats, end.reason));
                event(meta.resumable.then_some(end.stats.generated), None, &chunk, out);
            }
            Update::Failed(problem) => event(None, None, &Form::OpenAi.body(problem), out),
        }
    }

    fn end(&mut self, served: &ServedModel, meta: &Meta, out: &mut Vec<u8>) {
        if self.stream.include_usage.unwrap_or(false) {
            let mut chunk = self.chunk((served, meta), &[]);
            chunk.usage = Some(Some(self.totals.usage()));
            event(None, None, &chunk, out);
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn whole(&mut self, served: &ServedModel, meta: &Meta, answers: Vec<Answer>) -> Value {
        let choices = answers.iter().enumerate().map(|(index, answer)| {
            let logprobs = match &answer.tokens[..] {
                [] => Value::Null,
                tokens => logprobs(served, tokens),
            };
            json!({
                "index": index,
                "message": message(answer),
                "logprobs": logprobs,
                "finish_reason": finish_reason(answer.reason),
            })
        });
        let choices: Vec<Value> = choices.collect();
        json!({
            "id": meta.id,
            "object": "chat.completion",
            "created": meta.created,
            "model": served.name,
            "system_fingerprint": served.fingerprint,
            "seed": meta.seed,
            "choices": choices,
            "usage": Totals::of(&answers, answers.len()).usage(),
            "nanoinfer": answers.first().map(|a| remarks(served, meta, &a.stats, a.reason)),
        })
    }
}

/// A whole answer as a message.
fn message(answer: &Answer) -> Value {
    let (mut reasoning, mut text, mut calls) = (String::new(), None, Vec::new());
    for part in &answer.parts {
        match part {
            Whole::Reasoning(more) => reasoning.push_str(more),
            Whole::Text(more) => text.get_or_insert_with(String::new).push_str(more),
            Whole::Call { id, name, arguments } => calls.push(json!({
                "id": id,
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            })),
        }
    }
    if calls.is_empty() {
        text.get_or_insert_default();
    }
    let mut message = json!({"role": "assistant", "content": text, "refusal": null});
    if !reasoning.is_empty() {
        message["reasoning_content"] = reasoning.into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    message
}

/// The name of a reason in OpenAI's APIs.
pub(crate) fn finish_reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Stop => "stop",
        Reason::Calls => "tool_calls",
        Reason::Length | Reason::Context | Reason::Time => "length",
    }
}

fn logprobs<'a>(
    served: &ServedModel,
    tokens: impl IntoIterator<Item = &'a (u32, Logprobs)>,
) -> Value {
    let entry = |id: u32, logprob: f32| {
        let (token, bytes) = served.token(id);
        json!({"token": token, "logprob": logprob, "bytes": bytes})
    };
    let content = tokens.into_iter().map(|(id, logprobs)| {
        let mut content = entry(*id, logprobs.token);
        let top = logprobs.top.iter().map(|top| entry(top.id, top.logprob));
        content["top_logprobs"] = top.collect();
        content
    });
    json!({"content": content.collect::<Value>(), "refusal": null})
}
