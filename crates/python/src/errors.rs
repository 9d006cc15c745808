//! Exceptions, whose messages are those of the library.

use std::fmt::Display;

use nanoinfer::local::{Kind, OpenError, Problem};
use pyo3::PyErr;
use pyo3::create_exception;
use pyo3::exceptions::PyException;

create_exception!(
    nanoinfer,
    NanoInferError,
    PyException,
    "Something failed; the message says what to do."
);
create_exception!(
    nanoinfer,
    RequestError,
    NanoInferError,
    "A request, or an option, has a wrong value."
);
create_exception!(nanoinfer, BusyError, NanoInferError, "Too many requests wait; try again later.");

/// The exception for a problem with a request or its answer.
pub(crate) fn problem(problem: Problem) -> PyErr {
    match problem.kind {
        Kind::Invalid | Kind::NotFound => RequestError::new_err(problem.message),
        Kind::Busy => BusyError::new_err(problem.message),
        _ => NanoInferError::new_err(problem.message),
    }
}

/// The exception for a model that cannot be opened.
pub(crate) fn opening(error: OpenError) -> PyErr {
    match error {
        OpenError::Option { .. } => RequestError::new_err(error.to_string()),
        error => failure(error),
    }
}

/// The exception for anything else.
pub(crate) fn failure(error: impl Display) -> PyErr {
    NanoInferError::new_err(error.to_string())
}
