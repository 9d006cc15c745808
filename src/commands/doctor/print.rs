//! The findings as text.

use std::io::{Write, stdout};

use anyhow::Result;
use nanoinfer_text::terminal_safe;

use super::findings::{Findings, Fit};

pub(super) fn print(findings: &Findings) -> Result<()> {
    Ok(write(&mut stdout().lock(), findings)?)
}

fn write(out: &mut impl Write, r: &Findings) -> std::io::Result<()> {
    let cpu = r.machine.cpu.as_deref().map_or("unknown CPU".into(), terminal_safe);
    let cache = r
        .machine
        .last_level_cache
        .map_or(String::new(), |bytes| format!(", {} MiB of last-level cache", bytes >> 20));
    let (system, architecture) = (r.machine.system, r.machine.architecture);
    writeln!(out, "nanoinfer {} on {system}, {architecture}\n", r.version)?;
    writeln!(out, "machine    {cpu}{cache}")?;
    let t = &r.threads;
    writeln!(
        out,
        "           {} hardware threads, {} allowed on {} physical cores, CPU quota for {}",
        t.online, t.allowed, t.physical, t.granted
    )?;
    writeln!(out, "isa        {}: {}", r.isa.used, r.isa.reason)?;
    writeln!(out, "           available: {}", r.isa.available.join(", "))?;
    writeln!(out, "threads    {}: {}", t.used, t.reason)?;
    let [available, total] = [r.memory.available, r.memory.total].map(size);
    writeln!(out, "memory     {available} available of {total}")?;
    let [[bandwidth, b_min, b_max], [int8, i_min, i_max]] =
        [r.roofline.bandwidth, r.roofline.int8].map(|x| x.map(|x| x / 1e9));
    writeln!(out, "roofline   memory {bandwidth:.1} GB/s ({b_min:.1}–{b_max:.1})")?;
    writeln!(out, "           int8 {int8:.0} GOPS ({i_min:.0}–{i_max:.0})")?;
    writeln!(out, "           balanced at {:.0} operations per byte read", r.roofline.ridge)?;
    let faster = r.encodings.iter().filter(|e| e.encoding != "q8");
    let faster: Vec<_> = faster.map(|e| format!("{} {:.1}", e.encoding, e.relative)).collect();
    writeln!(out, "weights    {} times as fast as q8, for one token", faster.join(", "))?;
    writeln!(out, "\nModels of well-known shapes, with room for 4096 tokens (speed: in q8):\n")?;
    writeln!(
        out,
        "shape                    parameters  needs q8       q5       q4       q3   fits   expected tokens/s"
    )?;
    let room = r.memory.available.unwrap_or(u64::MAX);
    let (fitting, others): (Vec<_>, Vec<_>) = r
        .models
        .iter()
        .map(|model| (model, best(model, room)))
        .partition(|(_, best)| best.is_some());
    for (model, best) in fitting {
        row(out, model, best.unwrap_or_default())?;
    }
    if !others.is_empty() {
        writeln!(out, "\nnot even in 3 bits:")?;
        for (model, _) in others {
            row(out, model, "no")?;
        }
    }
    let l = &r.largest;
    writeln!(
        out,
        "\nlargest    about {:.1} billion parameters ({}), about {:.1} tokens/s",
        l.parameters as f64 / 1e9,
        size(Some(l.bytes)),
        l.decode_tps
    )?;
    r.advice.iter().try_for_each(|advice| writeln!(out, "advice     {advice}"))
}

/// The precisions of the table, best first.
const PRECISIONS: [&str; 4] = ["q8", "q5", "q4", "q3"];

/// The best precision in which a model fits.
fn best(m: &Fit, room: u64) -> Option<&'static str> {
    PRECISIONS.into_iter().find(|quant| m.needs.get(quant).is_some_and(|&bytes| bytes <= room))
}

fn row(out: &mut impl Write, m: &Fit, fits: &str) -> std::io::Result<()> {
    let parameters = match m.parameters {
        n if n < 1_000_000_000 => format!("{:.0} M", n as f64 / 1e6),
        n => format!("{:.2} G", n as f64 / 1e9),
    };
    write!(out, "{:<23} {parameters:>11}", m.shape)?;
    for quant in PRECISIONS {
        write!(out, " {:>8}", size(m.needs.get(quant).copied()))?;
    }
    writeln!(out, " {fits:>6} {:>19.1}", m.decode_tps)
}

fn size(bytes: Option<u64>) -> String {
    bytes.map_or("unknown".into(), |bytes| format!("{:.1} GB", bytes as f64 / 1e9))
}
