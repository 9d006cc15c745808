//! Embeddings: OpenAI's `/v1/embeddings`, and Ollama's `/api/embed` and `/api/embeddings`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nanoinfer_engine::{Pooling, PromptOutput, PromptValues};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::call::{Reading, Write, to_json};
use super::{fields, inputs, unsupported};
use crate::core::ask::Prompt;
use crate::core::model::ServedModel;
use crate::core::read::Read;
use crate::problem::Problem;

/// Maximum number of inputs.
pub(crate) const MAX_INPUTS: usize = 2048;
/// Fields that would change the vectors.
const UNSUPPORTED: [&str; 5] =
    ["input_type", "prompt_name", "task", "truncate_prompt_tokens", "late_chunking"];
const NOTE: &str = "this model was made to generate text, not for embeddings: expect worse results than from a \
                    model for embeddings";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EmbeddingFields {
    encoding_format: Option<String>,
    dimensions: Option<u64>,
    pooling: Option<String>,
    truncate: Option<bool>,
    prompt: Option<String>,
}

/// How to make vectors.
#[derive(Clone, Copy)]
struct Form {
    pooling: Pooling,
    dimensions: usize,
    /// Whether what does not fit into the context is cut off.
    truncates: bool,
}

impl Form {
    fn read(own: &EmbeddingFields, served: &ServedModel) -> Result<Self, Problem> {
        let most = served.model.config().d_model as usize;
        let dimensions = match own.dimensions {
            None => most,
            Some(n) => {
                usize::try_from(n).ok().filter(|n| (1..=most).contains(n)).ok_or_else(|| {
                    Problem::field("dimensions", format!("expected a number from 1 to {most}"))
                })?
            }
        };
        let pooling = match own.pooling.as_deref() {
            None | Some("last") => Pooling::Last,
            Some("mean") => Pooling::Mean,
            Some(_) => return Err(Problem::field("pooling", "expected last or mean")),
        };
        Ok(Self { pooling, dimensions, truncates: own.truncate.unwrap_or(false) })
    }

    fn reading(
        self,
        (name, inputs): (&str, Vec<Prompt>),
        served: &ServedModel,
        write: Write,
    ) -> Result<Reading, Problem> {
        let is_list = inputs.len() > 1;
        let tokens = |(i, input)| {
            let name = if is_list { format!("{name}[{i}]") } else { name.to_owned() };
            self.tokens(served, input, name)
        };
        let prompts = inputs.into_iter().enumerate().map(tokens).collect::<Result<_, _>>()?;
        Ok(Reading { prompts, output: PromptOutput::Hidden(self.pooling), write })
    }

    /// The tokens of an input. Texts get what the tokenizer puts around them.
    fn tokens(
        self,
        served: &ServedModel,
        input: Prompt,
        name: String,
    ) -> Result<Vec<u32>, Problem> {
        let (mut ids, suffix) = match input {
            Prompt::Text { text, .. } if text.is_empty() => (Vec::new(), Vec::new()),
            Prompt::Text { text, .. } => {
                let suffix = served.model.tokenizer().map(|tokenizer| tokenizer.suffix());
                (served.encode(&text, true, false)?, suffix.map_err(|e| Problem::engine(&e))?)
            }
            Prompt::Tokens(ids) => (ids, Vec::new()),
            Prompt::Chat(_) | Prompt::Infill { .. } => (Vec::new(), Vec::new()),
        };
        let room = served.ctx.saturating_sub(suffix.len());
        if self.truncates {
            ids.truncate(room);
        }
        match ids.len() {
            0 => Err(Problem::field(name, "is empty")),
            n if n > room => {
                let problem = Problem::context(n + suffix.len(), served.ctx);
                Err(Problem { param: Some(name), ..problem })
            }
            _ => Ok([ids, suffix].concat()),
        }
    }

    /// What only this server says.
    fn remarks(self, served: &ServedModel) -> Value {
        let pooling = if self.pooling == Pooling::Mean { "mean" } else { "last" };
        let mut remarks = json!({"pooling": pooling});
        if !served.is_named("embed") {
            remarks["note"] = NOTE.into();
        }
        remarks
    }

    /// The first values of the pooled hidden state, scaled to length 1.
    fn vector(self, read: &Read) -> Vec<f32> {
        let PromptValues::Hidden(values) = &read.values else { return Vec::new() };
        unit(&values[..self.dimensions.min(values.len())])
    }
}

/// Scales a vector to length 1.
fn unit(values: &[f32]) -> Vec<f32> {
    let squares: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let scale = if squares > 0.0 { 1.0 / squares.sqrt() } else { 0.0 };
    values.iter().map(|&x| (f64::from(x) * scale) as f32).collect()
}

/// A vector as OpenAI's API shows it.
#[derive(Serialize)]
#[serde(untagged)]
enum Shown {
    Floats(Vec<f32>),
    /// Of little-endian floats.
    Base64(String),
}

#[derive(Serialize)]
struct Item {
    object: &'static str,
    index: usize,
    embedding: Shown,
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    model: &'a str,
    data: Vec<Item>,
    usage: Value,
    nanoinfer: Value,
}

/// `/v1/embeddings`.
pub(crate) fn openai(body: &Value, served: &ServedModel) -> Result<Reading, Problem> {
    unsupported::refuse(body, &UNSUPPORTED)?;
    let own: EmbeddingFields = fields::read(body)?;
    let form = Form::read(&own, served)?;
    let is_base64 = match own.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(Problem::field("encoding_format", "expected float or base64")),
    };
    let inputs = inputs::read((body, "input"), (MAX_INPUTS, false), served)?;
    let write: Write = Box::new(move |served, all| {
        let shown = |(index, read): (usize, &Read)| {
            let vector = form.vector(read);
            let embedding =
                if is_base64 { Shown::Base64(base64(&vector)) } else { Shown::Floats(vector) };
            Item { object: "embedding", index, embedding }
        };
        let tokens = tokens(&all);
        to_json(&List {
            object: "list",
            model: &served.name,
            data: all.iter().enumerate().map(shown).collect(),
            usage: json!({"prompt_tokens": tokens, "total_tokens": tokens}),
            nanoinfer: form.remarks(served),
        })
    });
    form.reading(("input", inputs), served, write)
}

/// Makes a vector of what was read of a prompt.
pub(crate) type Vector = Box<dyn Fn(&Read) -> Vec<f32> + Send>;

/// The prompts of a request in the form of `/v1/embeddings`, with what makes their vectors.
pub(crate) fn vectors(body: &Value, served: &ServedModel) -> Result<(Reading, Vector), Problem> {
    let own: EmbeddingFields = fields::read(body)?;
    let form = Form::read(&own, served)?;
    Ok((openai(body, served)?, Box::new(move |read| form.vector(read))))
}

/// Number of tokens of all prompts.
pub(crate) fn tokens(all: &[Read]) -> usize {
    all.iter().map(|read| read.stats.prompt_tokens).sum()
}

/// Nanoseconds until the last prompt was read.
fn duration(all: &[Read]) -> u64 {
    all.iter().map(|read| read.stats.prefill.as_nanos() as u64).max().unwrap_or(0)
}

/// `/api/embed`.
pub(crate) fn ollama(body: &Value, served: &ServedModel) -> Result<Reading, Problem> {
    let own: EmbeddingFields = fields::read(body)?;
    let form = Form::read(&own, served)?;
    // Without an input, clients only want the model to be loaded.
    let inputs = match body.get("input") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) if text.is_empty() => Vec::new(),
        Some(Value::Array(list)) if list.is_empty() => Vec::new(),
        Some(_) => inputs::read((body, "input"), (MAX_INPUTS, false), served)?,
    };
    #[derive(Serialize)]
    struct Embedded<'a> {
        model: &'a str,
        embeddings: Vec<Vec<f32>>,
        total_duration: u64,
        load_duration: u64,
        prompt_eval_count: usize,
        nanoinfer: Value,
    }
    let write: Write = Box::new(move |served, all| {
        to_json(&Embedded {
            model: &served.name,
            embeddings: all.iter().map(|read| form.vector(read)).collect(),
            total_duration: duration(&all),
            load_duration: 0,
            prompt_eval_count: tokens(&all),
            nanoinfer: form.remarks(served),
        })
    });
    form.reading(("input", inputs), served, write)
}

/// `/api/embeddings`, the older form for one text.
pub(crate) fn ollama_one(body: &Value, served: &ServedModel) -> Result<Reading, Problem> {
    let own: EmbeddingFields = fields::read(body)?;
    let form = Form::read(&own, served)?;
    let prompt = own.prompt.filter(|prompt| !prompt.is_empty());
    let inputs = prompt.map(|text| Prompt::Text { text, specials: false });
    #[derive(Serialize)]
    struct Embedded {
        embedding: Vec<f32>,
        nanoinfer: Value,
    }
    let write: Write = Box::new(move |served, all| {
        let embedding = all.first().map(|read| form.vector(read)).unwrap_or_default();
        to_json(&Embedded { embedding, nanoinfer: form.remarks(served) })
    });
    form.reading(("prompt", inputs.into_iter().collect()), served, write)
}

/// Little-endian floats in base64.
fn base64(values: &[f32]) -> String {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}
