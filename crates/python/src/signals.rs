//! What wakes an event loop of `asyncio`.

use std::sync::Arc;
use std::task::Wake;

use nanoinfer_platform::wake::Signal;
use pyo3::prelude::*;

struct Inner(Option<Signal>);

impl Wake for Inner {
    fn wake(self: Arc<Self>) {
        if let Some(signal) = &self.0 {
            signal.signal();
        }
    }
}

/// Becomes readable when something that was polled with it may have a result.
#[pyclass(frozen)]
pub(crate) struct Waker(Arc<Inner>);

impl Waker {
    pub(crate) fn waker(&self) -> std::task::Waker {
        Arc::clone(&self.0).into()
    }
}

#[pymethods]
impl Waker {
    #[new]
    fn new() -> PyResult<Self> {
        Ok(Self(Arc::new(Inner(Signal::new()?))))
    }

    /// The descriptor to wait for; `None` if this system has none, so that the caller has to look repeatedly.
    fn fileno(&self) -> Option<i32> {
        self.0.0.as_ref().map(Signal::descriptor)
    }

    /// Takes the signals.
    fn take(&self) {
        if let Some(signal) = &self.0.0 {
            signal.take();
        }
    }
}
