//! `nanoinfer bench`: how fast a model runs on this machine, and how fast it could.
//!
//! ```text
//! warm-up of all tests │ round 1: limits, test A, test B … │ round 2: … │ … │ profiles
//! ```
//!
//! On a shared machine speed drifts within seconds. Taking turns lets every test see the same
//! drift, and measuring the limits in the same turns lets a share of the limit be a share of what
//! the machine gave at that moment.

mod limits;
mod report;
mod runner;
mod synthetic;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, ensure};
use nanoinfer_engine::{KvType, Model, default_threads};
use nanoinfer_packer::fetch::Step;

use crate::args::Bench;
use crate::report::{Reporter, say};
pub(crate) use limits::{Limits, memory_bandwidth};
use report::Row;
use runner::Runner;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `tokens` of one sequence, in passes as large as the engine takes.
    Prefill,
    /// `tokens` of each of `batch` sequences, one pass for each.
    Decode,
    /// An answer that repeats a prompt of `tokens`, drafted from it.
    Copy,
}

/// One test of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Test {
    kind: Kind,
    tokens: usize,
    /// Tokens in the context before.
    depth: usize,
    /// Sequences at once.
    batch: usize,
}

impl Test {
    /// `pp512`, `tg128@d2048`, `tg32x4@d2000`.
    fn name(&self) -> String {
        let kind = match self.kind {
            Kind::Prefill => "pp",
            Kind::Decode => "tg",
            Kind::Copy => "cp",
        };
        let batch = if self.batch == 1 { String::new() } else { format!("x{}", self.batch) };
        let depth = if self.depth == 0 { String::new() } else { format!("@d{}", self.depth) };
        format!("{kind}{}{batch}{depth}", self.tokens)
    }

    /// Tokens processed in one run.
    fn total(&self) -> usize {
        self.tokens * self.batch
    }

    /// Every combination of what was typed, prefill first; zeros leave a kind out.
    fn all(args: &Bench) -> Vec<Self> {
        let mut tests = Vec::new();
        for depth in args.depth.iter().map(|&d| d as usize) {
            let prompts = args.n_prompt.iter().filter(|&&n| n > 0);
            tests.extend(prompts.map(|&n| Self {
                kind: Kind::Prefill,
                tokens: n as usize,
                depth,
                batch: 1,
            }));
            for &n in args.n_gen.iter().filter(|&&n| n > 0) {
                tests.extend(args.batch.iter().map(|&batch| Self {
                    kind: Kind::Decode,
                    tokens: n as usize,
                    depth,
                    batch: batch as usize,
                }));
            }
        }
        tests.extend(args.n_copy.iter().map(|&n| Self {
            kind: Kind::Copy,
            tokens: n as usize,
            depth: 0,
            batch: 1,
        }));
        tests
    }
}

/// The model that is measured.
struct Source {
    name: String,
    model: Arc<Model>,
    // Deletes a synthetic model's file at the end.
    _staged: Option<nanoinfer_packer::Staged>,
}

impl Source {
    fn open(args: &Bench) -> Result<Self> {
        let (name, path, staged) = match &args.synthetic {
            Some(shape) => {
                let staged = synthetic::build(shape)?;
                (format!("synthetic {shape}"), staged.path().to_path_buf(), Some(staged))
            }
            None => (args.model.clone(), crate::run::nano_file(&args.model)?, None),
        };
        Ok(Self { name, model: Arc::new(Model::open(&path)?), _staged: staged })
    }
}

pub(crate) fn run(args: Bench) -> Result<ExitCode> {
    let tests = Test::all(&args);
    ensure!(!tests.is_empty(), "nothing to measure: give -p, -n or --n-copy a number above 0");
    let source = Source::open(&args)?;
    let kvs: Vec<Option<KvType>> = match args.kv.is_empty() {
        true => vec![None],
        false => args.kv.iter().map(|&kv| Some(kv.into())).collect(),
    };
    let threads: Vec<usize> = match args.threads.is_empty() {
        true => vec![default_threads()],
        false => args.threads.iter().map(|&t| t as usize).collect(),
    };
    let longest_copy = tests.iter().filter(|t| t.kind == Kind::Copy).map(|t| t.tokens).max();
    let mut runners = Vec::new();
    for &threads in &threads {
        for &kv in &kvs {
            let mut runner = Runner::new(Arc::clone(&source.model), threads, kv, &tests)?;
            if let Some(most) = longest_copy {
                runner.copy_up_to(Arc::clone(&source.model), most)?;
            }
            runners.push(runner);
        }
    }
    let mut limits = Limits::each(&threads, runners[0].engine.isa())?;
    let mut rows: Vec<Row> = runners
        .iter()
        .flat_map(|runner| tests.iter().map(|test| Row::new(&source.name, runner, test)))
        .collect();
    measure(&args, &tests, &mut runners, &mut limits, &mut rows)?;
    report::print(args.output, &rows, &limits)?;
    Ok(ExitCode::SUCCESS)
}

fn measure(
    args: &Bench,
    tests: &[Test],
    runners: &mut [Runner],
    limits: &mut [Limits],
    rows: &mut [Row],
) -> Result<()> {
    let rounds = args.repetitions as usize;
    let total = (rows.len() * (rounds + 1)) as u64;
    let mut bar = Reporter::default();
    let mut done = 0;
    say(&format!("measuring {} tests, {rounds} times each", rows.len()));
    for round in 0..=rounds {
        if round > 0 {
            limits.iter_mut().for_each(Limits::measure);
        }
        for (runner, rows) in runners.iter_mut().zip(rows.chunks_mut(tests.len())) {
            let limits = limits.iter().find(|l| l.threads == runner.engine.threads());
            for (test, row) in tests.iter().zip(rows) {
                let seconds = if round == 0 { runner.warm_up(test)? } else { runner.run(test)? };
                if let (1.., Some(limits)) = (round, limits) {
                    row.add(test, seconds, limits);
                    row.drafted(runner, test);
                }
                done += 1;
                bar.step(Step::Progress { done, total });
            }
        }
    }
    if args.profile {
        for (runner, rows) in runners.iter_mut().zip(rows.chunks_mut(tests.len())) {
            let passes = tests.iter().zip(rows).filter(|(test, _)| test.kind != Kind::Copy);
            for (test, row) in passes {
                row.profile = Some(runner.profile(test)?);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_llama_bench() {
        let name = |kind, tokens, depth, batch| Test { kind, tokens, depth, batch }.name();
        assert_eq!(name(Kind::Prefill, 512, 0, 1), "pp512");
        assert_eq!(name(Kind::Prefill, 512, 64, 1), "pp512@d64");
        assert_eq!(name(Kind::Decode, 128, 2048, 1), "tg128@d2048");
        assert_eq!(name(Kind::Decode, 128, 0, 4), "tg128x4");
        assert_eq!(name(Kind::Decode, 32, 2000, 4), "tg32x4@d2000");
        assert_eq!(name(Kind::Copy, 300, 0, 1), "cp300");
    }
}
