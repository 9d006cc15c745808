//! `nanoinfer logits`: logits at every position, for comparison with other implementations.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use nanoinfer_engine::{BatchToken, Engine};
use nanoinfer_platform::file::{Readers, temp_in};

use crate::args::Logits;
use crate::model;

/// Positions per pass: the engine's default limit on rows of logits.
const CHUNK: usize = 16;

pub(crate) fn run(args: Logits) -> Result<ExitCode> {
    let mut engine = model::engine(&args.model)?;
    let vocab = engine.model().config().vocab_size as usize;
    let n = args.tokens.len();
    if let Some(id) = args.tokens.iter().find(|&&id| id as usize >= vocab) {
        bail!("--tokens: id {id} is not in the vocabulary of {vocab} tokens");
    }
    if n > engine.ctx() {
        let trained = engine.model().config().context_length as usize;
        let advice = if n > trained {
            format!("the model was trained for {trained}: use fewer tokens")
        } else {
            format!("use --ctx {n}")
        };
        bail!("--tokens: {n} tokens do not fit into a context of {}; {advice}", engine.ctx());
    }
    let name = args.out.display().to_string();
    ensure!(!args.out.is_dir(), "{name}: is a folder; specify a file name");
    if args.out.metadata().is_ok_and(|m| !m.is_file()) {
        // A pipe or a device is written to, never replaced.
        let out = File::options().write(true).open(&args.out);
        let out = out.with_context(|| format!("{name}: cannot open"))?;
        write(&mut engine, &args.tokens, out, &name)?;
        return Ok(ExitCode::SUCCESS);
    }
    let folder = match args.out.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let temp = temp_in(folder, ".tmp", Readers::Umask)
        .with_context(|| format!("{name}: cannot create a temporary file in its folder"))?;
    write(&mut engine, &args.tokens, temp.as_file(), &name)?;
    temp.as_file().sync_all()?;
    temp.persist(&args.out)
        .map_err(|e| e.error)
        .with_context(|| format!("{name}: cannot rename the temporary file"))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the logits after each of `tokens` to the output called `name`.
fn write(engine: &mut Engine, tokens: &[u32], out: impl Write, name: &str) -> Result<()> {
    let cannot = || format!("{name}: cannot write");
    let vocab = engine.model().config().vocab_size as usize;
    let mut out = BufWriter::new(out);
    out.write_all(&header(tokens.len(), vocab)?).with_context(cannot)?;
    let seq = engine.open()?;
    for chunk in tokens.chunks(CHUNK) {
        let step = |&token| BatchToken { seq, token, logits: true };
        let pass = engine.forward(&chunk.iter().map(step).collect::<Vec<_>>())?;
        for i in 0..chunk.len() {
            for logit in engine.logits(pass, i)? {
                out.write_all(&logit.to_le_bytes()).with_context(cannot)?;
            }
        }
    }
    out.flush().with_context(cannot)
}

/// The header of a safetensors file with one f32 tensor. Written by hand so that rows can be
/// streamed after it.
fn header(n: usize, vocab: usize) -> Result<Vec<u8>> {
    let bytes = n.checked_mul(vocab).and_then(|x| x.checked_mul(4)).context("too many logits")?;
    let mut json = serde_json::json!({
        "logits": { "dtype": "F32", "shape": [n, vocab], "data_offsets": [0, bytes] }
    })
    .to_string();
    while !json.len().is_multiple_of(8) {
        json.push(' '); // alignment padding as in the specification
    }
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    Ok(header)
}
