//! Hooks for benchmarks and tests. **No stability promise**: anything here may change in any release.

pub use crate::batch::PassCosts;
pub use crate::speculate::{DraftCosts, Script};
use crate::{Batch, Session};

/// Overrides the tokens of the session's next answers and the costs used for drafting decisions; `None`
/// restores the model's own output and measured costs.
pub fn set_script(session: &mut Session, script: Option<Script>) {
    session.set_script(script);
}

/// Overrides the costs on which a batch bases its plans and by which it accounts for time; `None` restores
/// measured ones. Plans then do not depend on the machine.
pub fn set_costs(batch: &mut Batch, costs: Option<PassCosts>) {
    batch.set_costs(costs);
}
