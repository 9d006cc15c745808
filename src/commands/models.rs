//! `nanoinfer models`: lists and removes cached models.

use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::Result;
use nanoinfer_hub::{Entry, Store};

use crate::args::{Models, ModelsAction};
use crate::output::print_json;
use crate::status::say;

pub(crate) fn run(args: Models) -> Result<ExitCode> {
    let store = Store::open()?;
    let (entries, removed) = match &args.action {
        None | Some(ModelsAction::List) => (store.list()?, false),
        Some(ModelsAction::Remove { name }) => (store.remove(name)?, true),
    };
    if args.json {
        print_json(&entries)?;
    } else {
        table(&entries, removed)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(entries: &[Entry], removed: bool) -> std::io::Result<()> {
    let mut out = stdout().lock();
    let width = entries.iter().map(|e| e.name.len()).max().unwrap_or(0);
    for e in entries {
        let verb = if removed { "removed " } else { "" };
        let mb = e.bytes.div_ceil(1_000_000);
        writeln!(out, "{verb}{:width$}  {:6}  {mb:>6} MB", e.name, e.kind)?;
    }
    if entries.is_empty() {
        say("the cache is empty; `nanoinfer chat` fetches and converts a model");
    }
    Ok(())
}
