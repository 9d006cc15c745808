//! OpenAI's chat completions: `/v1/chat/completions`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::call::{Call, Encoder, Meta, event};
use super::fields::{self, Fields, StreamOptions};
use super::problems::Form;
use super::usage::{Totals, Usage, remarks};
use super::{messages, unsupported};
use crate::core::answer::{Answer, Reason, Update};
use crate::core::ask::{Ask, Prompt};
use crate::core::model::ServedModel;
use crate::problem::Problem;
use crate::runner::Logprobs;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ChatFields {
    logprobs: Option<bool>,
    top_logprobs: Option<u64>,
}

pub(crate) fn parse(body: &Value, served: &ServedModel) -> Result<Call, Problem> {
    unsupported::check(body, &[])?;
    let (common, chat) = (Fields::read(body)?, fields::read::<ChatFields>(body)?);
    let mut options = common.options(served)?;
    let top = chat.top_logprobs.map(|n| fields::top_logprobs("top_logprobs", n)).transpose()?;
    options.logprobs = match (chat.logprobs.unwrap_or(false), top) {
        (true, top) => Some(top.unwrap_or(0)),
        (false, None | Some(0)) => None,
        (false, Some(_)) => return Err(Problem::field("top_logprobs", "requires logprobs: true")),
    };
    let n = common.choices(1)?;
    Ok(Call {
        ask: Ask { prompts: vec![Prompt::Chat(messages::read(body)?)], n, options },
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
    choices: &'a [ChunkChoice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nanoinfer: Option<Value>,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: usize,
    delta: Delta<'a>,
    logprobs: Option<Value>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

impl ChatEncoder {
    fn chunk<'a>(
        &self,
        (served, meta): (&'a ServedModel, &'a Meta),
        choices: &'a [ChunkChoice<'a>],
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
            Update::Chunk(new) => {
                let delta = Delta { role: self.role(new.choice), content: Some(&new.text) };
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
                let delta = Delta { role: self.role(end.choice), content: None };
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
                "message": {"role": "assistant", "content": answer.text, "refusal": null},
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

/// The name of a reason in OpenAI's APIs.
pub(crate) fn finish_reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Stop => "stop",
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
