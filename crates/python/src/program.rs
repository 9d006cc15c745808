//! Conversion, and the command.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use nanoinfer::calibrate::{OwnText, Text};
use nanoinfer::errors::HubError;
use nanoinfer::fetch::Online;
use nanoinfer::{ConvertOptions, ModelRef, Precision, Status, Store};
use pyo3::prelude::*;

use crate::blocking::work;
use crate::errors::{RequestError, failure};

/// Converts a published model.
#[pyfunction]
#[pyo3(signature = (source, out, quant, calibrate, status=None))]
pub(crate) fn convert(
    py: Python<'_>,
    source: OsString,
    out: PathBuf,
    quant: &str,
    calibrate: bool,
    status: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let quant: Precision =
        quant.parse().map_err(|e| RequestError::new_err(format!("quant: {quant:?}: {e}")))?;
    let mut options = ConvertOptions::new(quant);
    options.calibrate = calibrate.then(|| Text::Own(OwnText::default()));
    let convert = move |status: &mut dyn FnMut(Status<'_>)| -> Result<(), HubError> {
        let model = ModelRef::parse(&source)?;
        Store::open()?.convert(&model, &out, &options, Some(&Online), status)
    };
    work(py, status, convert)?.map_err(failure)
}

/// Runs the command with these arguments, of which the first is its name, and returns its exit code.
#[pyfunction]
pub(crate) fn main(py: Python<'_>, args: Vec<OsString>) -> u8 {
    let code = py.detach(|| nanoinfer::program::run(args));
    (0..=u8::MAX).find(|&n| ExitCode::from(n) == code).unwrap_or(1)
}
