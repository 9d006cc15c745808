//! The contents of a `.nano` file.

use std::io::{BufWriter, Write, stdout};

use anyhow::Result;
use nanoinfer_format::{NanoFile, Section, SectionKind, Tensor, VERSION};
use nanoinfer_packer::TensorError;
use nanoinfer_text::terminal_safe;
use serde_json::{Value, json};

use super::bits;
use crate::output::print_json;
use crate::parameters::parameters;

/// Prints the contents of a file, with quantization errors if it was compared with its source.
pub(super) fn show(file: &NanoFile, errors: &[TensorError], as_json: bool) -> Result<()> {
    if as_json {
        return print_json(&object(file, errors));
    }
    let mut out = BufWriter::new(stdout().lock());
    summary(file, errors, &mut out)?;
    Ok(out.flush()?)
}

/// The quantization error of a tensor, if it was compared.
fn error_of<'a>(errors: &'a [TensorError], t: &Tensor) -> Option<&'a TensorError> {
    errors.iter().find(|e| (e.role, e.layer) == (t.spec.role, t.spec.layer))
}

fn object(file: &NanoFile, errors: &[TensorError]) -> Value {
    let header = file.header();
    let sections: Vec<Value> = file.sections().iter().map(section).collect();
    let tensors: Vec<Value> =
        file.tensors().iter().map(|t| tensor(t, error_of(errors, t))).collect();
    let mut object = json!({
        "format_version": VERSION,
        "file_len": header.file_len,
        "content_id": hex(&header.content_id),
        "required_features": header.required_features,
        "optional_features": header.optional_features,
        "config": file.config(),
        "generation": file.generation(),
        "provenance": provenance(file),
        "parameters": parameters(file),
        "bits_per_weight": bits_per_weight(file),
        "roles": roles(file).into_iter().map(|(name, n, bytes)| {
            json!({ "role": name, "tensors": n, "bytes": bytes })
        }).collect::<Vec<_>>(),
        "sections": sections,
        "tensors": tensors,
    });
    if let (Value::Object(all), Value::Object(more)) = (&mut object, bits::object(file)) {
        all.extend(more);
    }
    object
}

fn section(s: &Section) -> Value {
    json!({ "kind": s.kind.name(), "offset": s.offset, "len": s.len, "hash": hex(&s.hash) })
}

fn tensor(t: &Tensor, error: Option<&TensorError>) -> Value {
    let parts: Vec<Value> = t
        .spec
        .parts
        .iter()
        .map(|p| {
            json!({
                "role": p.role.name(),
                "n": p.n,
                "count": p.count,
                "rows": p.rows,
                "encoding": p.encoding.name(),
            })
        })
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
        "relative_error": error.map(|e| e.relative),
        "largest_error": error.map(|e| e.largest),
    })
}

fn summary(file: &NanoFile, errors: &[TensorError], out: &mut impl Write) -> Result<()> {
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
    if let Some(e) = &c.experts {
        let sparse = e.layers.iter().filter(|&&sparse| sparse).count();
        writeln!(
            out,
            "experts       {} of {} for each token in {sparse} layers, feed-forward {}",
            e.experts_per_token, e.n_experts, e.d_ff
        )?;
        if let Some(shared) = &e.shared {
            let gate = if shared.gate { ", with a gate" } else { "" };
            writeln!(out, "shared        feed-forward {}{gate}", shared.d_ff)?;
        }
    }
    writeln!(
        out,
        "attention     {} heads of {}, {} key/value heads",
        c.n_heads, c.head_dim, c.n_kv_heads
    )?;
    let tied = if c.tied_embeddings { ", tied to the output" } else { "" };
    writeln!(out, "vocabulary    {}{tied}", c.vocab_size)?;
    writeln!(out, "context       {}, RoPE base {}", c.context_length, c.rope_theta)?;
    bits::summary(file, out)?;
    writeln!(out, "\n{:<20} {:>12} {:>12}", "section", "offset", "bytes")?;
    for s in file.sections() {
        writeln!(out, "{:<20} {:>12} {:>12}", s.kind.name(), s.offset, s.len)?;
    }
    let roles = roles(file);
    let bits = bits_per_weight(file);
    writeln!(
        out,
        "\n{:<22} {:>7} {:>12}   of the file ({bits:.2} bits per weight)",
        "role", "tensors", "bytes"
    )?;
    for (name, n, bytes) in roles {
        let percent = 100.0 * bytes as f64 / header.file_len as f64;
        writeln!(out, "{name:<22} {n:>7} {bytes:>12}   {percent:>5.1} %")?;
    }
    bits::table(file, out)?;
    tensors(file, errors, out)
}

fn tensors(file: &NanoFile, errors: &[TensorError], out: &mut impl Write) -> Result<()> {
    let columns = format!("{:>16} {:>12} {:>12}", "shape", "offset", "bytes");
    let compared = if errors.is_empty() { "" } else { "     error        dB    largest" };
    writeln!(out, "\n{:<22} {:<10} {columns}{compared}", "tensor", "encoding")?;
    for t in file.tensors() {
        let layer = t.spec.layer.map_or(String::new(), |l| format!("{l}."));
        let name = format!("{layer}{}", t.spec.role.name());
        let [e, n, k] = t.spec.logical;
        let shape = if e == 1 { format!("[{n}, {k}]") } else { format!("[{e}, {n}, {k}]") };
        let encoding = t.spec.encoding.name();
        write!(out, "{name:<22} {encoding:<10} {shape:>16} {:>12} {:>12}", t.offset, t.len)?;
        if let Some(e) = error_of(errors, t) {
            let (decibels, relative) = (-20.0 * e.relative.log10(), e.relative);
            write!(out, " {relative:>9.6} {decibels:>9.1} {:>10.2e}", e.largest)?;
        }
        writeln!(out)?;
        if t.spec.parts.iter().any(|p| p.encoding != t.spec.encoding) {
            for p in &t.spec.parts {
                let part = format!("  {}", p.role.name());
                let rows = format!("{} rows", p.n);
                writeln!(out, "{part:<22} {:<10} {rows:>16}", p.encoding.name())?;
            }
        }
    }
    Ok(())
}

/// Number of tensors and bytes of each role and of the rest of the file, largest first.
fn roles(file: &NanoFile) -> Vec<(&'static str, usize, u64)> {
    let mut roles: Vec<(&str, usize, u64)> = Vec::new();
    for t in file.tensors() {
        let name = t.spec.role.name();
        match roles.iter_mut().find(|r| r.0 == name) {
            Some(role) => (role.1, role.2) = (role.1 + 1, role.2 + t.len),
            None => roles.push((name, 1, t.len)),
        }
    }
    let tensors: u64 = roles.iter().map(|r| r.2).sum();
    roles.push(("text, tables, gaps", 0, file.header().file_len - tensors));
    roles.sort_by_key(|r| std::cmp::Reverse(r.2));
    roles
}

/// Total bits of all tensors divided by the number of weights.
fn bits_per_weight(file: &NanoFile) -> f64 {
    let bytes: u64 = file.tensors().iter().map(|t| t.len).sum();
    8.0 * bytes as f64 / parameters(file) as f64
}

/// The origin of the model; null if the file does not record it.
fn provenance(file: &NanoFile) -> Value {
    let bytes = file.section(SectionKind::Provenance).map(|(_, bytes)| bytes);
    bytes.and_then(|b| serde_json::from_slice(b).ok()).unwrap_or(Value::Null)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
