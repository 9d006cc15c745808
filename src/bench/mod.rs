//! `nanoinfer bench`: how fast a model runs on this machine, and how fast it could.
//!
//! ```text
//! warm-up of all tests │ round 1: limits, test A, test B … │ round 2: … │ … │ profiles
//! ```
//!
//! On a shared machine speed drifts within seconds. Taking turns lets every test see the same
//! drift, and measuring the limits in the same turns lets a share of the limit be a share of what
//! the machine gave at that moment.

mod kinds;
mod limits;
mod report;
mod runner;
mod synthetic;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, ensure};
use nanoinfer_engine::{KvType, Model, default_threads};

use crate::args::Bench;
use crate::report::{Reporter, say};
use kinds::{Kind, Test};
pub(crate) use limits::{Limits, memory_bandwidth};
use report::Row;
use runner::Runner;

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
                runner.copy_up_to(Arc::clone(&source.model), most, args.draft_length)?;
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
                bar.progress(done, total);
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
