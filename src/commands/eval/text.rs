//! Perplexity of a text, window by window, and divergence from a reference.

use std::ffi::OsStr;
use std::io::{Write, stdout};
use std::ops::Range;
use std::time::Instant;

use anyhow::{Result, ensure};
use nanoinfer_engine::Model;
use nanoinfer_format::Precision;
use serde::Serialize;

use super::score::{Compared, Position, score};
use super::scorer::Scorer;
use crate::args::{Eval, Score};
use crate::input::TextSource;
use crate::model;
use crate::output::print_json;
use crate::status::Reporter;
use crate::template::Form;

const NO_TEXT: &str =
    "no text to predict; specify --text or --choices, or pipe text to standard input";

/// The results, as `--json` prints them.
#[derive(Serialize)]
struct Summary {
    perplexity: f64,
    perplexity_error: f64,
    mean_nll: f64,
    tokens: usize,
    windows: usize,
    window: usize,
    score: Score,
    /// The label of the encodings, and the bits per weight that a pass reads.
    quant: &'static str,
    bits: f64,
    #[serde(flatten)]
    comparison: Option<Comparison>,
    kv: &'static str,
    threads: usize,
    isa: &'static str,
    seconds: f64,
}

#[derive(Serialize)]
struct Comparison {
    reference_perplexity: f64,
    mean_kl: f64,
    p50_kl: f64,
    p99_kl: f64,
    max_kl: f64,
    top1: f64,
    top5: f64,
    max_change: f64,
}

pub(super) fn run(args: &Eval) -> Result<()> {
    let text = read(args)?;
    let window = args.window as usize;
    let model = model::open(&args.model, args.quant, &Form::default())?;
    let ids = tokens(&model, &text, args)?;
    let max = model.config().context_length as usize;
    ensure!(window <= max, "--window: this model supports at most {max} tokens");
    let reference = args.reference.as_ref().map(|r| reference(r, &model, &text, &ids, args));
    let reference = reference.transpose()?;
    let generation = model.generation();
    let bos = generation.bos.filter(|_| generation.add_bos);
    let mut model = Scorer::new(model, args, true, Some(window))?;
    let mut reference = reference.map(|r| Scorer::new(r, args, false, Some(window))).transpose()?;

    let start = Instant::now();
    let (mut positions, mut reporter) = (Vec::new(), Reporter::default());
    let total = (ids.len() / window) as u64;
    for (done, ids) in (1..).zip(ids.chunks_exact(window)) {
        let mut ids = ids.to_vec();
        ids[0] = bos.unwrap_or(ids[0]);
        positions.extend(score_window(&mut model, reference.as_mut(), &ids, args.score)?);
        reporter.progress(done, total);
    }
    reporter.clear();
    let (mean_nll, error) = mean_and_error(&positions);
    let file = model.engine.model().file();
    let summary = Summary {
        perplexity: mean_nll.exp(),
        perplexity_error: mean_nll.exp() * error,
        mean_nll,
        tokens: positions.len(),
        windows: total as usize,
        window,
        score: args.score,
        quant: file.config().quant.name(),
        bits: file.recipe().bits(file.config()).read,
        comparison: Comparison::of(&positions),
        kv: model.engine.kv().name(),
        threads: model.engine.threads(),
        isa: model.engine.isa().name(),
        seconds: start.elapsed().as_secs_f64(),
    };
    if args.json { print_json(&summary) } else { Ok(show(&summary)?) }
}

fn read(args: &Eval) -> Result<String> {
    let source = match &args.text {
        Some(path) => TextSource::open(path)?,
        None => TextSource::piped(NO_TEXT)?,
    };
    source.read()
}

/// The text's tokens, limited to `--tokens`.
fn tokens(model: &Model, text: &str, args: &Eval) -> Result<Vec<u32>> {
    let mut ids = model.encode(text)?;
    ids.truncate(args.tokens.map_or(usize::MAX, |n| n as usize));
    let (n, window) = (ids.len(), args.window);
    ensure!(n as u64 >= window, "{n} tokens do not fill a --window of {window}");
    Ok(ids)
}

/// Opens the reference and checks that it tokenizes the text in the same way as the model.
fn reference(name: &OsStr, model: &Model, text: &str, ids: &[u32], args: &Eval) -> Result<Model> {
    let reference = model::open(name, Precision::Auto, &Form::default())?;
    let (ours, theirs) = (model.config().vocab_size, reference.config().vocab_size);
    ensure!(
        ours == theirs,
        "--reference: the vocabulary has {theirs} tokens, the model's has {ours}"
    );
    ensure!(
        tokens(&reference, text, args)? == ids,
        "--reference: tokenizes the text differently from the model"
    );
    Ok(reference)
}

fn score_window(
    model: &mut Scorer,
    mut reference: Option<&mut Scorer>,
    ids: &[u32],
    which: Score,
) -> Result<Vec<Position>> {
    let scored = scored(ids.len(), which);
    model.truncate(0)?;
    model.skip(&ids[..scored.start])?;
    if let Some(reference) = &mut reference {
        reference.truncate(0)?;
        reference.skip(&ids[..scored.start])?;
    }
    let (threads, chunk) = (model.engine.threads(), model.engine.max_logits());
    let mut positions = Vec::with_capacity(scored.len());
    for from in scored.clone().step_by(chunk) {
        let range = from..scored.end.min(from + chunk);
        let targets = &ids[range.start + 1..range.end + 1];
        let logits = model.logits(&ids[range.clone()])?;
        let theirs = match &mut reference {
            Some(reference) => Some(reference.logits(&ids[range])?),
            None => None,
        };
        positions.extend(score(logits, theirs, targets, threads));
    }
    Ok(positions)
}

/// Positions in a window of `n` tokens for which the next token is scored. `Half` matches llama.cpp
/// exactly.
fn scored(n: usize, which: Score) -> Range<usize> {
    match which {
        Score::Half => n / 2..n - 1,
        Score::All => 0..n - 1,
    }
}

/// Mean negative log-likelihood and its standard error.
fn mean_and_error(positions: &[Position]) -> (f64, f64) {
    let n = positions.len() as f64;
    let mean = positions.iter().map(|p| p.nll).sum::<f64>() / n;
    let variance = positions.iter().map(|p| (p.nll - mean) * (p.nll - mean)).sum::<f64>() / n;
    (mean, (variance / (n - 1.0).max(1.0)).sqrt())
}

impl Comparison {
    fn of(positions: &[Position]) -> Option<Self> {
        let pairs: Vec<(f64, Compared)> =
            positions.iter().filter_map(|p| Some((p.nll, p.compared?))).collect();
        let mut kls: Vec<f64> = pairs.iter().map(|(_, c)| c.kl).collect();
        kls.sort_by(f64::total_cmp);
        let n = pairs.len() as f64;
        let mean = |f: fn(&(f64, Compared)) -> f64| pairs.iter().map(f).sum::<f64>() / n;
        Some(Self {
            reference_perplexity: mean(|(_, c)| c.reference_nll).exp(),
            mean_kl: mean(|(_, c)| c.kl),
            p50_kl: quantile(&kls, 0.5)?,
            p99_kl: quantile(&kls, 0.99)?,
            max_kl: *kls.last()?,
            top1: mean(|(_, c)| f64::from(u8::from(c.top1))),
            top5: mean(|(_, c)| c.top5 as f64 / 5.0),
            max_change: pairs
                .iter()
                .map(|(nll, c)| (nll - c.reference_nll).abs())
                .fold(0.0, f64::max),
        })
    }
}

/// The `q`-quantile of sorted values: the smallest value such that at least a share `q` of all values
/// is at or below it.
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

fn show(s: &Summary) -> std::io::Result<()> {
    let mut out = stdout().lock();
    let which = if s.score == Score::Half { "second halves of " } else { "" };
    writeln!(out, "perplexity     {:.4} ± {:.4}", s.perplexity, s.perplexity_error)?;
    writeln!(
        out,
        "scored         {} tokens, {which}{} windows of {}",
        s.tokens, s.windows, s.window
    )?;
    if let Some(c) = &s.comparison {
        writeln!(out, "reference      {:.4}", c.reference_perplexity)?;
        writeln!(
            out,
            "KL divergence  mean {:.6}, p50 {:.6}, p99 {:.6}, max {:.6}",
            c.mean_kl, c.p50_kl, c.p99_kl, c.max_kl
        )?;
        let (top1, top5) = (100.0 * c.top1, 100.0 * c.top5);
        writeln!(out, "agreement      top-1 {top1:.2} %, top-5 {top5:.2} %")?;
        writeln!(out, "largest change of a token's log-probability  {:.4}", c.max_change)?;
    }
    writeln!(
        out,
        "{} weights ({:.2} bits), {} cache, {} threads, {}, {:.1} s",
        s.quant, s.bits, s.kv, s.threads, s.isa, s.seconds
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scored_half_matches_llama_cpp() {
        // perplexity.cpp: first = n_ctx/2; logits first…n_ctx-2 predict tokens first+1…n_ctx-1.
        assert_eq!(scored(512, Score::Half), 256..511);
        assert_eq!(scored(512, Score::All), 0..511);
    }

    #[test]
    fn quantiles_are_values_of_the_sample() {
        let x: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((quantile(&x, 0.5), quantile(&x, 0.99)), (Some(50.0), Some(99.0)));
        assert_eq!((quantile(&x[..1], 0.99), quantile(&[], 0.5)), (Some(1.0), None));
    }
}
