//! From a request to an answer, streamed or whole.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, Request, header};
use bytes::Bytes;
use futures_util::stream;
use serde_json::Value;

use super::app::{App, InUse, Who, unix_time};
use super::body;
use super::reply::{self, Reply};
use crate::core::answer::{Answering, Update};
use crate::core::model::ServedModel;
use crate::core::prepare::{Caller, Prepared, prepare};
use crate::dialect::call::{Call, Encoder, Meta, Parse};
use crate::problem::{Kind, Problem};

/// How long a stream waits for its first event before it begins: a problem until then is a status.
const PATIENCE: Duration = Duration::from_secs(1);
/// Maximum number of values in a request.
const VALUES: usize = 4_000_000;
/// Bytes of events that are sent together.
const FRAME: usize = 16 << 10;

const SEED: HeaderName = HeaderName::from_static("x-nanoinfer-seed");
const FINGERPRINT: HeaderName = HeaderName::from_static("x-system-fingerprint");
const TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Answers a request of an API.
pub(crate) async fn generate(
    app: Arc<App>,
    who: Who,
    request: Request<Body>,
    parse: Parse,
) -> Result<Reply, Problem> {
    let started = Instant::now();
    if app.is_draining() {
        return Err(Problem::draining());
    }
    let in_use = app.enter(&who)?;
    let asked = Asked::read(request.headers())?;
    let body = body::read(&app, request).await?;
    let (caller, parsing) = (app.caller(&who), Arc::clone(&app));
    let parsed = blocking(move || parsed(&parsing, body.get(), parse, caller)).await?;
    let Parsed { served, call, prepared, has_seed, tokens } = parsed;
    if app.is_draining() {
        return Err(Problem::draining()); // it has begun since, and does not wait for further answers
    }
    let skip = asked.resumes(&served, has_seed, prepared.requests.len())?;
    let meta = Meta {
        id: who.id.clone(),
        created: unix_time(),
        seed: prepared.seed,
        shows_cache: app.options.keys.is_none() || !app.options.share_prefixes,
        resumable: prepared.requests.len() == 1,
        prompts: prepared.prompts,
    };
    let payer = app.spend(&who, tokens, Instant::now())?;
    let give_back = |_: &Problem| {
        if let Some(payer) = &payer {
            payer.give_back(tokens);
        }
    };
    let stream = served.link.submit(prepared.requests).await.inspect_err(give_back)?;
    let longest = [asked.timeout, app.options.max_time].into_iter().flatten().min();
    let mut answering = Answering::new(
        (Arc::clone(&served), stream),
        (&meta.prompts, prepared.splitters, prepared.stops),
        (started, longest),
        payer.clone(),
    );
    answering.begin(PATIENCE).await.inspect_err(give_back)?;
    let Call { stream, mut encoder, .. } = call;
    let seed = meta.seed.to_string();
    let mut reply = if stream {
        let media_type = encoder.media_type();
        let log = LogLine { app: Arc::clone(&app), who, model: served.name.clone() };
        let streaming =
            Streaming { answering, encoder, meta, skip, state: State::New, log, _in_use: in_use };
        reply::with_type(200, media_type, streaming.body(app.options.limits.silence))
    } else {
        let answers = answering.fold().await?;
        reply::json(200, &encoder.whole(&served, &meta, answers))
    };
    reply::set(&mut reply, header::CACHE_CONTROL, "no-cache");
    reply::set(&mut reply, ACCEL_BUFFERING, "no");
    reply::set(&mut reply, SEED, &seed);
    reply::set(&mut reply, FINGERPRINT, &served.fingerprint);
    Ok(reply)
}

/// Runs work that takes longer than a moment, apart from the thread that serves everybody.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| {
        Err(Problem::new(Kind::Internal, "a bug in this server ended the request"))
    })
}

/// Reads JSON, of which a value in memory takes many times the two bytes that it may have in a list.
pub(crate) fn json(bytes: &[u8]) -> Result<Value, Problem> {
    if bytes.iter().filter(|&&b| b == b',').count() > VALUES {
        return Err(Problem::new(Kind::TooLarge, "the request has too many values"));
    }
    let value = serde_json::from_slice(bytes)
        .map_err(|e| Problem::new(Kind::Invalid, format!("the request is not JSON: {e}")))?;
    match value {
        Value::Object(_) => Ok(value),
        _ => Err(Problem::new(Kind::Invalid, "the request is not a JSON object")),
    }
}

/// The model that a request names.
pub(crate) fn model<'a>(app: &'a App, body: &Value) -> Result<&'a Arc<ServedModel>, Problem> {
    match body.get("model") {
        None | Some(Value::Null) => app.models.find(None),
        Some(Value::String(name)) => app.models.find(Some(name)),
        Some(_) => Err(Problem::field("model", "expected the name of a model")),
    }
}

struct Parsed {
    served: Arc<ServedModel>,
    call: Call,
    prepared: Prepared,
    has_seed: bool,
    /// Number of tokens in all prompts; one with several choices counts once.
    tokens: usize,
}

fn parsed(app: &App, bytes: &[u8], parse: Parse, caller: Caller) -> Result<Parsed, Problem> {
    let body = json(bytes)?;
    let served = Arc::clone(model(app, &body)?);
    let mut call = parse(&body, &served)?;
    let ask = std::mem::take(&mut call.ask);
    let has_seed = ask.options.seed.is_some();
    let n = ask.n.max(1);
    let prepared = prepare(&served, ask, caller)?;
    let tokens = prepared.prompts.iter().step_by(n).sum();
    Ok(Parsed { served, call, prepared, has_seed, tokens })
}

/// What a request's headers ask for.
struct Asked {
    timeout: Option<Duration>,
    /// The last event that the client received, and the fingerprint of the model that generated it.
    last_event: Option<usize>,
    fingerprint: Option<String>,
}

impl Asked {
    fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let text = |name: HeaderName| headers.get(name).map(|v| v.to_str().unwrap_or_default());
        let last_event = text(LAST_EVENT)
            .map(|text| text.parse().map_err(|_| bad(&LAST_EVENT, "expected the id of an event")));
        Ok(Self {
            timeout: timeout(headers)?,
            last_event: last_event.transpose()?,
            fingerprint: text(FINGERPRINT).map(str::to_owned),
        })
    }

    /// The number of tokens that the client already has.
    fn resumes(
        &self,
        served: &ServedModel,
        has_seed: bool,
        choices: usize,
    ) -> Result<usize, Problem> {
        if self.fingerprint.as_ref().is_some_and(|given| *given != served.fingerprint) {
            let message = format!(
                "the stream cannot be resumed: it was generated with another fingerprint than {}",
                served.fingerprint
            );
            return Err(Problem::new(Kind::Conflict, message).code("fingerprint_mismatch"));
        }
        let Some(last) = self.last_event else { return Ok(0) };
        if !has_seed {
            return Err(Problem::field("seed", "is required to resume a stream"));
        }
        if choices > 1 {
            return Err(Problem::field("n", "a stream with several answers cannot be resumed"));
        }
        Ok(last)
    }
}

/// The time that a request's headers give it.
pub(crate) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let Some(text) = headers.get(TIMEOUT) else { return Ok(None) };
    let seconds = text.to_str().ok().and_then(|text| text.parse().ok());
    let seconds = seconds.filter(|s: &f64| (0.0..1e9).contains(s));
    let seconds = seconds.ok_or_else(|| bad(&TIMEOUT, "expected a number of seconds"))?;
    Ok(Some(Duration::from_secs_f64(seconds)))
}

fn bad(header: &HeaderName, what: &str) -> Problem {
    Problem::new(Kind::Invalid, format!("the header {header}: {what}"))
}

/// An answer that is sent while it is generated. Dropping it cancels the answer.
struct Streaming {
    answering: Answering,
    encoder: Box<dyn Encoder>,
    meta: Meta,
    /// Number of tokens that the client already has.
    skip: usize,
    state: State,
    log: LogLine,
    _in_use: InUse,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Begun,
    Over,
}

impl Streaming {
    fn body(self, silence: Duration) -> Body {
        Body::from_stream(stream::unfold(self, move |mut streaming| async move {
            let out = streaming.next(silence).await?;
            Some((Ok::<_, Infallible>(Bytes::from(out)), streaming))
        }))
    }

    /// The next bytes; `None` after the last.
    async fn next(&mut self, silence: Duration) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let served = Arc::clone(&self.answering.served);
        if self.state == State::New {
            self.state = State::Begun;
            self.encoder.begin(&served, &self.meta, &mut out);
        }
        while out.is_empty() {
            if self.state == State::Over {
                return None;
            }
            match tokio::time::timeout(silence, self.answering.next()).await {
                Err(_) => self.encoder.alive("waiting", &mut out),
                Ok(update) => self.write(&served, update, &mut out),
            }
        }
        // What is already here is sent along.
        while self.state != State::Over && out.len() < FRAME {
            match self.answering.try_next() {
                None if self.answering.is_over() => self.write(&served, None, &mut out),
                None => break,
                update => self.write(&served, update, &mut out),
            }
        }
        Some(out)
    }

    fn write(&mut self, served: &ServedModel, update: Option<Update>, out: &mut Vec<u8>) {
        match update {
            Some(update) => {
                let before = out.len();
                self.encoder.update(served, &self.meta, &update, out);
                // The encoder has to know what the client already has, but not to send it again.
                let has = match &update {
                    Update::Chunk(chunk) => chunk.count <= self.skip,
                    Update::Prompt { .. } => self.skip > 0,
                    _ => false,
                };
                if has {
                    out.truncate(before);
                }
                if matches!(update, Update::Failed(_)) {
                    self.state = State::Over;
                }
            }
            None => {
                self.encoder.end(served, &self.meta, out);
                self.state = State::Over;
            }
        }
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        let how = if self.state == State::Over { "done" } else { "cancelled" };
        self.log.write(how, &self.answering);
    }
}

struct LogLine {
    app: Arc<App>,
    who: Who,
    model: String,
}

impl LogLine {
    fn write(&self, how: &str, answering: &Answering) {
        let (seconds, tokens) = (answering.elapsed().as_secs_f64(), answering.generated());
        let (id, model) = (&self.who.id, &self.model);
        self.app.options.log.line(&format!(
            "stream {how} id={id} model={model} generated={tokens} {:.1} ms",
            seconds * 1e3
        ));
    }
}
