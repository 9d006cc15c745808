//! Waiting. Other Python threads run meanwhile, and in the main thread, Ctrl-C ends it.

use std::future::Future;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use nanoinfer::Status;
use nanoinfer::local::wait;
use pyo3::prelude::*;

use crate::errors::failure;

/// How long Ctrl-C may take to be noticed.
const SLICE: Duration = Duration::from_millis(50);

/// Waits for a future.
///
/// # Errors
/// The exception of a signal handler, such as `KeyboardInterrupt`.
pub(crate) fn until<T: Send>(
    py: Python<'_>,
    future: impl Future<Output = T> + Send,
) -> PyResult<T> {
    let mut future = Box::pin(future);
    loop {
        if let Some(output) = py.detach(|| wait(future.as_mut(), Some(SLICE))) {
            return Ok(output);
        }
        py.check_signals()?;
    }
}

/// What long work says.
enum Said<T> {
    Message(String),
    Progress(u64, u64),
    Done(T),
}

/// Does long work on a thread of its own. `status`, if any, is called on this one: with a message, or with two numbers,
/// of what is done and of all. An exception ends the wait, but not the work.
///
/// # Errors
/// The exception of `status` or of a signal handler.
pub(crate) fn work<T: Send + 'static>(
    py: Python<'_>,
    status: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce(&mut dyn FnMut(Status<'_>)) -> T + Send + 'static,
) -> PyResult<T> {
    let (sender, mut receiver) = channel();
    let run = move || {
        // Nobody listens any more after an exception.
        let output = work(&mut |status| {
            let said = match status {
                Status::Message(message) => Said::Message(message.to_owned()),
                Status::Bytes { done, total } | Status::Steps { done, total } => {
                    Said::Progress(done, total)
                }
                Status::Cached(_) => return,
            };
            drop(sender.send(said));
        });
        drop(sender.send(Said::Done(output)));
    };
    thread::Builder::new().name("work".into()).spawn(run).map_err(failure)?;
    loop {
        let receiver = &mut receiver;
        match py.detach(move || receiver.recv_timeout(SLICE)) {
            Ok(Said::Done(output)) => return Ok(output),
            Ok(Said::Message(message)) => {
                status.map(|status| status.call1((message,))).transpose()?;
            }
            Ok(Said::Progress(done, total)) => {
                status.map(|status| status.call1((done, total))).transpose()?;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(failure("a bug ended the work")),
        }
        py.check_signals()?;
    }
}
