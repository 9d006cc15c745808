//! Results as a table, JSON or CSV.

use std::io::{Write, stdout};

use anyhow::Result;
use nanoinfer_engine::{DraftStats, Drafted};
use nanoinfer_format::{ActType, NanoFile, Quant, Role};
use nanoinfer_text::terminal_safe;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::kinds::{Kind, Test};
use super::runner::Runner;
use crate::args::Format;
use crate::limits::Limits;
use crate::output::{draft_stats, print_json};
use crate::parameters::parameters;

/// One test's result.
#[derive(Serialize)]
pub(super) struct Row {
    test: String,
    /// Median tokens per second.
    tps: f64,
    mean: f64,
    sd: f64,
    /// Tokens per second of every run.
    runs: Vec<f64>,
    /// Median over the rounds; null for copies, and for prefill unless all products are 8-bit.
    share_of_limit: Option<f64>,
    limit: &'static str,
    kv: &'static str,
    threads: usize,
    isa: &'static str,
    model: String,
    quant: Quant,
    /// Bits per weight that a pass reads.
    bits: f64,
    parameters: u64,
    /// Bytes that one pass reads: the weights and, for decode, the cache.
    pass_bytes: u64,
    n_prompt: usize,
    n_gen: usize,
    depth: usize,
    batch: usize,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_object")]
    pub(super) profile: Option<Vec<(&'static str, f64)>>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_drafts")]
    drafts: Option<DraftStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reused_tokens: Option<usize>,
    /// Work of one run: number of bytes to read, or of operations.
    #[serde(skip)]
    work: f64,
    #[serde(skip)]
    shares: Vec<f64>,
}

impl Row {
    pub(super) fn new(model: &str, runner: &Runner, test: &Test) -> Self {
        let engine = &runner.engine;
        let file = engine.model().file();
        // Routers and the like are ignored because they are small and always f32.
        let small = |role| matches!(role, Role::FfnRouter | Role::FfnSharedGate);
        let products = file.tensors().iter().filter(|t| !small(t.spec.role));
        let int8 = !products.into_iter().any(|t| t.spec.takes(ActType::F32));
        let prefill = test.kind == Kind::Prefill;
        let limited = test.kind == Kind::Decode || prefill && int8;
        let (pass_bytes, work) = match test.kind {
            Kind::Prefill => {
                let Products { in_layers, head } = Products::of(file);
                let ops = 2.0 * (in_layers as f64 * test.tokens as f64 + head as f64);
                (engine.weight_bytes(test.tokens), ops)
            }
            Kind::Decode | Kind::Copy => {
                // Token i attends to depth + i positions, including itself.
                let pass = |i| engine.decode_bytes(test.batch, test.depth + i);
                let bytes: u64 = (1..=test.tokens).map(pass).sum();
                (bytes / test.tokens as u64, bytes as f64)
            }
        };
        Self {
            test: test.name(),
            tps: 0.0,
            mean: 0.0,
            sd: 0.0,
            runs: Vec::new(),
            share_of_limit: limited.then_some(0.0),
            limit: if prefill { "int8 peak" } else { "memory bandwidth" },
            kv: engine.kv().name(),
            threads: engine.threads(),
            isa: engine.isa().name(),
            model: model.into(),
            quant: engine.model().config().quant,
            bits: file.recipe().bits(file.config()).read,
            parameters: parameters(file),
            pass_bytes,
            n_prompt: if prefill { test.tokens } else { 0 },
            n_gen: if prefill { 0 } else { test.tokens },
            depth: test.depth,
            batch: test.batch,
            version: env!("CARGO_PKG_VERSION"),
            profile: None,
            drafts: None,
            reused_tokens: None,
            work,
            shares: Vec::new(),
        }
    }

    /// Adds a run, with the limits measured in the same round.
    pub(super) fn add(&mut self, test: &Test, seconds: f64, limits: &Limits) {
        self.runs.push(test.total() as f64 / seconds);
        let limit = if test.kind == Kind::Prefill { &limits.int8 } else { &limits.bandwidth };
        self.shares.extend(limit.last().map(|limit| self.work / seconds / limit));
        (self.tps, self.mean, self.sd) = (median(&self.runs), mean(&self.runs), sd(&self.runs));
        self.share_of_limit = self.share_of_limit.map(|_| median(&self.shares));
    }

    /// Records the drafting statistics of a copy test's last run.
    pub(super) fn set_drafts(&mut self, runner: &Runner, test: &Test) {
        let stats = runner.copy_stats().filter(|_| test.kind == Kind::Copy);
        self.drafts = stats.map(|s| s.drafts);
        self.reused_tokens = stats.map(|s| s.reused_tokens);
    }
}

/// Numbers of logical weights that are multiplied by a token.
struct Products {
    in_layers: u64,
    head: u64,
}

impl Products {
    fn of(file: &NanoFile) -> Self {
        let config = file.config();
        let mut all = Self { in_layers: 0, head: 0 };
        for t in file.tensors() {
            let weights = t.spec.logical.iter().map(|&d| u64::from(d)).product::<u64>();
            let read = config.read_bytes(t.spec.role, weights, 1);
            match t.spec.role {
                Role::TokenEmbd | Role::Output => all.head += read,
                _ if t.spec.encoding.is_panel() => all.in_layers += read,
                _ => {}
            }
        }
        all
    }
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len().max(1) as f64
}

/// Sample standard deviation (with divisor n - 1).
fn sd(x: &[f64]) -> f64 {
    let m = mean(x);
    let squares: f64 = x.iter().map(|x| (x - m) * (x - m)).sum();
    (squares / (x.len().max(2) - 1) as f64).sqrt()
}

pub(super) fn median(x: &[f64]) -> f64 {
    let mut x = x.to_vec();
    x.sort_by(f64::total_cmp);
    match x.len() {
        0 => 0.0,
        n if n % 2 == 1 => x[n / 2],
        n => (x[n / 2 - 1] + x[n / 2]) / 2.0,
    }
}

fn as_object<S: serde::Serializer>(
    steps: &Option<Vec<(&'static str, f64)>>,
    to: S,
) -> Result<S::Ok, S::Error> {
    let steps = steps.iter().flatten();
    let object: Map<String, Value> =
        steps.map(|(name, ms)| ((*name).to_owned(), json!(ms))).collect();
    object.serialize(to)
}

fn as_drafts<S: serde::Serializer>(drafts: &Option<DraftStats>, to: S) -> Result<S::Ok, S::Error> {
    drafts.as_ref().map(draft_stats).serialize(to)
}

pub(super) fn print(format: Format, rows: &[Row], limits: &[Limits]) -> Result<()> {
    match format {
        Format::Json => print_json(&rows),
        Format::Csv => Ok(csv(&mut stdout().lock(), rows)?),
        Format::Md => Ok(markdown(&mut stdout().lock(), rows, limits)?),
    }
}

fn csv(out: &mut impl Write, rows: &[Row]) -> std::io::Result<()> {
    writeln!(out, "test,tps,mean,sd,repetitions,share_of_limit,kv,threads,isa,model")?;
    for r in rows {
        let share = r.share_of_limit.map_or(String::new(), |s| format!("{s:.4}"));
        writeln!(
            out,
            "{},{:.3},{:.3},{:.3},{},{share},{},{},{},\"{}\"",
            r.test,
            r.tps,
            r.mean,
            r.sd,
            r.runs.len(),
            r.kv,
            r.threads,
            r.isa,
            r.model.replace('"', "\"\"")
        )?;
    }
    Ok(())
}

fn markdown(out: &mut impl Write, rows: &[Row], limits: &[Limits]) -> std::io::Result<()> {
    let Some(first) = rows.first() else { return Ok(()) };
    let model = terminal_safe(&first.model);
    let millions = first.parameters as f64 / 1e6;
    let (quant, bits) = (first.quant.name(), first.bits);
    let label = format!("{quant} ({bits:.2} bits per weight)");
    writeln!(out, "{model}, {millions:.0} M parameters, {label}, {}\n", first.isa)?;
    writeln!(
        out,
        "| test         | kv  | threads | tokens/s (median) | mean ± sd         | of limit |"
    )?;
    writeln!(
        out,
        "|:-------------|:----|--------:|------------------:|------------------:|---------:|"
    )?;
    for r in rows {
        let spread = format!("{:.2} ± {:.2}", r.mean, r.sd);
        let share = r.share_of_limit.map_or("–".into(), |s| format!("{:.1} %", 100.0 * s));
        writeln!(
            out,
            "| {:<12} | {:<3} | {:>7} | {:>17.2} | {spread:>17} | {share:>8} |",
            r.test, r.kv, r.threads, r.tps
        )?;
    }
    writeln!(out)?;
    for (r, drafts) in rows.iter().filter_map(|r| Some((r, r.drafts?))) {
        let Drafted { drafted, accepted } = drafts.all();
        writeln!(
            out,
            "{} ({}, {} threads): {:.1} tokens per pass, {accepted} of {drafted} drafted tokens accepted",
            r.test,
            r.kv,
            r.threads,
            drafts.tokens_per_pass()
        )?;
    }
    for l in limits {
        writeln!(
            out,
            "limits with {} threads: memory {} GB/s, int8 {} GOPS ({})",
            l.threads,
            range(&l.bandwidth),
            range(&l.int8),
            l.isa().name()
        )?;
    }
    profiles(out, rows)
}

/// Median and range in units of 10⁹.
fn range(x: &[f64]) -> String {
    let least = x.iter().copied().fold(f64::INFINITY, f64::min);
    let most = x.iter().copied().fold(0.0, f64::max);
    format!("{:.1} ({:.1}–{:.1})", median(x) / 1e9, least / 1e9, most / 1e9)
}

/// One table per test: milliseconds per run, and share of the total, for each step.
fn profiles(out: &mut impl Write, rows: &[Row]) -> std::io::Result<()> {
    for r in rows {
        let Some(steps) = &r.profile else { continue };
        let total: f64 = steps.iter().map(|(_, ms)| ms).sum();
        writeln!(out, "\n| {} ({}, {} threads) | ms | share |", r.test, r.kv, r.threads)?;
        writeln!(out, "|:---|---:|---:|")?;
        for (name, ms) in steps {
            writeln!(out, "| {name:<11} | {ms:>9.2} | {:>5.1} % |", 100.0 * ms / total)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_small_samples() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!((mean(&[1.0, 2.0, 3.0]), sd(&[1.0, 2.0, 3.0])), (2.0, 1.0));
        assert_eq!(sd(&[7.0]), 0.0);
    }
}
