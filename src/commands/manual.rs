//! `nanoinfer completions` and `nanoinfer man`: shell completions and manual pages.

use std::fs;
use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap_mangen::Man;

use crate::args::{self, Completions, definition};

pub(crate) fn completions(args: Completions) -> Result<ExitCode> {
    let mut script = Vec::new(); // a buffer, because the generator panics on a closed pipe
    clap_complete::generate(args.shell, &mut definition(), "nanoinfer", &mut script);
    stdout().lock().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn run(args: args::Man) -> Result<ExitCode> {
    match args.dir {
        None => {
            Man::new(definition().disable_help_subcommand(true)).render(&mut stdout().lock())?
        }
        Some(dir) => {
            let folder = dir.display();
            fs::create_dir_all(&dir)
                .with_context(|| format!("{folder}: cannot create the folder"))?;
            clap_mangen::generate_to(definition(), &dir)
                .with_context(|| format!("{folder}: cannot write the pages"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
