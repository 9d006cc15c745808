//! Gives up what a process no longer needs, so that code that takes it over finds little to use.
//!
//! | | Linux | elsewhere |
//! |---|---|---|
//! | files | Landlock: only what [`enter`] is given | – |
//! | system calls | seccomp: no programs, no new connections, no new machine code | – |
//!
//! Neither can be undone. Both are best effort: what the kernel does not offer is reported, and is no error.

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
mod calls;
#[cfg(target_os = "linux")]
mod files;

use std::path::PathBuf;

/// What is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The restriction to certain files.
    pub files: Restriction,
    /// The restriction to certain system calls.
    pub calls: Restriction,
}

/// Whether a restriction is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restriction {
    /// Completely.
    Full,
    /// As far as this kernel, which is older, knows it.
    Partial,
    /// Not at all, with the reason.
    None(String),
}

/// Restricts this thread and the threads that it starts: call this before there are others. System calls are
/// restricted for all threads.
///
/// Files can then only be read if they are among `read` or in folders among them, or describe the machine or
/// this process; and only be written in folders among `write`. What is open stays usable, as is what is mapped.
/// Paths that do not exist are left out.
///
/// No program can be started, and no connection opened; those to sockets that listen already are accepted.
#[cfg(target_os = "linux")]
pub fn enter(read: &[PathBuf], write: &[PathBuf]) -> Sandbox {
    Sandbox { files: restrict_files(read, write), calls: restrict_calls() }
}

/// Does nothing: this system has no such restrictions.
#[cfg(not(target_os = "linux"))]
pub fn enter(_read: &[PathBuf], _write: &[PathBuf]) -> Sandbox {
    let none = || Restriction::None("this system has none".to_owned());
    Sandbox { files: none(), calls: none() }
}

#[cfg(target_os = "linux")]
fn restrict_files(read: &[PathBuf], write: &[PathBuf]) -> Restriction {
    match files::restrict(read, write) {
        Ok(landlock::RulesetStatus::FullyEnforced) => Restriction::Full,
        Ok(landlock::RulesetStatus::PartiallyEnforced) => Restriction::Partial,
        Ok(landlock::RulesetStatus::NotEnforced) => {
            Restriction::None("this kernel has no Landlock, or it is disabled".to_owned())
        }
        Err(error) => Restriction::None(error.to_string()),
    }
}

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
fn restrict_calls() -> Restriction {
    calls::restrict().map_or_else(|e| Restriction::None(e.to_string()), |()| Restriction::Full)
}

#[cfg(all(
    target_os = "linux",
    not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))
))]
fn restrict_calls() -> Restriction {
    Restriction::None("the calls of this architecture are not listed".to_owned())
}
