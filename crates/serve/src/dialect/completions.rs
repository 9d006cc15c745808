//! OpenAI's completions of raw prompts: `/v1/completions`.

use nanoinfer_engine::{PromptLogprobs, TokenLogprob};
use nanoinfer_text::TextStream;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::call::{Call, Encoder, Meta, event};
use super::fields::{self, Fields, MAX_CHOICES, StreamOptions};
use super::openai_chat::finish_reason;
use super::problems::Form;
use super::usage::{Totals, remarks};
use super::{inputs, structure, unsupported};
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
    let specials = own.parse_special.unwrap_or(false);
    let mut prompts = inputs::read((body, "prompt"), (MAX_CHOICES, specials), served)?;
    let n = common.choices(prompts.len())?;
    if own.best_of.is_some_and(|best| best != n as u64) {
        return Err(Problem::field("best_of", "is not supported by this server; use n"));
    }
    let echo = own.echo.unwrap_or(false);
    let suffix = own.suffix.filter(|suffix| !suffix.is_empty());
    options.prompt_logprobs = echo && options.logprobs.is_some();
    if options.prompt_logprobs && suffix.is_some() {
        let what =
            "cannot be combined with suffix and logprobs, since the prompt then has other tokens";
        return Err(Problem::field("echo", what));
    }
    let mut echoed = vec![Echo::default(); prompts.len()];
    if echo {
        for (echo, prompt) in echoed.iter_mut().zip(&mut prompts) {
            *echo = Echo::of(served, prompt, options.prompt_logprobs)?;
        }
    }
    let prompts = match suffix {
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

fn with_suffix(prompts: Vec<Prompt>, suffix: &str) -> Result<Vec<Prompt>, Problem> {
    let one = |prompt| match prompt {
        Prompt::Text { text: prefix, .. } => {
            Ok(Prompt::Infill { prefix, suffix: suffix.to_owned() })
        }
        _ => Err(Problem::field("suffix", "requires a prompt that is a text")),
    };
    prompts.into_iter().map(one).collect()
}

/// The prompt before an answer.
#[derive(Clone, Default)]
struct Echo {
    text: String,
    /// Its tokens, if their log-probabilities are reported.
    tokens: Vec<u32>,
}

impl Echo {
    /// What to show of a prompt; a text becomes tokens if these are reported.
    fn of(served: &ServedModel, prompt: &mut Prompt, reports: bool) -> Result<Self, Problem> {
        let text = match prompt {
            Prompt::Text { text, specials } => {
                let text = std::mem::take(text);
                *prompt = match reports {
                    true => Prompt::Tokens(served.encode(&text, true, *specials)?),
                    false => Prompt::Text { text: text.clone(), specials: *specials },
                };
                text
            }
            Prompt::Tokens(ids) => served.decode(ids),
            Prompt::Chat(_) | Prompt::Infill { .. } => String::new(),
        };
        let tokens = match prompt {
            Prompt::Tokens(ids) if reports => ids.clone(),
            _ => Vec::new(),
        };
        Ok(Self { text, tokens })
    }

    /// The number of characters before each token. Tokens that the text does not show, such as the one that
    /// begins every prompt, are at its beginning.
    fn offsets(&self, served: &ServedModel) -> Vec<usize> {
        let Some(vocab) = served.model.vocab() else { return vec![0; self.tokens.len()] };
        let (mut stream, mut at) = (TextStream::new(&vocab.table(), false), 0);
        let mut offsets = Vec::with_capacity(self.tokens.len());
        for &id in &self.tokens {
            offsets.push(at);
            at += stream.push(&vocab, id).chars().count();
        }
        at += stream.finish().chars().count();
        let shown = self.text.chars().count();
        let hidden = at.saturating_sub(shown);
        offsets.into_iter().map(|at| at.saturating_sub(hidden).min(shown)).collect()
    }
}

struct CompletionEncoder {
    stream: StreamOptions,
    /// Answers to each prompt.
    n: usize,
    /// What precedes each prompt's answers.
    echoed: Vec<Echo>,
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
        let echoed = &self.echoed[choice / self.n].text;
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
            Update::Prompt { choice, logprobs } => {
                let mut columns = Columns::default();
                columns.add_prompt(served, &self.echoed[*choice / self.n], logprobs);
                let text = self.echo(*choice);
                let object = json!({"index": choice, "text": text, "logprobs": columns, "finish_reason": null});
                let mut object = self.object(served, meta, json!([object]));
                if self.includes_usage() {
                    object["usage"] = Value::Null;
                }
                return event(None, None, &object, out);
            }
            Update::Chunk(new) => {
                let added = new.text();
                let text = self.echo(new.choice) + &added;
                let offset = &mut self.offsets[new.choice];
                let logprobs = new.token.as_ref().map(|token| {
                    let mut columns = Columns::default();
                    columns.add(served, [token], *offset);
                    columns
                });
                *offset += match &new.token {
                    Some((id, _)) => served.token(*id).0.chars().count(),
                    None => added.chars().count(),
                };
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
            let mut columns = Columns::default();
            if let Some(prompt) = &answer.prompt {
                columns.add_prompt(served, &self.echoed[index / self.n], prompt);
            }
            columns.add(served, &answer.tokens, echoed.chars().count());
            let logprobs = (!columns.tokens.is_empty()).then_some(columns);
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

/// Log-probabilities of consecutive tokens.
#[derive(Default, Serialize)]
struct Columns {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<Map<String, Value>>>,
    text_offset: Vec<usize>,
}

impl Columns {
    fn push(&mut self, served: &ServedModel, id: u32, logprobs: Option<(f32, &[TokenLogprob])>) {
        self.tokens.push(served.token(id).0);
        self.token_logprobs.push(logprobs.map(|(token, _)| token));
        self.top_logprobs.push(logprobs.map(|(_, top)| {
            let mut texts = Map::new();
            for token in top {
                // Of tokens with the same text, such as parts of characters, the most likely one counts.
                texts.entry(served.token(token.id).0).or_insert_with(|| token.logprob.into());
            }
            texts
        }));
    }

    /// Adds a prompt, whose first token has no probability, since nothing precedes it.
    fn add_prompt(&mut self, served: &ServedModel, echo: &Echo, logprobs: &PromptLogprobs) {
        let logprobs = std::iter::once(None).chain(logprobs.iter().map(Some));
        echo.tokens.iter().zip(logprobs).for_each(|(&id, found)| self.push(served, id, found));
        self.text_offset.extend(echo.offsets(served));
    }

    /// Adds tokens of an answer, the first of which is behind `offset` characters.
    fn add<'a>(
        &mut self,
        served: &ServedModel,
        tokens: impl IntoIterator<Item = &'a (u32, Logprobs)>,
        mut offset: usize,
    ) {
        for (id, logprobs) in tokens {
            self.push(served, *id, Some((logprobs.token, &logprobs.top)));
            self.text_offset.push(offset);
            offset += served.token(*id).0.chars().count();
        }
    }
}
