//! Hooks for benchmarks and tests. **No stability promise**: anything here may change in any release.

use crate::Session;
pub use crate::speculate::{DraftCosts, Script};

/// Overrides the tokens of the session's next answers and the costs used for drafting decisions; `None`
/// restores the model's own output and measured costs.
pub fn set_script(session: &mut Session, script: Option<Script>) {
    session.set_script(script);
}
