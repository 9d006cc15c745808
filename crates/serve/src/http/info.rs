//! Models, tokens, health and figures.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use serde::Deserialize;
use serde_json::{Value, json};

use super::app::{App, Who, unix_time};
use super::reply::{self, Reply};
use super::{body, generate};
use crate::core::model::ServedModel;
use crate::core::prepare::{self, Caller};
use crate::dialect::fields;
use crate::dialect::{messages, ollama};
use crate::problem::Problem;

/// Whether the engine's threads live.
pub(crate) fn health(app: &App) -> Reply {
    let limit = app.options.limits.engine;
    let alive = app.models.0.iter().all(|m| m.link.metrics.is_alive(limit));
    let (status, text) = if alive { (200, "ok") } else { (503, "the engine does not respond") };
    reply::json(status, &json!({"status": text}))
}

/// Whether requests are accepted.
pub(crate) fn ready(app: &App) -> Reply {
    if app.is_draining() {
        return reply::json(503, &json!({"status": "draining"}));
    }
    health(app)
}

pub(crate) fn metrics(app: &App) -> Reply {
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    reply::with_type(200, media_type, app.metrics.text().into())
}

pub(crate) fn models(app: &App) -> Reply {
    let data: Vec<Value> = app.models.0.iter().map(|m| model_object(m)).collect();
    reply::json(200, &json!({"object": "list", "data": data}))
}

pub(crate) fn model(app: &App, name: &str) -> Result<Reply, Problem> {
    Ok(reply::json(200, &model_object(app.models.find(Some(name))?)))
}

fn model_object(served: &ServedModel) -> Value {
    json!({
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "nanoinfer",
        "max_model_len": served.ctx,
        "context_window": served.ctx,
        "system_fingerprint": served.fingerprint,
        "loaded": served.is_loaded(),
    })
}

/// Ollama's list of loaded models.
pub(crate) fn loaded(app: &App) -> Reply {
    let loaded = app.models.0.iter().filter(|m| m.is_loaded());
    let models: Vec<Value> =
        loaded.map(|m| ollama::loaded(m, unix_time(), app.options.idle)).collect();
    reply::json(200, &json!({"models": models}))
}

/// Ollama's list of models.
pub(crate) fn tags(app: &App) -> Reply {
    let models: Vec<Value> = app.models.0.iter().map(|m| ollama::model(m)).collect();
    reply::json(200, &json!({"models": models}))
}

pub(crate) async fn version() -> Reply {
    reply::json(200, &json!({"version": ollama::VERSION, "nanoinfer": env!("CARGO_PKG_VERSION")}))
}

/// Answers a JSON object with another one.
pub(crate) type JsonAnswer = fn(&Value, &ServedModel, Caller) -> Result<Value, Problem>;

/// A route that reads a JSON object and answers with one.
pub(crate) async fn with_json(
    app: Arc<App>,
    request: Request<Body>,
    (who, answer): (Who, JsonAnswer),
) -> Result<Reply, Problem> {
    let body = body::read(&app, request).await?;
    let caller = app.caller(&who);
    let value = generate::blocking(move || {
        let body = generate::json(body.get())?;
        answer(&body, generate::model(&app, &body)?, caller)
    });
    Ok(reply::json(200, &value.await?))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Tokenize {
    content: Option<String>,
    prompt: Option<String>,
    add_special: Option<bool>,
    add_special_tokens: Option<bool>,
    parse_special: Option<bool>,
    with_pieces: Option<bool>,
}

/// llama.cpp's `/tokenize` (`content`), and vLLM's (`prompt` or `messages`).
pub(crate) fn tokenize(
    body: &Value,
    served: &ServedModel,
    caller: Caller,
) -> Result<Value, Problem> {
    let own: Tokenize = fields::read(body)?;
    let ids = if body.get("messages").is_some() {
        prepare::encode_chat(served, &messages::chat(body)?, caller)?
    } else {
        let vllm = own.content.is_none();
        let text = own.content.or(own.prompt);
        let text = text.ok_or_else(|| Problem::field("content", "expected a text"))?;
        // The defaults are those of the programs whose fields they are.
        let bos = own.add_special.or(own.add_special_tokens).unwrap_or(vllm);
        served.encode(&text, bos, own.parse_special.unwrap_or(false))?
    };
    let mut answer = json!({"count": ids.len(), "max_model_len": served.ctx});
    answer["tokens"] = if own.with_pieces.unwrap_or(false) {
        ids.iter().map(|&id| json!({"id": id, "piece": served.token(id).0})).collect()
    } else {
        ids.into()
    };
    Ok(answer)
}

#[derive(Debug, Deserialize)]
struct Detokenize {
    tokens: Vec<u32>,
}

pub(crate) fn detokenize(body: &Value, served: &ServedModel) -> Result<Value, Problem> {
    let own: Detokenize = fields::read(body)?;
    let vocab = served.model.config().vocab_size;
    let text = served.decode(&fields::tokens("tokens", Some(&own.tokens), vocab)?);
    Ok(json!({"content": text, "prompt": text}))
}

/// The text of a conversation, as the model sees it.
pub(crate) fn apply_template(body: &Value, served: &ServedModel) -> Result<Value, Problem> {
    let input = prepare::input(served, &messages::chat(body)?)?;
    let text = served.model.render_chat(&input).map_err(|e| Problem::engine(&e))?;
    Ok(json!({"prompt": text.text()}))
}
