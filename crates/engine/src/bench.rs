//! Hooks for benchmarks and tests. **No stability promise**: anything here may change in any release.

use crate::Session;
pub use crate::speculate::{DraftCosts, Script};

/// Overrides what the session's next answers say and what its drafting decisions are based on; `None`
/// lets the model speak for itself again.
pub fn set_script(session: &mut Session, script: Option<Script>) {
    session.set_script(script);
}
