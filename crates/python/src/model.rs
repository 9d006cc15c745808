//! An open model, and its server.

use std::ffi::OsString;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use nanoinfer::local::{
    self, Api, Keys, Listen, Local, OpenOptions, Opened, Options, Pending, Problem,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use serde_json::Value;

use crate::answers::{Answers, Floats};
use crate::blocking::work;
use crate::errors::{RequestError, failure, opening, problem};
use crate::signals::Waker;

/// An open model, which any thread may use.
#[pyclass(frozen)]
pub(crate) struct Model(Arc<Local>);

/// Opens a model; `options` are JSON. See [`local::open`].
#[pyfunction]
#[pyo3(signature = (name, options, status=None))]
pub(crate) fn open(
    py: Python<'_>,
    name: OsString,
    options: &str,
    status: Option<&Bound<'_, PyAny>>,
) -> PyResult<Model> {
    let options: OpenOptions =
        serde_json::from_str(options).map_err(|e| RequestError::new_err(e.to_string()))?;
    let opened = work(py, status, move |status| local::open(&name, &options, status))?;
    Ok(Model(Arc::new(opened.map_err(opening)?)))
}

fn parsed(json: &str) -> PyResult<Value> {
    serde_json::from_str(json).map_err(|e| PyValueError::new_err(e.to_string()))
}

#[pymethods]
impl Model {
    /// Answers a conversation, or continues prompts; `request` is JSON.
    fn ask(&self, py: Python<'_>, chat: bool, request: &str) -> PyResult<Answers> {
        let (api, request) = (if chat { Api::Chat } else { Api::Completions }, parsed(request)?);
        let answers = py.detach(|| self.0.ask(api, &request)).map_err(problem)?;
        Ok(Answers::new(answers))
    }

    /// The vectors of inputs, one after the other; `request` is JSON.
    fn embed(&self, py: Python<'_>, request: &str) -> PyResult<Floats> {
        let request = parsed(request)?;
        let vectors: Pending<Vec<Vec<f32>>> =
            py.detach(|| self.0.embed(&request)).map_err(problem)?;
        let values: Pending<Vec<f32>> =
            Box::pin(async { Ok::<_, Problem>(vectors.await?.concat()) });
        Ok(Floats::new(values))
    }

    /// The logits after each token.
    fn logits(&self, ids: Vec<u32>) -> PyResult<Floats> {
        self.0.logits(ids).map(Floats::new).map_err(problem)
    }

    /// The tokens of a text.
    fn encode(&self, py: Python<'_>, text: &str, bos: bool, special: bool) -> PyResult<Vec<u32>> {
        py.detach(|| self.0.encode(text, bos, special)).map_err(problem)
    }

    /// The text of tokens.
    fn decode(&self, py: Python<'_>, ids: Vec<u32>) -> String {
        py.detach(|| self.0.decode(&ids))
    }

    /// What the model is.
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (info, model) = (PyDict::new(py), self.0.model());
        info.set_item("path", model.file().path())?;
        info.set_item("ctx", self.0.ctx())?;
        info.set_item("vocab_size", model.config().vocab_size)?;
        info.set_item("d_model", model.config().d_model)?;
        info.set_item("quant", model.config().quant.name())?;
        info.set_item("fingerprint", self.0.fingerprint())?;
        Ok(info)
    }

    /// Listens for HTTP clients. Without `host` and `port`, `path` is that of a Unix socket.
    fn listen(
        &self,
        py: Python<'_>,
        address: (String, u16),
        path: Option<PathBuf>,
        keys: Option<PathBuf>,
        drain: f64,
    ) -> PyResult<Server> {
        let (host, port) = address;
        let opened = py.detach(|| {
            let listen = match path {
                Some(path) => Listen::Unix(path),
                None => {
                    let mut addresses = (host.as_str(), port)
                        .to_socket_addrs()
                        .map_err(|e| RequestError::new_err(format!("host: {host}: {e}")))?;
                    let address = addresses.next();
                    Listen::Tcp(address.ok_or_else(|| failure(format!("{host}: no address")))?)
                }
            };
            let keys = keys.as_deref().map(Keys::read).transpose().map_err(failure)?;
            let drain = Duration::try_from_secs_f64(drain)
                .map_err(|e| RequestError::new_err(format!("drain: {e}")))?;
            self.0.listen(Options { keys, drain, ..Options::new(listen) }).map_err(failure)
        })?;
        Ok(Server(Mutex::new(Some(opened))))
    }

    /// Answers an HTTP request without a socket.
    fn call(
        &self,
        method: &str,
        target: &str,
        headers: Vec<(Vec<u8>, Vec<u8>)>,
        body: Vec<u8>,
    ) -> PyResult<Exchange> {
        self.0
            .call(method, target, &headers, body)
            .map(|e| Exchange(Mutex::new(e)))
            .map_err(problem)
    }

    /// Ends what runs.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// An address at which a model answers HTTP clients.
#[pyclass(frozen)]
pub(crate) struct Server(Mutex<Option<Opened>>);

impl Server {
    fn lock(&self) -> MutexGuard<'_, Option<Opened>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Server {
    /// Where it listens; `None` once it is closed.
    fn address(&self) -> Option<String> {
        self.lock().as_ref().map(|opened| opened.address().to_owned())
    }

    /// Lets running answers end, and no longer listens.
    fn close(&self, py: Python<'_>) {
        let opened = self.lock().take();
        py.detach(|| opened.map(Opened::close));
    }
}

/// A response that arrives in parts. Dropping it cancels what is still to come.
#[pyclass(frozen)]
pub(crate) struct Exchange(Mutex<local::Exchange>);

/// A status, and headers.
type Head = (u16, Vec<(Vec<u8>, Vec<u8>)>);

#[pymethods]
impl Exchange {
    /// The status and headers, once; `None` if they are not there yet.
    fn poll_head(&self, waker: &Waker) -> PyResult<Option<Head>> {
        let mut exchange = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match exchange.poll_head(&mut Context::from_waker(&waker.waker())) {
            Poll::Pending => Ok(None),
            Poll::Ready(None) => Err(failure("the model is closed")),
            Poll::Ready(Some((status, headers))) => {
                let bytes = |(name, value): (String, Vec<u8>)| (name.into_bytes(), value);
                Ok(Some((status, headers.into_iter().map(bytes).collect())))
            }
        }
    }

    /// Whether there is a part or the end, and the part.
    fn poll<'py>(&self, py: Python<'py>, waker: &Waker) -> (bool, Option<Bound<'py, PyBytes>>) {
        let mut exchange = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match exchange.poll_next(&mut Context::from_waker(&waker.waker())) {
            Poll::Pending => (false, None),
            Poll::Ready(part) => (true, part.map(|part| PyBytes::new(py, &part))),
        }
    }
}
