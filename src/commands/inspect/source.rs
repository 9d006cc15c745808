//! The contents of a Hugging Face folder, or a GGUF, safetensors or PyTorch file.

use std::io::{BufWriter, Write, stdout};
use std::path::Path;

use anyhow::Result;
use nanoinfer_packer::{Description, SourceTensor};
use nanoinfer_text::terminal_safe;
use serde_json::{Value, json};

use crate::output::print_json;

/// Prints the contents of a model source.
pub(super) fn show(path: &Path, d: &Description, as_json: bool) -> Result<()> {
    if as_json {
        return print_json(&object(d));
    }
    let mut out = BufWriter::new(stdout().lock());
    summary(path, d, &mut out)?;
    Ok(out.flush()?)
}

fn object(d: &Description) -> Value {
    let settings: serde_json::Map<String, Value> =
        d.settings.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
    let tensor = |t: &SourceTensor| {
        json!({ "name": t.name, "file": t.file, "dtype": t.dtype, "experts": t.experts,
                "shape": t.shape,
            "offset": t.offset, "bytes": t.bytes })
    };
    let group = |(name, n, bytes): (String, usize, u64)| json!({ "name": name, "tensors": n, "bytes": bytes });
    json!({
        "kind": d.kind,
        "settings": settings,
        "parameters": parameters(d),
        "config": d.config.as_ref().ok(),
        "refused": d.config.as_ref().err(),
        "dtypes": groups(d, |t| t.dtype.to_owned()).into_iter().map(group).collect::<Vec<_>>(),
        "roles": groups(d, |t| role(&t.name)).into_iter().map(group).collect::<Vec<_>>(),
        "tensors": d.tensors.iter().map(tensor).collect::<Vec<_>>(),
    })
}

fn summary(path: &Path, d: &Description, out: &mut impl Write) -> Result<()> {
    let safe = |text: &str| terminal_safe(text).replace('\n', " ");
    writeln!(out, "source        {} ({})", safe(&path.to_string_lossy()), d.kind)?;
    let bytes: u64 = d.tensors.iter().map(|t| t.bytes).sum();
    let millions = parameters(d) / 1_000_000;
    writeln!(out, "weights       {millions} M in {} tensors, {bytes} bytes", d.tensors.len())?;
    match &d.config {
        Ok(c) => writeln!(
            out,
            "converts      yes: {}, {} layers of width {}",
            safe(&c.architecture),
            c.n_layers,
            c.d_model
        )?,
        Err(why) => writeln!(out, "converts      no: {}", safe(why))?,
    }
    let width = d.settings.iter().map(|(k, _)| k.len()).max().unwrap_or(0).min(50);
    if !d.settings.is_empty() {
        writeln!(out)?;
    }
    for (key, value) in &d.settings {
        writeln!(out, "{:<width$}  {}", safe(key), safe(value))?;
    }
    for (title, groups) in
        [("format", groups(d, |t| t.dtype.to_owned())), ("role", groups(d, |t| role(&t.name)))]
    {
        writeln!(out, "\n{title:<46} {:>7} {:>14}", "tensors", "bytes")?;
        for (name, n, bytes) in groups {
            writeln!(out, "{:<46} {n:>7} {bytes:>14}", safe(&name))?;
        }
    }
    writeln!(
        out,
        "\n{:<46} {:<7} {:>16} {:>14} {:>14}",
        "tensor", "format", "shape", "offset", "bytes"
    )?;
    for t in &d.tensors {
        let [n, k] = t.shape;
        let stack = if t.experts == 1 { String::new() } else { format!("{}, ", t.experts) };
        let (name, shape) = (safe(&t.name), format!("[{stack}{n}, {k}]"));
        writeln!(out, "{name:<46} {:<7} {shape:>16} {:>14} {:>14}", t.dtype, t.offset, t.bytes)?;
    }
    Ok(())
}

fn parameters(d: &Description) -> u64 {
    d.tensors.iter().map(|t| (t.experts * t.shape[0] * t.shape[1]) as u64).sum()
}

/// A tensor's name with each number replaced by `*`, so that all layers share one name.
fn role(name: &str) -> String {
    let part = |part| if is_number(part) { "*" } else { part };
    name.split('.').map(part).collect::<Vec<_>>().join(".")
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

/// Number of tensors and bytes per `key`, largest first.
fn groups(d: &Description, key: impl Fn(&SourceTensor) -> String) -> Vec<(String, usize, u64)> {
    let mut groups: std::collections::BTreeMap<String, (usize, u64)> = Default::default();
    for t in &d.tensors {
        let group = groups.entry(key(t)).or_default();
        *group = (group.0 + 1, group.1 + t.bytes);
    }
    let mut groups: Vec<_> = groups.into_iter().map(|(k, (n, bytes))| (k, n, bytes)).collect();
    groups.sort_by_key(|g| std::cmp::Reverse(g.2));
    groups
}
