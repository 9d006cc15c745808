//! Which path leads where.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::{Method, Request, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get, post};

use super::app::{App, Who};
use super::info::JsonAnswer;
use super::reply::{self, Reply};
use super::{generate, guard, info, openapi, page, read};
use crate::dialect::call::{Parse, ParseReading};
use crate::dialect::problems::Form;
use crate::dialect::{
    anthropic, completions, embeddings, infill, ollama, openai_chat, rerank, responses,
};
use crate::problem::{Kind, Problem};

pub(crate) fn router(app: Arc<App>) -> Router {
    let generating = |parse: Parse| {
        posted(move |app, who, request| generate::generate(app, who, request, parse))
    };
    let reading =
        |parse: ParseReading| posted(move |app, who, request| read::read(app, who, request, parse));
    let answering = |answer: JsonAnswer| {
        posted(move |app, who, request| info::with_json(app, request, (who, answer)))
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
        .route("/api/show", answering(|body, served, _| ollama::show(body, served)))
        .route("/api/tags", get(async |State(app): State<Arc<App>>| info::tags(&app)))
        .route("/api/ps", get(async |State(app): State<Arc<App>>| info::loaded(&app)))
        .route("/api/version", get(info::version))
        .route("/v1/models", get(async |State(app): State<Arc<App>>| info::models(&app)))
        .route("/v1/models/{*name}", get(model))
        .route("/v1/embeddings", reading(embeddings::openai))
        .route("/api/embed", reading(embeddings::ollama))
        .route("/api/embeddings", reading(embeddings::ollama_one))
        .route("/v1/rerank", reading(rerank::parse))
        .route("/rerank", reading(rerank::parse))
        .route("/tokenize", answering(info::tokenize))
        .route("/detokenize", answering(|body, served, _| info::detokenize(body, served)))
        .route("/apply-template", answering(|body, served, _| info::apply_template(body, served)))
        .route("/openapi.json", get(openapi::openapi))
        .route("/", get(page::page))
        .route("/v1/telemetry", get(telemetry))
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

/// A route for requests with a body. Problems have the form of its API.
fn posted<F>(
    answer: impl Fn(Arc<App>, Who, Request<Body>) -> F + Clone + Send + Sync + 'static,
) -> MethodRouter<Arc<App>>
where
    F: Future<Output = Result<Reply, Problem>> + Send,
{
    post(
        async move |State(app): State<Arc<App>>,
                    Extension(who): Extension<Who>,
                    request: Request<Body>| {
            let path = request.uri().path().to_owned();
            in_form(path, answer(app, who, request)).await
        },
    )
}

async fn telemetry(State(app): State<Arc<App>>, uri: Uri) -> Reply {
    let path = uri.path().to_owned();
    in_form(path, async move { page::telemetry(app, uri.query()) }).await
}

async fn not_found(uri: Uri) -> Reply {
    let problem = Problem::new(Kind::NotFound, format!("{} does not exist", uri.path()));
    reply::problem(Form::of(uri.path()), &problem)
}

async fn method_not_allowed(method: Method, uri: Uri) -> Reply {
    let message = format!("{} does not support {method}", uri.path());
    reply::problem(Form::of(uri.path()), &Problem::new(Kind::Method, message))
}
