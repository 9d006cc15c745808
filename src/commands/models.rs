//! `nanoinfer models`: lists and removes cached models.

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use nanoinfer_hub::{Entry, Store};

use crate::args::{Models, ModelsAction};
use crate::output::print_json;
use crate::status::say;

const DAY: u64 = 24 * 60 * 60;

pub(crate) fn run(args: Models) -> Result<ExitCode> {
    let store = Store::open()?;
    let (entries, removed) = match &args.action {
        None | Some(ModelsAction::List) => (store.list()?, false),
        Some(ModelsAction::Remove { name: Some(name), .. }) => (store.remove(name)?, true),
        Some(ModelsAction::Remove { name: None, unused }) => {
            let days = unused.unwrap_or_default();
            (store.remove_unused(Duration::from_secs(days.saturating_mul(DAY)))?, true)
        }
    };
    if args.json {
        print_json(&entries)?;
        return Ok(ExitCode::SUCCESS);
    }
    table(&entries, removed)?;
    if entries.is_empty() {
        say(if removed {
            "all cached models were used more recently; nothing was removed"
        } else {
            "the cache is empty; `nanoinfer chat` fetches and converts a model"
        });
    }
    Ok(ExitCode::SUCCESS)
}

fn table(entries: &[Entry], removed: bool) -> std::io::Result<()> {
    let mut out = stdout().lock();
    let width = entries.iter().map(|e| e.name.len()).max().unwrap_or(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let verb = if removed { "removed " } else { "" };
    for e in entries {
        let mb = e.bytes.div_ceil(1_000_000);
        let (made, used) = (ago(now, e.made), ago(now, e.used));
        let source = nanoinfer_text::terminal_safe(&e.source).replace('\n', " ");
        let source = if source.is_empty() { "unknown source" } else { &source };
        let Entry { name, kind, .. } = e;
        let line = format!("{verb}{name:width$}  {kind:6}  {mb:>6} MB");
        writeln!(out, "{line}  made {made:>13}  used {used:>13}  {source}")?;
    }
    Ok(())
}

/// How long ago, in whole days.
fn ago(now: u64, then: u64) -> String {
    match now.saturating_sub(then) / DAY {
        0 => "today".into(),
        1 => "1 day ago".into(),
        days => format!("{days} days ago"),
    }
}
