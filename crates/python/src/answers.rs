//! Answers while they are generated, and other results that are not there yet. Dropping or closing them cancels what
//! they wait for.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use nanoinfer::local::{self, Pending, Problem, Update};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::blocking::until;
use crate::errors::{failure, problem};
use crate::signals::Waker;
use crate::updates::tuple;

/// The answers to a request. One thread at a time takes updates.
#[pyclass(frozen)]
pub(crate) struct Answers {
    answers: Mutex<Option<local::Answers>>,
    is_closed: AtomicBool,
    #[pyo3(get)]
    seed: u64,
    #[pyo3(get)]
    prompts: Vec<usize>,
}

impl Answers {
    pub(crate) fn new(answers: local::Answers) -> Self {
        let (seed, prompts) = (answers.seed(), answers.prompts().to_vec());
        let answers = Mutex::new(Some(answers));
        Self { answers, is_closed: AtomicBool::new(false), seed, prompts }
    }

    fn lock(&self) -> MutexGuard<'_, Option<local::Answers>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the answers back, unless somebody closed them meanwhile.
    fn put(&self, answers: local::Answers) {
        let mut place = self.lock();
        if !self.is_closed.load(Ordering::Relaxed) {
            *place = Some(answers);
        }
    }

    /// Takes the answers out while somebody uses them.
    fn take(&self) -> PyResult<local::Answers> {
        self.lock()
            .take()
            .ok_or_else(|| failure("this answer is closed, or another thread reads it"))
    }
}

/// What became of an answer that was read to its end.
type Collected = (Vec<Update>, Vec<Vec<u32>>);

#[pymethods]
impl Answers {
    /// The next update; `None` after the last. An exception cancels the answers.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let mut answers = self.take()?;
        let update = until(py, answers.next())?;
        self.put(answers);
        update.map(|update| tuple(py, update)).transpose()
    }

    /// Whether there is an update or an end, and the next update if any. Otherwise `waker` is woken later.
    fn poll<'py>(
        &self,
        py: Python<'py>,
        waker: &Waker,
    ) -> PyResult<(bool, Option<Bound<'py, PyAny>>)> {
        let mut answers = self.take()?;
        let polled = answers.poll_next(&waker.waker());
        self.put(answers);
        match polled {
            Poll::Pending => Ok((false, None)),
            Poll::Ready(update) => Ok((true, update.map(|update| tuple(py, update)).transpose()?)),
        }
    }

    /// The tokens of an answer from the `start`-th to the `end`-th.
    #[pyo3(signature = (choice, start=0, end=None))]
    fn tokens(&self, choice: usize, start: usize, end: Option<usize>) -> Vec<u32> {
        let answers = self.lock();
        let tokens = answers.as_ref().map_or(&[][..], |answers| answers.tokens(choice));
        let end = end.unwrap_or(tokens.len()).min(tokens.len());
        tokens.get(start..end).unwrap_or_default().to_vec()
    }

    /// Cancels what has not ended.
    fn close(&self) {
        let mut answers = self.lock();
        self.is_closed.store(true, Ordering::Relaxed);
        *answers = None;
    }
}

/// The updates of an answer, and the tokens of its choices.
type Shown<'py> = (Vec<Bound<'py, PyAny>>, Vec<Vec<u32>>);

/// Reads several answers to their ends. If one fails, all end.
#[pyfunction]
pub(crate) fn collect<'py>(
    py: Python<'py>,
    answers: Vec<Bound<'py, Answers>>,
) -> PyResult<Vec<Shown<'py>>> {
    let taken: Vec<local::Answers> =
        answers.iter().map(|a| a.get().take()).collect::<PyResult<_>>()?;
    let all = until(py, all(taken.into_iter().map(read).collect()))?.map_err(problem)?;
    let shown = |(updates, tokens): Collected| {
        let updates = updates.into_iter().map(|update| tuple(py, update));
        Ok((updates.collect::<PyResult<_>>()?, tokens))
    };
    all.into_iter().map(shown).collect()
}

async fn read(mut answers: local::Answers) -> Result<Collected, Problem> {
    let mut updates = Vec::new();
    while let Some(update) = answers.next().await {
        match update {
            Update::Failed(problem) => return Err(problem),
            Update::Prefill { .. } => {}
            update => updates.push(update),
        }
    }
    let tokens = (0..answers.prompts().len()).map(|choice| answers.tokens(choice).to_vec());
    let tokens = tokens.collect();
    Ok((updates, tokens))
}

type Boxed<T> = Pin<Box<dyn Future<Output = Result<T, Problem>> + Send>>;

/// Waits for all of these, or the first problem. Every wake-up polls those that are not done.
async fn all<F: Future<Output = Result<Collected, Problem>> + Send + 'static>(
    futures: Vec<F>,
) -> Result<Vec<Collected>, Problem> {
    let mut waiting: Vec<Option<Boxed<Collected>>> =
        futures.into_iter().map(|future| Some(Box::pin(future) as Boxed<_>)).collect();
    let mut done: Vec<Option<Collected>> = waiting.iter().map(|_| None).collect();
    poll_fn(move |context: &mut Context<'_>| {
        for (waits, done) in waiting.iter_mut().zip(&mut done) {
            if let Some(future) = waits
                && let Poll::Ready(output) = future.as_mut().poll(context)
            {
                *waits = None;
                match output {
                    Ok(output) => *done = Some(output),
                    Err(problem) => return Poll::Ready(Err(problem)),
                }
            }
        }
        if waiting.iter().any(Option::is_some) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(done.iter_mut().filter_map(Option::take).collect()))
    })
    .await
}

/// Floats in the order of this machine, which nothing changes any more.
fn bytes<'py>(py: Python<'py>, values: &[f32]) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, size_of_val(values), |bytes| {
        for (to, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
            *to = value.to_ne_bytes();
        }
        Ok(())
    })
}

/// Floats that are not there yet, as bytes.
#[pyclass(frozen)]
pub(crate) struct Floats(Mutex<Option<Pending<Vec<f32>>>>);

impl Floats {
    pub(crate) fn new(pending: Pending<Vec<f32>>) -> Self {
        Self(Mutex::new(Some(pending)))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Pending<Vec<f32>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> PyResult<Pending<Vec<f32>>> {
        self.lock()
            .take()
            .ok_or_else(|| failure("this result was taken, or another thread waits for it"))
    }
}

#[pymethods]
impl Floats {
    /// Waits for them.
    fn result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        bytes(py, &until(py, self.take()?)?.map_err(problem)?)
    }

    /// `None` if they are not there yet; `waker` is then woken later.
    fn poll<'py>(&self, py: Python<'py>, waker: &Waker) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let mut pending = self.take()?;
        match pending.as_mut().poll(&mut Context::from_waker(&waker.waker())) {
            Poll::Ready(values) => Ok(Some(bytes(py, &values.map_err(problem)?)?)),
            Poll::Pending => {
                *self.lock() = Some(pending);
                Ok(None)
            }
        }
    }
}
