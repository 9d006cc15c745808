//! Perplexity of a text in windows, and divergence from a reference.

use std::fs::File;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::ops::Range;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nanoinfer_engine::Model;
use serde::Serialize;

use super::score::{Compared, Position, score};
use super::scorer::Scorer;
use crate::args::{Eval, Score};
use crate::generate::read_text;
use crate::report::Reporter;
use crate::run::{nano_file, print_json};

/// What is reported.
#[derive(Serialize)]
struct Summary {
    perplexity: f64,
    perplexity_error: f64,
    mean_nll: f64,
    tokens: usize,
    windows: usize,
    window: usize,
    score: Score,
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
    let model = Model::open(nano_file(&args.model)?)?;
    let ids = tokens(&model, &text, args)?;
    let most = model.config().context_length as usize;
    ensure!(window <= most, "--window: the model was made for at most {most} tokens");
    let reference = args.reference.as_ref().map(|r| reference(r, &model, &text, &ids, args));
    let reference = reference.transpose()?;
    let generation = model.generation();
    let bos = generation.bos.filter(|_| generation.add_bos);
    let mut model = Scorer::new(model, args, true, Some(window))?;
    let mut reference = reference.map(|r| Scorer::new(r, args, false, Some(window))).transpose()?;

    let start = Instant::now();
    let (mut positions, mut bar) = (Vec::new(), Reporter::default());
    let total = (ids.len() / window) as u64;
    for (done, ids) in (1..).zip(ids.chunks_exact(window)) {
        let mut ids = ids.to_vec();
        ids[0] = bos.unwrap_or(ids[0]);
        positions.extend(one_window(&mut model, reference.as_mut(), &ids, args.score)?);
        bar.progress(done, total);
    }
    bar.end();
    let (mean_nll, error) = mean_and_error(&positions);
    let summary = Summary {
        perplexity: mean_nll.exp(),
        perplexity_error: mean_nll.exp() * error,
        mean_nll,
        tokens: positions.len(),
        windows: total as usize,
        window,
        score: args.score,
        comparison: Comparison::of(&positions),
        kv: model.engine.kv().name(),
        threads: model.engine.threads(),
        isa: model.engine.isa().name(),
        seconds: start.elapsed().as_secs_f64(),
    };
    if args.json { print_json(&summary) } else { Ok(show(&summary)?) }
}

fn read(args: &Eval) -> Result<String> {
    match &args.text {
        Some(path) => {
            let name = path.display().to_string();
            read_text(File::open(path).with_context(|| format!("{name}: cannot open"))?, &name)
        }
        None if stdin().is_terminal() => {
            bail!("there is nothing to predict: give --text, --choices, or text on standard input")
        }
        None => read_text(stdin().lock(), "standard input"),
    }
}

/// The text's tokens, as many as asked for.
fn tokens(model: &Model, text: &str, args: &Eval) -> Result<Vec<u32>> {
    let mut ids = model.encode(text)?;
    ids.truncate(args.tokens.map_or(usize::MAX, |n| n as usize));
    let (n, window) = (ids.len(), args.window);
    ensure!(n as u64 >= window, "{n} tokens do not fill a --window of {window}");
    Ok(ids)
}

/// The model to compare with, if it speaks of the same tokens.
fn reference(name: &str, model: &Model, text: &str, ids: &[u32], args: &Eval) -> Result<Model> {
    let reference = Model::open(nano_file(name)?)?;
    let (ours, theirs) = (model.config().vocab_size, reference.config().vocab_size);
    ensure!(ours == theirs, "--reference: its vocabulary has {theirs} tokens, the model's {ours}");
    ensure!(
        tokens(&reference, text, args)? == ids,
        "--reference: it divides the text into other tokens than the model"
    );
    Ok(reference)
}

fn one_window(
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
    let (threads, piece) = (model.engine.threads(), model.engine.max_logits());
    let mut positions = Vec::with_capacity(scored.len());
    for from in scored.clone().step_by(piece) {
        let range = from..scored.end.min(from + piece);
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

/// Positions of a window of `n` tokens whose successors are scored. `Half` is llama.cpp's choice,
/// to the position.
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

/// Of sorted values: the smallest that so many are not above.
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
        let (mean, p50, p99, max) = (c.mean_kl, c.p50_kl, c.p99_kl, c.max_kl);
        writeln!(out, "KL divergence  mean {mean:.6}, p50 {p50:.6}, p99 {p99:.6}, max {max:.6}")?;
        let (top1, top5) = (100.0 * c.top1, 100.0 * c.top5);
        writeln!(out, "agreement      top-1 {top1:.2} %, top-5 {top5:.2} %")?;
        writeln!(out, "largest change of a token's log-probability  {:.4}", c.max_change)?;
    }
    writeln!(out, "{} cache, {} threads, {}, {:.1} s", s.kv, s.threads, s.isa, s.seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scored_half_is_that_of_llama_cpp() {
        // perplexity.cpp: first = n_ctx/2; logits first…n_ctx-2 predict tokens first+1…n_ctx-1.
        assert_eq!(scored(512, Score::Half), 256..511);
        assert_eq!(scored(512, Score::All), 0..511);
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let x: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((quantile(&x, 0.5), quantile(&x, 0.99)), (Some(50.0), Some(99.0)));
        assert_eq!((quantile(&x[..1], 0.99), quantile(&[], 0.5)), (Some(1.0), None));
    }
}
