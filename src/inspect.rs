//! `nanoinfer inspect`: what a `.nano` file holds, without reading its weights.

use std::io::{BufWriter, Write, stdout};
use std::process::ExitCode;

use anyhow::Result;
use nanoinfer_format::{NanoFile, Section, SectionKind, Tensor, VERSION};
use nanoinfer_text::terminal_safe;
use serde_json::{Value, json};

use crate::args::Inspect;
use crate::run::print_json;

pub(crate) fn run(args: Inspect) -> Result<ExitCode> {
    let file = NanoFile::open(&args.file)?;
    if args.json {
        print_json(&object(&file))?;
    } else {
        let mut out = BufWriter::new(stdout().lock());
        summary(&file, &mut out)?;
        out.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn object(file: &NanoFile) -> Value {
    let header = file.header();
    let sections: Vec<Value> = file.sections().iter().map(section).collect();
    let tensors: Vec<Value> = file.tensors().iter().map(tensor).collect();
    json!({
        "format_version": VERSION,
        "file_len": header.file_len,
        "content_id": hex(&header.content_id),
        "required_features": header.required_features,
        "optional_features": header.optional_features,
        "config": file.config(),
        "generation": file.generation(),
        "provenance": provenance(file),
        "parameters": parameters(file),
        "sections": sections,
        "tensors": tensors,
    })
}

fn section(s: &Section) -> Value {
    json!({ "kind": s.kind.name(), "offset": s.offset, "len": s.len, "hash": hex(&s.hash) })
}

fn tensor(t: &Tensor) -> Value {
    let parts: Vec<Value> = t
        .spec
        .parts
        .iter()
        .map(|p| json!({ "role": p.role.name(), "n": p.n, "count": p.count, "rows": p.rows }))
        .collect();
    json!({
        "role": t.spec.role.name(),
        "layer": t.spec.layer,
        "encoding": t.spec.encoding.name(),
        "rotation": t.spec.rotation,
        "act_group": t.spec.act_group,
        "logical": t.spec.logical,
        "stored": t.spec.stored,
        "parts": parts,
        "offset": t.offset,
        "len": t.len,
        "hash": hex(&t.hash),
    })
}

fn summary(file: &NanoFile, out: &mut impl Write) -> Result<()> {
    let c = file.config();
    let header = file.header();
    let mb = header.file_len.div_ceil(1_000_000);
    writeln!(out, "file          {} ({mb} MB)", terminal_safe(&file.path().to_string_lossy()))?;
    writeln!(out, "content id    {}", hex(&header.content_id))?;
    if let Some(source) = provenance(file).get("source").and_then(Value::as_str) {
        writeln!(out, "made from     {}", terminal_safe(source))?;
    }
    writeln!(
        out,
        "architecture  {}, {} M parameters",
        terminal_safe(&c.architecture),
        parameters(file) / 1_000_000
    )?;
    writeln!(out, "layers        {} of width {}, feed-forward {}", c.n_layers, c.d_model, c.d_ff)?;
    writeln!(
        out,
        "attention     {} heads of {}, {} key/value heads",
        c.n_heads, c.head_dim, c.n_kv_heads
    )?;
    let tied = if c.tied_embeddings { ", output tied to it" } else { "" };
    writeln!(out, "vocabulary    {}{tied}", c.vocab_size)?;
    writeln!(out, "context       {}, RoPE base {}", c.context_length, c.rope_theta)?;
    writeln!(out, "\n{:<20} {:>12} {:>12}", "section", "offset", "bytes")?;
    for s in file.sections() {
        writeln!(out, "{:<20} {:>12} {:>12}", s.kind.name(), s.offset, s.len)?;
    }
    writeln!(
        out,
        "\n{:<22} {:<10} {:>16} {:>12} {:>12}",
        "tensor", "encoding", "shape", "offset", "bytes"
    )?;
    for t in file.tensors() {
        let layer = t.spec.layer.map_or(String::new(), |l| format!("{l}."));
        let name = format!("{layer}{}", t.spec.role.name());
        let [e, n, k] = t.spec.logical;
        let shape = if e == 1 { format!("[{n}, {k}]") } else { format!("[{e}, {n}, {k}]") };
        let encoding = t.spec.encoding.name();
        writeln!(out, "{name:<22} {encoding:<10} {shape:>16} {:>12} {:>12}", t.offset, t.len)?;
    }
    Ok(())
}

/// Logical weights, padding and derived tables left out.
pub(crate) fn parameters(file: &NanoFile) -> u64 {
    let floats =
        file.tensors().iter().filter(|t| t.spec.encoding != nanoinfer_format::Encoding::U64);
    floats.map(|t| t.spec.logical.iter().map(|&d| u64::from(d)).product::<u64>()).sum()
}

/// Where the model came from; null in a file that does not say.
fn provenance(file: &NanoFile) -> Value {
    let bytes = file.section(SectionKind::Provenance).map(|(_, bytes)| bytes);
    bytes.and_then(|b| serde_json::from_slice(b).ok()).unwrap_or(Value::Null)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
