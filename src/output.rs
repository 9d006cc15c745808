//! Standard output: model text and JSON.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use nanoinfer_engine::{DraftStats, Drafted};
use nanoinfer_interface::terminal;
use serde_json::json;

/// Standard output for model text: exact bytes to a pipe, control characters made visible on a
/// terminal.
pub(crate) fn stdout() -> terminal::Output<io::StdoutLock<'static>> {
    let out = io::stdout().lock();
    let is_terminal = out.is_terminal();
    terminal::Output::new(out, is_terminal)
}

/// Prints one JSON value and a newline.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    let text = serde_json::to_string(value)?;
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Drafting statistics in the schema shared by `generate --json` and `bench -o json`.
pub(crate) fn draft_stats(stats: &DraftStats) -> serde_json::Value {
    let source = |d: Drafted| json!({ "drafted": d.drafted, "accepted": d.accepted, "acceptance": d.acceptance() });
    let mut all = source(stats.all());
    all["passes"] = stats.passes.into();
    all["tokens_per_pass"] = stats.tokens_per_pass().into();
    all["lookup"] = source(stats.lookup);
    all["model"] = source(stats.model);
    all["forced"] = source(stats.forced);
    all
}
