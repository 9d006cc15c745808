//! Updates of an answer as tuples, of which the first member is the kind.

use nanoinfer::local::{Chunk, End, Logprobs, Part, Update};
use nanoinfer::{Stats, TokenLogprob};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::problem;

/// A token's log-probability, and those of the most likely tokens with their ids.
type Scored = (f32, Vec<(u32, f32)>);

fn scored(token: f32, top: &[TokenLogprob]) -> Scored {
    (token, top.iter().map(|top| (top.id, top.logprob)).collect())
}

/// An update: `("prefill", done, total)`, `("prompt", choice, logprobs)`, `("chunk", choice, count, parts, logprob)`
/// or `("end", choice, reason, stop, stats)`.
///
/// # Errors
/// The request failed.
pub(crate) fn tuple<'py>(py: Python<'py>, update: Update) -> PyResult<Bound<'py, PyAny>> {
    match update {
        Update::Prefill { done, total } => ("prefill", done, total).into_bound_py_any(py),
        Update::Prompt { choice, logprobs } => {
            let logprobs: Vec<Scored> = logprobs.iter().map(|(x, top)| scored(x, top)).collect();
            ("prompt", choice, logprobs).into_bound_py_any(py)
        }
        Update::Chunk(Chunk { choice, count, parts, token }) => {
            let parts: Vec<_> = parts.into_iter().map(|p| part(py, p)).collect::<PyResult<_>>()?;
            let scored = token.map(|(id, Logprobs { token, top })| {
                let (logprob, top) = scored(token, &top);
                (id, logprob, top)
            });
            ("chunk", choice, count, parts, scored).into_bound_py_any(py)
        }
        Update::End(End { choice, reason, stop, stats }) => {
            ("end", choice, reason.name(), stop, counts(py, &stats)?).into_bound_py_any(py)
        }
        Update::Failed(failed) => Err(problem(failed)),
    }
}

fn part(py: Python<'_>, part: Part) -> PyResult<Bound<'_, PyAny>> {
    match part {
        Part::Text(text) => ("text", text).into_bound_py_any(py),
        Part::Reasoning(text) => ("reasoning", text).into_bound_py_any(py),
        Part::Call { index, id, name } => ("call", index, id, name).into_bound_py_any(py),
        Part::Arguments { index, text } => ("arguments", index, text).into_bound_py_any(py),
        Part::CallEnd { index, complete } => ("call_end", index, complete).into_bound_py_any(py),
    }
}

fn counts<'py>(py: Python<'py>, stats: &Stats) -> PyResult<Bound<'py, PyDict>> {
    let counts = PyDict::new(py);
    counts.set_item("prompt_tokens", stats.prompt_tokens)?;
    counts.set_item("cached_tokens", stats.reused_tokens)?;
    counts.set_item("generated_tokens", stats.generated)?;
    counts.set_item("prefill_seconds", stats.prefill.as_secs_f64())?;
    counts.set_item("decode_tokens_per_second", stats.decode_tps())?;
    Ok(counts)
}
