//! Everything that differs between operating systems, and nothing else: no models, no tensors, no
//! messages.
//!
//! Other crates call these functions and never name an operating system. (The one exception is
//! instruction set detection in the kernels, because the system must permit AMX.)
//!
//! | module | Linux | other Unix | elsewhere |
//! |---|---|---|---|
//! | [`cpu`] | affinity, quota, topology, name, caches, load | core counts from std, else `None` | the same |
//! | [`memory`] | available, total and resident bytes | `None` | `None` |
//! | [`file`](mod@file) | everything | no tmpfs | no tmpfs, mode bits, symlinks or folder sync |
//! | [`fault`] | a message, then exit code 1 | the same | the system's default |
//! | [`ending`] | SIGINT, SIGTERM, SIGHUP | the same | Ctrl-C |
//! | `local` (feature `local`) | Unix sockets | Unix sockets | none |
//! | `sandbox` (feature `service`) | Landlock and seccomp | none | none |
//! | `service` (feature `service`) | `NOTIFY_SOCKET`, `LISTEN_FDS` | the same, without abstract sockets | none |
//! | [`terminal`] | full screen unless `TERM` rules it out; restored after a fault | the same | always full screen |
//! | [`pages`] | large pages | no effect | no effect |
//! | [`time`] | CPU time | CPU time | `None` |
//! | [`wake`] | a pair of sockets | a pair of sockets | `None` |
//! | [`float`] | by architecture: MXCSR, FPCR | the same | the same |
//!
//! If a system does not provide a value, the function returns `None` rather than a guess.

pub mod cpu;
pub mod ending;
pub mod fault;
pub mod file;
pub mod float;
#[cfg(feature = "local")]
pub mod local;
pub mod memory;
pub mod pages;
mod proc;
#[cfg(feature = "service")]
pub mod sandbox;
#[cfg(feature = "service")]
pub mod service;
pub mod terminal;
pub mod time;
pub mod wake;
