//! Which path leads where.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::{Method, Request, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use serde_json::Value;

use super::app::{App, Who};
use super::reply::{self, Reply};
use super::{generate, guard, info, openapi, page, read};
use crate::core::model::ServedModel;
use crate::dialect::call::{Parse, ParseReading};
use crate::dialect::problems::Form;
use crate::dialect::{
    anthropic, completions, embeddings, infill, ollama, openai_chat, rerank, responses,
};
use crate::problem::{Kind, Problem};

type Answer = fn(&Value, &ServedModel) -> Result<Value, Problem>;

pub(crate) fn router(app: Arc<App>) -> Router {
    let generating = |parse: Parse| {
        post(
            move |State(app): State<Arc<App>>,
                  Extension(who): Extension<Who>,
                  request: Request<Body>| {
                let path = request.uri().path().to_owned();
                in_form(path, generate::generate(app, who, request, parse))
            },
        )
    };
    let reading = |parse: ParseReading| {
        post(
            move |State(app): State<Arc<App>>,
                  Extension(who): Extension<Who>,
                  request: Request<Body>| {
                let path = request.uri().path().to_owned();
                in_form(path, read::read(app, who, request, parse))
            },
        )
    };
    let answering = |answer: Answer| {
        post(move |State(app): State<Arc<App>>, request: Request<Body>| {
            let path = request.uri().path().to_owned();
            in_form(path, info::with_json(app, request, answer))
        })
    };
    Router::new()
        .route("/v1/chat/completions", generating(openai_chat::parse))
        .route("/v1/completions", generating(completions::parse))
        .route("/v1/responses", generating(responses::parse))
        .route("/v1/messages", generating(anthropic::parse))
        .route("/v1/messages/count_tokens", answering(anthropic::count_tokens))
        .route("/infill", generating(infill::parse))
        .route("/api/chat", generating(ollama::chat))
        .route("/api/generate", generating(ollama::generate))
        .route("/api/show", answering(ollama::show))
        .route("/api/tags", get(async |State(app): State<Arc<App>>| info::tags(&app)))
        .route("/api/version", get(info::version))
        .route("/v1/models", get(async |State(app): State<Arc<App>>| info::models(&app)))
        .route("/v1/models/{*name}", get(model))
        .route("/v1/embeddings", reading(embeddings::openai))
        .route("/api/embed", reading(embeddings::ollama))
        .route("/api/embeddings", reading(embeddings::ollama_one))
        .route("/v1/rerank", reading(rerank::parse))
        .route("/rerank", reading(rerank::parse))
        .route("/tokenize", answering(info::tokenize))
        .route("/detokenize", answering(info::detokenize))
        .route("/apply-template", answering(info::apply_template))
        .route("/openapi.json", get(openapi::openapi))
        .route("/", get(page::page))
        .route("/v1/telemetry", get(async |State(app): State<Arc<App>>| page::telemetry(app)))
        .route("/health", get(async |State(app): State<Arc<App>>| info::health(&app)))
        .route("/ready", get(async |State(app): State<Arc<App>>| info::ready(&app)))
        .route("/metrics", get(async |State(app): State<Arc<App>>| info::metrics(&app)))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(from_fn_with_state(Arc::clone(&app), guard::guard))
        .with_state(app)
}

/// A reply whose problems have the form that the clients of a path expect.
async fn in_form(path: String, reply: impl Future<Output = Result<Reply, Problem>>) -> Reply {
    reply.await.unwrap_or_else(|problem| reply::problem(Form::of(&path), &problem))
}

async fn model(State(app): State<Arc<App>>, Path(name): Path<String>, uri: Uri) -> Reply {
    in_form(uri.path().to_owned(), async { info::model(&app, &name) }).await
}

async fn not_found(uri: Uri) -> Reply {
    let problem = Problem::new(Kind::NotFound, format!("{} does not exist", uri.path()));
    reply::problem(Form::of(uri.path()), &problem)
}

async fn method_not_allowed(method: Method, uri: Uri) -> Reply {
    let message = format!("{} does not support {method}", uri.path());
    reply::problem(Form::of(uri.path()), &Problem::new(Kind::Method, message))
}
