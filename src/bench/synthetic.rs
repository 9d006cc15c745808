//! A random-weight model of a known shape, in memory.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nanoinfer_engine::available_memory;
use nanoinfer_packer::Staged;
use nanoinfer_packer::fetch::Step;
use nanoinfer_packer::synthetic::{Shape, build as build_in};

use crate::report::{Reporter, say};

/// A file in a memory file system, so that it is mapped like any model: what is measured is what
/// a person would see. It has a name only until what is returned is dropped.
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
        bar.step(Step::Progress { done: p.done, total: p.total });
    };
    build_in(&shape, &folder(bytes), &mut progress)
        .with_context(|| format!("--synthetic {name}: cannot build the model"))
}

/// The memory file system if there is one with room, else the folder for temporary files.
fn folder(bytes: u64) -> PathBuf {
    let shm = Path::new("/dev/shm");
    if has_room(shm, bytes) { shm.into() } else { std::env::temp_dir() }
}

#[cfg(unix)]
fn has_room(folder: &Path, bytes: u64) -> bool {
    let room = rustix::fs::statvfs(folder).map(|s| s.f_bavail.saturating_mul(s.f_frsize));
    room.is_ok_and(|room| room > bytes + (1 << 20))
}

#[cfg(not(unix))]
fn has_room(_: &Path, _: u64) -> bool {
    false
}
