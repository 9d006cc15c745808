//! Hooks for tests, whose outcome must not depend on the speed of the machine. No stability promise.

use crate::runner::Command;
use crate::server::Handle;

/// Lets the engines run only this many more steps; `None` = without limit.
pub fn limit_steps(handle: &Handle, steps: Option<u64>) {
    handle.command(|| Command::Steps(steps));
}

/// Ends the engines as if they had failed.
pub fn fail_engines(handle: &Handle) {
    handle.command(|| Command::Fail);
}
