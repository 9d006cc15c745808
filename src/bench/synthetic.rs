//! A random-weight model of a known shape, in memory.

use anyhow::{Context, Result, ensure};
use nanoinfer_engine::available_memory;
use nanoinfer_packer::Staged;
use nanoinfer_packer::synthetic::{Shape, build as build_in};
use nanoinfer_platform::file;

use crate::report::{Reporter, say};

/// A file, so that it is mapped like any model: what is measured is what a person would see. It is in
/// a memory file system if there is one with room, and has a name only until what is returned is
/// dropped.
pub(super) fn build(name: &str) -> Result<Staged> {
    let shape = Shape::find(name).context("the command line accepts only known shapes")?;
    let (mb, bytes) = (shape.bytes() >> 20, shape.bytes());
    let available = available_memory().unwrap_or(u64::MAX);
    ensure!(
        bytes < available,
        "--synthetic {name}: needs {mb} MB of memory, {} MB are available",
        available >> 20
    );
    say(&format!("building {name} with random weights ({mb} MB)"));
    let mut bar = Reporter::default();
    let mut progress = |p: nanoinfer_packer::Progress| {
        bar.progress(p.done, p.total);
    };
    let folder = file::in_memory(bytes).unwrap_or_else(std::env::temp_dir);
    build_in(&shape, &folder, &mut progress)
        .with_context(|| format!("--synthetic {name}: cannot build the model"))
}
