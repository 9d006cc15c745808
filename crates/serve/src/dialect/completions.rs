//! OpenAI's completions of raw prompts: `/v1/completions`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Call, Encoder, Meta, event};
use super::fields::{self, Fields, MAX_CHOICES, StreamOptions};
use super::openai_chat::finish_reason;
use super::problems::Form;
use super::usage::{Totals, remarks};
use super::{structure, unsupported};
use crate::core::answer::{Answer, Update};
use crate::core::ask::{Ask, Prompt};
use crate::core::model::ServedModel;
use crate::problem::Problem;
use crate::runner::Logprobs;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CompletionFields {
    suffix: Option<String>,
    echo: Option<bool>,
    logprobs: Option<u64>,
    best_of: Option<u64>,
    parse_special: Option<bool>,
}

pub(crate) fn parse(body: &Value, served: &ServedModel) -> Result<Call, Problem> {
    unsupported::check(body, &[])?;
    let (common, own) = (Fields::read(body)?, fields::read::<CompletionFields>(body)?);
    let mut options = common.options(served)?;
    // As in OpenAI's API, whose answers are short unless a length is given.
    options.max_tokens = match (common.max_tokens, common.max_completion_tokens) {
        (None, None) => Some(16),
        _ => options.max_tokens,
    };
    options.structure = structure::read(body)?;
    options.logprobs = own.logprobs.map(|n| fields::top_logprobs("logprobs", n)).transpose()?;
    let prompts = prompts(body, served, own.parse_special.unwrap_or(false))?;
    let n = common.choices(prompts.len())?;
    if own.best_of.is_some_and(|best| best != n as u64) {
        return Err(Problem::field("best_of", "is not supported by this server; use n"));
    }
    let echoed = match own.echo.unwrap_or(false) {
        true if options.logprobs.is_some() => {
            let what = "log-probabilities of the prompt are not supported by this server";
            return Err(Problem::field("echo", what));
        }
        true => prompts.iter().map(|prompt| shown(served, prompt)).collect(),
        false => vec![String::new(); prompts.len()],
    };
    let prompts = match own.suffix.filter(|suffix| !suffix.is_empty()) {
        Some(suffix) => with_suffix(prompts, &suffix)?,
        None => prompts,
    };
    let encoder = CompletionEncoder {
        stream: common.stream_options.unwrap_or_default(),
        n,
        echoed,
        offsets: vec![0; prompts.len() * n],
        totals: Totals::default(),
    };
    Ok(Call {
        ask: Ask { prompts, n, options },
        stream: common.stream.unwrap_or(false),
        encoder: Box::new(encoder),
    })
}

/// One or more texts, or lists of tokens.
fn prompts(body: &Value, served: &ServedModel, specials: bool) -> Result<Vec<Prompt>, Problem> {
    let expected = "expected a text, a list of tokens, or a list of these";
    let bad = |at: &str| Problem::field(at, expected);
    let text = |text: &str| Prompt::Text { text: text.to_owned(), specials };
    let vocab = served.model.config().vocab_size;
    let ids = |list: &[Value], at: &str| {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = list.iter().map(id).collect::<Option<Vec<u32>>>().ok_or_else(|| bad(at))?;
        fields::tokens(at, Some(&ids), vocab).map(Prompt::Tokens)
    };
    let list = match body.get("prompt") {
        Some(Value::String(one)) => return Ok(vec![text(one)]),
        Some(Value::Array(list)) if list.first().is_some_and(Value::is_number) => {
            return Ok(vec![ids(list, "prompt")?]);
        }
        Some(Value::Array(list)) if (1..=MAX_CHOICES).contains(&list.len()) => list,
        _ => return Err(bad("prompt")),
    };
    let one = |(i, value): (usize, &Value)| {
        let at = format!("prompt[{i}]");
        match value {
            Value::String(one) => Ok(text(one)),
            Value::Array(list) => ids(list, &at),
            _ => Err(bad(&at)),
        }
    };
    list.iter().enumerate().map(one).collect()
}

fn with_suffix(prompts: Vec<Prompt>, suffix: &str) -> Result<Vec<Prompt>, Problem> {
    let one = |prompt| match prompt {
        Prompt::Text { text: prefix, .. } => {
            Ok(Prompt::Infill { prefix, suffix: suffix.to_owned() })
        }
        _ => Err(Problem::field("suffix", "requires a prompt that is a text")),
    };
    prompts.into_iter().map(one).collect()
}

/// A prompt's text.
fn shown(served: &ServedModel, prompt: &Prompt) -> String {
    match prompt {
        Prompt::Text { text, .. } => text.clone(),
        Prompt::Tokens(ids) => served.decode(ids),
        Prompt::Chat(_) | Prompt::Infill { .. } => String::new(),
    }
}

struct CompletionEncoder {
    stream: StreamOptions,
    /// Answers to each prompt.
    n: usize,
    /// The text before each prompt's answers.
    echoed: Vec<String>,
    /// Characters of text so far of each choice.
    offsets: Vec<usize>,
    totals: Totals,
}

impl CompletionEncoder {
    fn object(&self, served: &ServedModel, meta: &Meta, choices: Value) -> Value {
        json!({
            "id": meta.id,
            "object": "text_completion",
            "created": meta.created,
            "model": served.name,
            "system_fingerprint": served.fingerprint,
            "seed": meta.seed,
            "choices": choices,
        })
    }

    /// The echoed text, before the first text of a choice.
    fn echo(&mut self, choice: usize) -> String {
        let echoed = &self.echoed[choice / self.n];
        let text = if self.offsets[choice] == 0 { echoed.clone() } else { String::new() };
        self.offsets[choice] += text.chars().count();
        text
    }

    fn includes_usage(&self) -> bool {
        self.stream.include_usage.unwrap_or(false)
    }
}

impl Encoder for CompletionEncoder {
    fn update(&mut self, served: &ServedModel, meta: &Meta, update: &Update, out: &mut Vec<u8>) {
        let (id, choice, remarks) = match update {
            Update::Prefill { done, total } => {
                return self.alive(&format!("prefill {done}/{total}"), out);
            }
            Update::Failed(problem) => return event(None, None, &Form::OpenAi.body(problem), out),
            Update::Chunk(new) => {
                let added = new.text();
                let text = self.echo(new.choice) + &added;
                let offset = &mut self.offsets[new.choice];
                let logprobs = new.token.as_ref().map(|t| logprobs(served, [t], *offset));
                *offset += added.chars().count();
                let choice = json!({"index": new.choice, "text": text, "logprobs": logprobs, "finish_reason": null});
                (new.count, choice, None)
            }
            Update::End(end) => {
                self.totals.add(end.choice, self.n, &end.stats);
                let (text, reason) = (self.echo(end.choice), finish_reason(end.reason));
                let choice = json!({"index": end.choice, "text": text, "logprobs": null, "finish_reason": reason});
                (end.stats.generated, choice, Some(remarks(served, meta, &end.stats, end.reason)))
            }
        };
        let mut object = self.object(served, meta, json!([choice]));
        if let Some(remarks) = remarks {
            object["nanoinfer"] = remarks;
        }
        if self.includes_usage() {
            object["usage"] = Value::Null;
        }
        event(meta.resumable.then_some(id), None, &object, out);
    }

    fn end(&mut self, served: &ServedModel, meta: &Meta, out: &mut Vec<u8>) {
        if self.includes_usage() {
            let mut object = self.object(served, meta, json!([]));
            object["usage"] = json!(self.totals.usage());
            event(None, None, &object, out);
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn whole(&mut self, served: &ServedModel, meta: &Meta, answers: Vec<Answer>) -> Value {
        let choices = answers.iter().enumerate().map(|(index, answer)| {
            let echoed = self.echo(index);
            let logprobs = match &answer.tokens[..] {
                [] => Value::Null,
                tokens => logprobs(served, tokens, echoed.chars().count()),
            };
            let (text, finish_reason) = (echoed + &answer.text(), finish_reason(answer.reason));
            json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason})
        });
        let choices = choices.collect();
        let mut object = self.object(served, meta, choices);
        object["usage"] = json!(Totals::of(&answers, self.n).usage());
        object["nanoinfer"] =
            answers.first().map(|a| remarks(served, meta, &a.stats, a.reason)).into();
        object
    }
}

fn logprobs<'a>(
    served: &ServedModel,
    tokens: impl IntoIterator<Item = &'a (u32, Logprobs)>,
    mut offset: usize,
) -> Value {
    let (mut texts, mut values, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
    for (id, logprobs) in tokens {
        let text = served.token(*id).0;
        let top = logprobs.top.iter().map(|t| (served.token(t.id).0, t.logprob));
        tops.push(top.map(|(text, logprob)| (text, Value::from(logprob))).collect::<Value>());
        values.push(logprobs.token);
        offsets.push(offset);
        offset += text.chars().count();
        texts.push(text);
    }
    json!({"tokens": texts, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets})
}
