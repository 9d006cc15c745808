//! llama.cpp's `/infill`, which editors use to complete code.

use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Call, Encoder, Meta, event};
use super::fields::{self, Fields};
use super::problems::Form;
use super::{structure, unsupported};
use crate::core::answer::{Answer, End, Reason, Update};
use crate::core::ask::{Ask, AskOptions, Prompt};
use crate::core::model::ServedModel;
use crate::problem::Problem;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InfillFields {
    input_prefix: Option<String>,
    input_suffix: Option<String>,
    input_extra: Option<Vec<Value>>,
    prompt: Option<String>,
}

pub(crate) fn parse(body: &Value, served: &ServedModel) -> Result<Call, Problem> {
    unsupported::check(body, &[])?;
    let (common, own) = (Fields::read(body)?, fields::read::<InfillFields>(body)?);
    for (name, is_given) in [
        ("input_extra", own.input_extra.is_some_and(|extra| !extra.is_empty())),
        ("prompt", own.prompt.is_some_and(|prompt| !prompt.is_empty())),
    ] {
        if is_given {
            return Err(Problem::field(name, "is not supported by this server"));
        }
    }
    let (prefix, suffix) =
        (own.input_prefix.unwrap_or_default(), own.input_suffix.unwrap_or_default());
    Ok(Call {
        ask: Ask {
            prompts: vec![Prompt::Infill { prefix, suffix }],
            n: 1,
            options: AskOptions { structure: structure::read(body)?, ..common.options(served)? },
        },
        stream: common.stream.unwrap_or(false),
        encoder: Box::new(InfillEncoder),
    })
}

struct InfillEncoder;

fn object(served: &ServedModel, meta: &Meta, text: &str, end: &End) -> Value {
    let stop = match (end.reason, &end.stop) {
        (Reason::Stop, Some(_)) => "word",
        (Reason::Stop, None) => "eos",
        _ => "limit",
    };
    json!({
        "content": text,
        "stop": true,
        "model": served.name,
        "stop_type": stop,
        "stopping_word": end.stop.as_deref().unwrap_or_default(),
        "tokens_predicted": end.stats.generated,
        "tokens_evaluated": end.stats.prompt_tokens,
        "tokens_cached": end.stats.reused_tokens,
        "truncated": false,
        "seed": meta.seed,
    })
}

impl Encoder for InfillEncoder {
    fn update(&mut self, served: &ServedModel, meta: &Meta, update: &Update, out: &mut Vec<u8>) {
        match update {
            Update::Prefill { done, total } => self.alive(&format!("prefill {done}/{total}"), out),
            Update::Prompt { .. } => {} // of completions only
            Update::Chunk(chunk) => {
                let data = json!({"content": chunk.text(), "stop": false});
                event(Some(chunk.count), None, &data, out);
            }
            Update::End(end) => event(None, None, &object(served, meta, "", end), out),
            Update::Failed(problem) => event(None, None, &Form::OpenAi.body(problem), out),
        }
    }

    fn end(&mut self, _served: &ServedModel, _meta: &Meta, _out: &mut Vec<u8>) {}

    fn whole(&mut self, served: &ServedModel, meta: &Meta, answers: Vec<Answer>) -> Value {
        let answer = answers.into_iter().next().unwrap_or_default();
        let text = answer.text();
        let Answer { reason, stop, stats, .. } = answer;
        object(served, meta, &text, &End { choice: 0, reason, stop, stats })
    }
}
