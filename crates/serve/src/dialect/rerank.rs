//! Documents in the order of their relevance to a query: `/v1/rerank`, in the form of Jina, Cohere and llama.cpp.
//!
//! A document's score is the probability of `yes` against `no` as the model's answer to whether the document meets the
//! query: what Qwen3-Reranker was trained for, with its wording.

use std::cmp::Reverse;

use nanoinfer_engine::{Message, PromptOutput, PromptValues};
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Reading, Write, to_json};
use super::embeddings::{MAX_INPUTS, tokens};
use super::{fields, messages, unsupported};
use crate::core::ask::Chat;
use crate::core::model::ServedModel;
use crate::core::prepare;
use crate::core::read::Read;
use crate::problem::{Kind, Problem};

const SYSTEM: &str = "Judge whether the Document meets the requirements based on the Query and the Instruct \
                      provided. Note that the answer can only be \"yes\" or \"no\".";
const INSTRUCT: &str = "Given a web search query, retrieve relevant passages that answer the query";
/// Fields that would change the scores.
const UNSUPPORTED: [&str; 5] = [
    "max_chunks_per_doc",
    "max_tokens_per_doc",
    "overlap_tokens",
    "rank_fields",
    "truncate_prompt_tokens",
];
const NOTE: &str = "this model was not made for ranking: its scores are its answers to whether a document meets \
                    the query";

#[derive(Debug, Deserialize)]
struct RerankFields {
    query: String,
    documents: Vec<Document>,
    top_n: Option<u64>,
    return_documents: Option<bool>,
    #[serde(alias = "instruction")]
    instruct: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Document {
    Text(String),
    Object { text: String },
}

impl Document {
    fn text(self) -> String {
        match self {
            Self::Text(text) | Self::Object { text } => text,
        }
    }
}

pub(crate) fn parse(body: &Value, served: &ServedModel) -> Result<Reading, Problem> {
    unsupported::refuse(body, &UNSUPPORTED)?;
    let own: RerankFields = fields::read(body)?;
    let documents: Vec<String> = own.documents.into_iter().map(Document::text).collect();
    if !(1..=MAX_INPUTS).contains(&documents.len()) {
        let what = format!("expected 1 to {MAX_INPUTS} documents");
        return Err(Problem::field("documents", what));
    }
    let top_n = match own.top_n {
        None => documents.len(),
        Some(0) => return Err(Problem::field("top_n", "expected a number of documents")),
        Some(n) => usize::try_from(n).unwrap_or(usize::MAX).min(documents.len()),
    };
    let answers = ["yes", "no"].map(|word| single_token(served, word));
    let [yes, no] = answers;
    let output = PromptOutput::Next(vec![yes?, no?]);
    let instruct = own.instruct.as_deref().unwrap_or(INSTRUCT);
    let prompt = |(i, document): (usize, &String)| {
        let question =
            format!("<Instruct>: {instruct}\n<Query>: {}\n<Document>: {document}", own.query);
        let ids = ask(served, question)?;
        if ids.len() > served.ctx {
            let param = Some(format!("documents[{i}]"));
            return Err(Problem { param, ..Problem::context(ids.len(), served.ctx) });
        }
        Ok(ids)
    };
    let prompts = documents.iter().enumerate().map(prompt).collect::<Result<_, _>>()?;
    let shown = own.return_documents.unwrap_or(false).then_some(documents);
    let write: Write = Box::new(move |served, all| write(served, &all, (top_n, shown.as_deref())));
    Ok(Reading { prompts, output, write })
}

/// The tokens before the model's answer, without reasoning.
fn ask(served: &ServedModel, question: String) -> Result<Vec<u32>, Problem> {
    let messages = vec![Message::new("system", SYSTEM), Message::new("user", question)];
    let mut chat = Chat { messages, ..Chat::default() };
    messages::set(&mut chat.variables, "enable_thinking", "false".into());
    if !served.model.can_chat() {
        return Err(unable("it has no chat template"));
    }
    let request = served.seams.request_chat(&served.model, &prepare::input(served, &chat)?);
    let request = request.map_err(|e| Problem::engine(&e))?;
    let text = request.chat.as_ref().map(|chat| chat.text()).unwrap_or_default();
    if served.format().begins_in_reasoning(text) {
        return Err(unable("its answers always begin with reasoning"));
    }
    Ok(request.prompt)
}

/// The token that is a whole answer.
fn single_token(served: &ServedModel, word: &str) -> Result<u32, Problem> {
    match served.encode(word, false, false)?[..] {
        [id] => Ok(id),
        _ => Err(unable(&format!("its vocabulary has no token for {word:?}"))),
    }
}

fn unable(why: &str) -> Problem {
    let message =
        format!("this model cannot rank documents: {why}; use a model such as Qwen3-Reranker");
    let problem = Problem::new(Kind::Invalid, message).code("model_not_supported");
    Problem { param: Some("model".into()), ..problem }
}

/// The probability of the first of two tokens, given that it is one of them.
fn relevance(read: &Read) -> f32 {
    match &read.values {
        PromptValues::Next(logprobs) => match logprobs[..] {
            [yes, no] => (1.0 / (1.0 + (f64::from(no) - f64::from(yes)).exp())) as f32,
            _ => 0.0,
        },
        _ => 0.0,
    }
}

fn write(
    served: &ServedModel,
    all: &[Read],
    (top_n, documents): (usize, Option<&[String]>),
) -> Vec<u8> {
    let mut order: Vec<(usize, f32)> = all.iter().map(relevance).enumerate().collect();
    // Probabilities are not negative, so their bits are in their order.
    order.sort_by_key(|(index, score)| (Reverse(score.to_bits()), *index));
    let results = order.iter().take(top_n).map(|&(index, score)| {
        let mut result = json!({"index": index, "relevance_score": score});
        if let Some(documents) = documents {
            result["document"] = json!({"text": documents[index]});
        }
        result
    });
    let results: Vec<Value> = results.collect();
    let tokens = tokens(all);
    let mut answer = json!({
        "object": "list",
        "model": served.name,
        "results": results,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "nanoinfer": {"method": "yes_or_no"},
    });
    if !served.is_named("rerank") {
        answer["nanoinfer"]["note"] = NOTE.into();
    }
    to_json(&answer)
}
