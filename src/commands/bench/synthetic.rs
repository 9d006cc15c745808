//! A model of a known shape with random weights, in memory.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use nanoinfer_engine::{Model, available_memory};
use nanoinfer_format::{Precision, Quant};
use nanoinfer_packer::Staged;
use nanoinfer_packer::synthetic::{Shape, build};
use nanoinfer_platform::file;

use crate::status::{Reporter, say};

/// Builds the model as a temporary file, on a tmpfs if one has room. It is read into memory if it fits there a second
/// time: in large pages, as files on most disks are mapped and those on a tmpfs are not, so that speeds carry over.
/// Otherwise it is mapped, and the file is deleted when the second value is dropped.
pub(super) fn open(name: &str, quant: Precision) -> Result<(Model, Option<Staged>)> {
    let shape = match Shape::find(name) {
        Some(known) => known,
        None => Shape::read(Path::new(name)).context("--synthetic")?,
    };
    ensure!(
        quant != Quant::F32.into(),
        "--quant f32: synthetic models have at most 8 bits; use q8"
    );
    let shape = shape.with_precision(quant).context("--quant")?;
    let (mb, bytes) = (shape.bytes() >> 20, shape.bytes());
    let available = available_memory().unwrap_or(u64::MAX);
    ensure!(
        bytes < available,
        "--synthetic {name}: needs {mb} MB of memory, but {} MB is available; use a smaller shape",
        available >> 20
    );
    say(&format!("building {name} with random {quant} weights ({mb} MB)"));
    let mut reporter = Reporter::default();
    let mut progress = |p: nanoinfer_packer::Progress| reporter.progress(p.done, p.total);
    let folder = file::in_memory(bytes).unwrap_or_else(std::env::temp_dir);
    let staged = build(&shape, &folder, &mut progress)
        .with_context(|| format!("--synthetic {name}: cannot build the model"))?;
    if available_memory().is_some_and(|available| bytes < available / 2) {
        return Ok((Model::open_copy(staged.path())?, None));
    }
    Ok((Model::open(staged.path())?, Some(staged)))
}
