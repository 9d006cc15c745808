//! A model for callers in this process. Any number of threads and tasks share one engine, whose passes serve all of
//! them, as they do clients of the server; requests have the same fields.
//!
//! ```text
//! thread of a caller                       engine's thread
//! Local::ask ─► dialect, prepare ─► begin ──► Batch ─┐
//! Answers::next ◄── answer ◄── stream ◄── distribute ◄┘
//!                                         │ the local thread, which also drives HTTP, if there is any
//! ```
//!
//! Nothing here needs a runtime of the caller: futures are polled with whatever waker the caller has, or [`wait`]
//! blocks for them.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use futures_util::StreamExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use nanoinfer_engine::{Class, Model, Namespace, PromptOutput, PromptValues};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use crate::core::answer::{Answering, Update};
use crate::core::model::{Models, ServedModel};
use crate::core::prepare::{Caller, Prepared, prepare};
use crate::core::read::read;
use crate::dialect::{completions, embeddings, openai_chat};
use crate::http::app::App;
use crate::http::listen::accept;
use crate::http::routes::router;
use crate::metrics::Metrics;
use crate::options::{Error, Listen, Options, Served};
use crate::problem::{Kind, Problem};
use crate::runner::Command;
use crate::server::{LAST_RESPONSES, Shared, listen, runtime, start};
use crate::stream::distribute;

/// Parts of a response that wait for their reader.
const PARTS: usize = 16;

/// Who asks: this process.
const CALLER: Caller = Caller { key: 0, namespace: Namespace::COMMON, class: Class::Interactive };

/// The form of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Answers a conversation: the fields of `/v1/chat/completions`.
    Chat,
    /// Continues prompts: the fields of `/v1/completions`.
    Completions,
}

/// A result that is not there yet. It may be polled from any thread; dropping it cancels what it waits for.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, Problem>> + Send>>;

/// An open model. Dropping it ends what runs, as does [`Self::close`].
pub struct Local {
    served: Arc<ServedModel>,
    metrics: Arc<Metrics>,
    /// What answers requests without a socket.
    app: Arc<App>,
    runtime: Handle,
    is_closed: AtomicBool,
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    /// Ends the local thread when it is dropped.
    running: oneshot::Sender<()>,
    local: JoinHandle<()>,
    engine: JoinHandle<()>,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local").field("model", &self.served.name).finish_non_exhaustive()
    }
}

impl Local {
    /// Starts the threads of a model.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn open(model: Served) -> Result<Self, Error> {
        // Callers in this process are not told by a Host header.
        let options = Options::new(Listen::Unix(Default::default()));
        let metrics = Metrics::new();
        let (served, passes, engine) = start(model, &options, &metrics, &Shared::new(&options))?;
        let metrics = Arc::new(metrics);
        let models = Models(vec![Arc::clone(&served)]);
        let app = Arc::new(App::new(models, options, Arc::clone(&metrics)));
        let driver = runtime()?;
        let (handle, link) = (driver.handle().clone(), Arc::clone(&served.link));
        let (running, ended) = oneshot::channel::<()>();
        let run = move || {
            driver.spawn(distribute(link, passes));
            let _ = driver.block_on(ended); // an error, once the sender is dropped
            driver.shutdown_timeout(LAST_RESPONSES);
        };
        let local = thread::Builder::new().name("local".into()).spawn(run);
        let local = local.map_err(|error| {
            served.link.send(Command::Stop);
            Error::Start(error)
        })?;
        let threads = Mutex::new(Some(Threads { running, local, engine }));
        let is_closed = AtomicBool::new(false);
        Ok(Self { served, metrics, app, runtime: handle, is_closed, threads })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.served.model
    }

    /// Maximum number of tokens in a context, including the answer.
    pub fn ctx(&self) -> usize {
        self.served.ctx
    }

    /// Identifies what determines the tokens of an answer: the model, the arithmetic and the cache's type.
    pub fn fingerprint(&self) -> &str {
        &self.served.fingerprint
    }

    /// The tokens of a text, after the token that begins every prompt if `bos`. If `specials`, names of control
    /// tokens in it are control tokens.
    ///
    /// # Errors
    /// The model has no tokenizer.
    pub fn encode(&self, text: &str, bos: bool, specials: bool) -> Result<Vec<u32>, Problem> {
        self.served.encode(text, bos, specials)
    }

    /// The text of tokens, with the names of control tokens.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.served.decode(ids)
    }

    /// Asks for answers. Templates, tokenizer and grammars run here, which takes milliseconds, but hundreds for a
    /// model's first grammar. Nothing waits for the engine.
    ///
    /// # Errors
    /// The request is wrong, or the model is closed.
    pub fn ask(&self, api: Api, request: &Value) -> Result<Answers, Problem> {
        let started = Instant::now();
        let parse = match api {
            Api::Chat => openai_chat::parse,
            Api::Completions => completions::parse,
        };
        self.check_open()?;
        let call = parse(request, &self.served)?;
        let Prepared { requests, prompts, splitters, stops, seed } =
            prepare(&self.served, call.ask, CALLER)?;
        let (stream, accepted) = self.served.link.begin(requests);
        let parts = (&prompts[..], splitters, stops);
        let served = Arc::clone(&self.served);
        let answering = Answering::new((served, stream), parts, (started, None), None);
        Ok(Answers { answering: answering.once(accepted), prompts, seed })
    }

    /// Vectors of texts or tokens, with the fields of `/v1/embeddings`.
    ///
    /// # Errors
    /// The request is wrong, or the model is closed.
    pub fn embed(&self, request: &Value) -> Result<Pending<Vec<Vec<f32>>>, Problem> {
        self.check_open()?;
        let (reading, vector) = embeddings::vectors(request, &self.served)?;
        let (served, prompts) = (Arc::clone(&self.served), (reading.prompts, reading.output));
        Ok(Box::pin(async move {
            let all = read(&served, prompts, CALLER, &AtomicUsize::new(0)).await?;
            Ok(all.iter().map(vector).collect())
        }))
    }

    /// The logits after each of some tokens: `vocab_size` values for each, in one list.
    ///
    /// # Errors
    /// The model is closed. What is wrong with the tokens is an error of the result.
    pub fn logits(&self, ids: Vec<u32>) -> Result<Pending<Vec<f32>>, Problem> {
        self.check_open()?;
        let served = Arc::clone(&self.served);
        Ok(Box::pin(async move {
            let prompts = (vec![ids], PromptOutput::Logits);
            let all = read(&served, prompts, CALLER, &AtomicUsize::new(0)).await?;
            match all.into_iter().next().map(|read| read.values) {
                Some(PromptValues::Logits(values)) => Ok(values),
                _ => Err(Problem::engine_gone()),
            }
        }))
    }

    /// Answers an HTTP request without a socket.
    ///
    /// # Errors
    /// The model is closed, or this is not an HTTP request. What else is wrong with it is a response.
    pub fn call(
        &self,
        method: &str,
        target: &str,
        headers: &[(Vec<u8>, Vec<u8>)],
        body: Vec<u8>,
    ) -> Result<Exchange, Problem> {
        self.check_open()?;
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(&name[..], &value[..]);
        }
        let request = request.body(Body::from(body));
        let request = request.map_err(|e| Problem::new(Kind::Invalid, e.to_string()))?;
        let service = TowerToHyperService::new(router(Arc::clone(&self.app)));
        let (head, headed) = oneshot::channel();
        let (parts, receiver) = mpsc::channel(PARTS);
        self.runtime.spawn(async move {
            let Ok(response) = service.call(request).await; // the router has no errors
            let (start, body) = response.into_parts();
            let name = |(name, value): (&axum::http::HeaderName, &axum::http::HeaderValue)| {
                (name.to_string(), value.as_bytes().to_vec())
            };
            let headers = start.headers.iter().map(name).collect();
            if head.send((start.status.as_u16(), headers)).is_err() {
                return; // the caller has gone
            }
            let mut body = body.into_data_stream();
            loop {
                let part = tokio::select! {
                    () = parts.closed() => return, // which cancels the answer
                    part = body.next() => part,
                };
                let Some(Ok(part)) = part else { return };
                if parts.send(part).await.is_err() {
                    return;
                }
            }
        });
        Ok(Exchange { head: Some(headed), parts: receiver })
    }

    /// Listens for HTTP clients, who share the engine with the callers in this process.
    ///
    /// # Errors
    /// The address cannot be used, other machines can reach it although there are no keys, or the model is closed.
    pub fn listen(&self, options: Options) -> Result<Opened, Error> {
        options.check()?;
        if self.is_closed() {
            return Err(Error::Models { what: CLOSED.into() });
        }
        let (sender, listening) = std::sync::mpsc::channel();
        let (models, metrics) = (Models(vec![Arc::clone(&self.served)]), Arc::clone(&self.metrics));
        let (close, closing) = watch::channel(false);
        let drain = options.drain;
        let accepting = self.runtime.spawn(async move {
            match listen(&options).await {
                Err(error) => drop(sender.send(Err(error))),
                Ok((listener, address)) => {
                    let app = Arc::new(App::new(models, options, metrics));
                    if sender.send(Ok((address, Arc::clone(&app)))).is_ok() {
                        accept(Arc::clone(&app), listener, router(app), closing).await;
                    }
                }
            }
        });
        let gone = || Err(Error::Models { what: CLOSED.into() });
        let (address, app) = listening.recv().unwrap_or_else(|_| gone())?;
        Ok(Opened { address, app, accepting, close, drain })
    }

    /// Whether the model was closed.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    fn check_open(&self) -> Result<(), Problem> {
        if self.is_closed() { Err(closed()) } else { Ok(()) }
    }

    /// Ends what runs with an error, and the threads.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Threads { running, local, engine }) = threads else { return };
        self.served.link.end_all(&closed());
        self.served.link.send(Command::Stop);
        // A panic in one of them has been reported.
        drop(engine.join());
        drop(running);
        drop(local.join());
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.close();
    }
}

const CLOSED: &str = "the model is closed";

fn closed() -> Problem {
    Problem::new(Kind::Unavailable, CLOSED).code("closed")
}

/// The answers to a request while they are generated. Dropping it cancels them.
pub struct Answers {
    answering: Answering,
    prompts: Vec<usize>,
    seed: u64,
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answers").field("prompts", &self.prompts).finish_non_exhaustive()
    }
}

impl Answers {
    /// The next update; `None` after the last. The future may be dropped while it waits.
    pub async fn next(&mut self) -> Option<Update> {
        self.answering.next().await
    }

    /// Like [`Self::next`], for callers with a waker.
    pub fn poll_next(&mut self, waker: &Waker) -> Poll<Option<Update>> {
        pin!(self.next()).poll(&mut Context::from_waker(waker))
    }

    /// The tokens of an answer so far, which may be more than the updates that were taken show.
    pub fn tokens(&self, choice: usize) -> &[u32] {
        self.answering.tokens(choice)
    }

    /// Number of tokens in each answer's prompt.
    pub fn prompts(&self) -> &[usize] {
        &self.prompts
    }

    /// The seed of the first answer.
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

/// A response that arrives in parts. Dropping it cancels what is still to come.
#[derive(Debug)]
pub struct Exchange {
    head: Option<oneshot::Receiver<Head>>,
    parts: mpsc::Receiver<Bytes>,
}

/// The status and headers of a response.
pub type Head = (u16, Vec<(String, Vec<u8>)>);

impl Exchange {
    /// The status and headers, once. `None` if the model was closed.
    pub fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Option<Head>> {
        let Some(head) = &mut self.head else { return Poll::Ready(None) };
        let head = ready!(Pin::new(head).poll(context)).ok();
        self.head = None;
        Poll::Ready(head)
    }

    /// The next part of the body; `None` after the last.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.parts.poll_recv(context)
    }
}

/// An address at which a model answers HTTP clients, until it is closed or dropped.
pub struct Opened {
    address: String,
    app: Arc<App>,
    accepting: tokio::task::JoinHandle<()>,
    close: watch::Sender<bool>,
    drain: Duration,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Opened {
    /// Where it listens: an address with its port, or `unix:` and a path.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Refuses new requests, and waits for the answers to HTTP clients that run, at most for [`Options::drain`].
    pub fn close(mut self) {
        self.app.begin_drain();
        self.accepting.abort();
        self.close.send_replace(true);
        // The socket is closed once the task has ended.
        drop(wait(&mut self.accepting, Some(self.drain)));
        wait(self.close.closed(), Some(self.drain));
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.app.begin_drain();
        self.accepting.abort();
        self.close.send_replace(true);
    }
}

/// Wakes a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Blocks this thread until a future is done, at most for so long. `None` if the time is over.
pub fn wait<F: Future>(future: F, longest: Option<Duration>) -> Option<F::Output> {
    let deadline = longest.and_then(|time| Instant::now().checked_add(time));
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let (mut context, mut future) = (Context::from_waker(&waker), pin!(future));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            None => thread::park(),
            Some(Duration::ZERO) => return None,
            Some(left) => thread::park_timeout(left),
        }
    }
}
