//! What differs between operating systems, and nothing else: no models, no tensors, no messages.
//!
//! Other crates call these functions and name no system themselves. (The one exception is the
//! kernels' detection of instruction sets, where a system has to permit AMX.)
//!
//! | module | Linux | other Unix | elsewhere |
//! |---|---|---|---|
//! | [`cpu`] | affinity, quota, topology, name, caches, load | what std knows; else `None` | as Unix |
//! | [`memory`] | available, total and resident bytes | `None` | `None` |
//! | [`file`](mod@file) | all of it | no memory file system | and no modes, symlinks or synced folders |
//! | [`fault`] | a sentence, then exit code 1 | the same | the system's own way to end |
//! | [`ending`] | SIGINT, SIGTERM, SIGHUP | the same | Ctrl-C |
//! | [`terminal`] | `TERM` decides; restored after a fault | the same | any terminal can be drawn on |
//! | [`time`] | CPU time | CPU time | `None` |
//! | [`float`] | by architecture: MXCSR, FPCR | the same | the same |
//!
//! Where a system does not say something, a function returns `None` rather than a guess.

pub mod cpu;
pub mod ending;
pub mod fault;
pub mod file;
pub mod float;
pub mod memory;
mod proc;
pub mod terminal;
pub mod time;
