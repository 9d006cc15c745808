//! `nanoinfer inspect`: the contents of a model file, converted or not.

mod bits;
mod nano;
mod source;

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use nanoinfer_format::{MAGIC, NanoFile};
use nanoinfer_packer::{Input, TensorError, compare, describe};

use crate::args::Inspect;
use crate::status::{Reporter, say};

pub(crate) fn run(args: Inspect) -> Result<ExitCode> {
    if is_nano(&args.file)? {
        let file = NanoFile::open(&args.file)?;
        let errors = args.against.as_deref().map(|source| errors(&file, source)).transpose()?;
        nano::show(&file, &errors.unwrap_or_default(), args.json)?;
    } else {
        if args.against.is_some() {
            bail!("--against: only a .nano file can be compared with its source");
        }
        source::show(&args.file, &describe(&args.file)?, args.json)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the name or content identifies a `.nano` file. The format's reader reports other problems.
fn is_nano(path: &Path) -> Result<bool> {
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("nano")) {
        return Ok(true);
    }
    if path.is_dir() {
        return Ok(false);
    }
    let mut head = Vec::new();
    std::fs::File::open(path)
        .and_then(|f| f.take(MAGIC.len() as u64).read_to_end(&mut head))
        .with_context(|| format!("{}: cannot open", path.display()))?;
    Ok(head == MAGIC)
}

fn errors(file: &NanoFile, source: &Path) -> Result<Vec<TensorError>> {
    say(&format!("comparing with {}", source.display()));
    let mut reporter = Reporter::default();
    let progress = |done, total| reporter.progress(done, total);
    Ok(compare(file, &Input::detect(source)?, progress)?)
}
