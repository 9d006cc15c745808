//! The extension module of the Python package `nanoinfer`: [`nanoinfer::local`] as Python objects, with requests and
//! updates as plain values. What users see, with its documentation, is in `python/nanoinfer`.
//!
//! ```text
//! errors      exceptions
//! blocking    waiting without the interpreter's lock, and with Ctrl-C
//! signals     what wakes an event loop
//! updates     updates of an answer as tuples
//! answers     answers while they are generated, and other results that are not there yet
//! model       an open model, its server
//! program     conversion, and the command
//! ```
//!
//! No thread of Rust ever enters the interpreter, so nothing here can hold up its end.

mod answers;
mod blocking;
mod errors;
mod model;
mod program;
mod signals;
mod updates;

/// The extension module.
#[pyo3::pymodule(name = "_core")]
mod module {
    #[pymodule_export]
    use crate::answers::{Answers, Floats, collect};
    #[pymodule_export]
    use crate::errors::{BusyError, NanoInferError, RequestError};
    #[pymodule_export]
    use crate::model::{Exchange, Model, Server, open};
    #[pymodule_export]
    use crate::program::{convert, main};
    #[pymodule_export]
    use crate::signals::Waker;

    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
