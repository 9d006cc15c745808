//! The options that the APIs have in common.

use std::collections::BTreeMap;

use nanoinfer_engine::{Class, MAX_TOP_LOGPROBS};
use serde::Deserialize;
use serde_json::Value;

use crate::core::ask::AskOptions;
use crate::core::model::ServedModel;
use crate::problem::Problem;

/// Maximum number of answers to a request.
pub(crate) const MAX_CHOICES: usize = 128;
/// Maximum number of stop strings, and of bytes in one.
const MAX_STOPS: (usize, usize) = (64, 4096);
/// Maximum number of tokens with a bias.
const MAX_BIASES: usize = 4096;

/// Reads an object, with the path of the value that does not fit.
pub(crate) fn read<'de, T: Deserialize<'de>>(body: &'de Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(body).map_err(|error| {
        let (path, what) = (error.path().to_string(), error.inner().to_string());
        match path.as_str() {
            "." => Problem::new(crate::problem::Kind::Invalid, format!("the request: {what}")),
            _ => Problem::field(path, what),
        }
    })
}

/// A string or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// Options under the names that OpenAI, vLLM and llama.cpp use.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Fields {
    pub(crate) n: Option<u64>,
    pub(crate) stream: Option<bool>,
    pub(crate) stream_options: Option<StreamOptions>,
    #[serde(alias = "max_output_tokens", alias = "num_predict", alias = "n_predict")]
    pub(crate) max_tokens: Option<i64>,
    pub(crate) max_completion_tokens: Option<i64>,
    temperature: Option<f64>,
    top_k: Option<i64>,
    top_p: Option<f64>,
    min_p: Option<f64>,
    #[serde(alias = "repeat_penalty")]
    repetition_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    seed: Option<i128>,
    #[serde(alias = "stop_sequences")]
    stop: Option<OneOrMore>,
    stop_token_ids: Option<Vec<u32>>,
    ignore_eos: Option<bool>,
    logit_bias: Option<BTreeMap<String, f64>>,
    service_tier: Option<String>,
}

/// What a stream contains besides the answers.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StreamOptions {
    pub(crate) include_usage: Option<bool>,
    pub(crate) continuous_usage_stats: Option<bool>,
}

impl Fields {
    pub(crate) fn read(body: &Value) -> Result<Self, Problem> {
        read(body)
    }

    /// The number of answers to each of `prompts` prompts.
    pub(crate) fn choices(&self, prompts: usize) -> Result<usize, Problem> {
        let n = self.n.unwrap_or(1);
        let most = (MAX_CHOICES / prompts.max(1)) as u64;
        if (1..=most).contains(&n) {
            return Ok(n as usize);
        }
        Err(Problem::field("n", format!("expected a number from 1 to {most}")))
    }

    /// The options of an answer.
    pub(crate) fn options(&self, served: &ServedModel) -> Result<AskOptions, Problem> {
        let vocab = served.model.config().vocab_size;
        let max_tokens = match (self.max_completion_tokens, self.max_tokens) {
            (Some(n), _) => limit("max_completion_tokens", n)?,
            (None, Some(n)) => limit("max_tokens", n)?,
            (None, None) => None,
        };
        let top_k = self.top_k.map(|k| {
            let bad = || Problem::field("top_k", "expected a number of tokens, or -1 for all");
            if k == -1 { Ok(0) } else { usize::try_from(k).map_err(|_| bad()) }
        });
        Ok(AskOptions {
            max_tokens,
            temperature: number("temperature", self.temperature, 0.0, 100.0)?,
            top_k: top_k.transpose()?,
            top_p: number("top_p", self.top_p, 0.0, 1.0)?,
            min_p: number("min_p", self.min_p, 0.0, 1.0)?,
            repetition_penalty: number("repetition_penalty", self.repetition_penalty, 0.01, 100.0)?,
            presence_penalty: number("presence_penalty", self.presence_penalty, -100.0, 100.0)?,
            frequency_penalty: number("frequency_penalty", self.frequency_penalty, -100.0, 100.0)?,
            seed: self.seed.map(seed).transpose()?.flatten(),
            stop: stops("stop", self.stop.clone())?,
            stop_tokens: tokens("stop_token_ids", self.stop_token_ids.as_deref(), vocab)?,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            logit_bias: biases(self.logit_bias.as_ref(), vocab)?,
            logprobs: None,
            prompt_logprobs: false,
            max_reasoning: None,
            class: self.class()?,
            structure: None,
        })
    }

    fn class(&self) -> Result<Option<Class>, Problem> {
        Ok(match self.service_tier.as_deref() {
            None | Some("auto" | "default") => None,
            Some("priority") => Some(Class::Interactive),
            Some("flex") => Some(Class::Background),
            Some(_) => {
                let what = "expected auto, default, priority or flex";
                return Err(Problem::field("service_tier", what));
            }
        })
    }
}

/// A number of tokens; -1 is no limit.
pub(crate) fn limit(name: &str, n: i64) -> Result<Option<usize>, Problem> {
    match n {
        -1 => Ok(None),
        n => usize::try_from(n)
            .map(Some)
            .map_err(|_| Problem::field(name, "expected a number of tokens")),
    }
}

/// A number in a range.
pub(crate) fn number(
    name: &str,
    value: Option<f64>,
    min: f64,
    max: f64,
) -> Result<Option<f32>, Problem> {
    match value {
        Some(value) if !(min..=max).contains(&value) => {
            Err(Problem::field(name, format!("expected a number from {min} to {max}")))
        }
        value => Ok(value.map(|value| value as f32)),
    }
}

/// A seed; -1 is a random one.
pub(crate) fn seed(seed: i128) -> Result<Option<u64>, Problem> {
    match seed {
        -1 => Ok(None),
        seed => u64::try_from(seed).map(Some).map_err(|_| {
            Problem::field("seed", "expected a non-negative integer, or -1 for a random seed")
        }),
    }
}

/// The number of most likely tokens to report.
pub(crate) fn top_logprobs(name: &str, n: u64) -> Result<usize, Problem> {
    match usize::try_from(n) {
        Ok(n) if n <= MAX_TOP_LOGPROBS => Ok(n),
        _ => Err(Problem::field(name, format!("expected a number from 0 to {MAX_TOP_LOGPROBS}"))),
    }
}

pub(crate) fn stops(name: &str, stop: Option<OneOrMore>) -> Result<Vec<String>, Problem> {
    let stops = match stop {
        None => Vec::new(),
        Some(OneOrMore::One(stop)) => vec![stop],
        Some(OneOrMore::More(stops)) => stops,
    };
    if stops.len() > MAX_STOPS.0 || stops.iter().any(|stop| stop.len() > MAX_STOPS.1) {
        let (n, bytes) = MAX_STOPS;
        return Err(Problem::field(
            name,
            format!("expected at most {n} strings of at most {bytes} bytes"),
        ));
    }
    Ok(stops)
}

pub(crate) fn tokens(name: &str, ids: Option<&[u32]>, vocab: u32) -> Result<Vec<u32>, Problem> {
    let ids = ids.unwrap_or_default();
    match ids.iter().find(|&&id| id >= vocab) {
        Some(id) => Err(Problem::field(name, outside(*id, vocab))),
        None => Ok(ids.to_vec()),
    }
}

fn outside(id: u32, vocab: u32) -> String {
    format!("token {id} is not in the vocabulary of {vocab} tokens")
}

fn biases(biases: Option<&BTreeMap<String, f64>>, vocab: u32) -> Result<Vec<(u32, f32)>, Problem> {
    let Some(biases) = biases else { return Ok(Vec::new()) };
    if biases.len() > MAX_BIASES {
        return Err(Problem::field("logit_bias", format!("expected at most {MAX_BIASES} tokens")));
    }
    let bias = |(id, bias): (&String, &f64)| {
        let name = || format!("logit_bias.{id}");
        let token = id.parse::<u32>().map_err(|_| Problem::field(name(), "expected a token id"))?;
        if token >= vocab {
            return Err(Problem::field(name(), outside(token, vocab)));
        }
        if !(-100.0..=100.0).contains(bias) {
            return Err(Problem::field(name(), "expected a number from -100 to 100"));
        }
        Ok((token, *bias as f32))
    };
    biases.iter().map(bias).collect()
}
