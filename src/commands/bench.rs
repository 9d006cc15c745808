//! `nanoinfer bench`: how fast a model runs on this machine, relative to the hardware limits.
//!
//! ```text
//! warm-up of all tests │ round 1: limits, test A, test B … │ round 2: … │ … │ profiles
//! ```
//!
//! On a shared machine, speed drifts within seconds. Interleaving exposes every test to the same
//! drift, and measuring the limits in the same rounds relates every result to what the machine could
//! deliver at that moment.

mod kinds;
mod runner;
mod synthetic;
mod table;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, ensure};
use nanoinfer_engine::{KvType, Model, default_threads};
use nanoinfer_format::Quant;

use crate::args::{Bench, Format};
use crate::limits::Limits;
use crate::model;
use crate::status::{Reporter, say};
use crate::template::Form;
use kinds::{Kind, Test};
use runner::Runner;
use table::Row;

/// The model under test.
struct Subject {
    name: String,
    model: Arc<Model>,
    // Deletes a synthetic model's file when dropped.
    _staged: Option<nanoinfer_packer::Staged>,
}

impl Subject {
    fn open(args: &Bench) -> Result<Self> {
        let (name, model, staged) = match &args.synthetic {
            Some(shape) => {
                let quant = args.quant.unwrap_or(Quant::Q8.into());
                let (model, staged) = synthetic::open(shape, quant)?;
                (format!("synthetic {shape}"), model, staged)
            }
            None => {
                let name = args.model.display().to_string();
                let quant = args.quant.unwrap_or_default();
                (name, model::open(&args.model, quant, &Form::default())?, None)
            }
        };
        Ok(Self { name, model: Arc::new(model), _staged: staged })
    }
}

pub(crate) fn run(args: Bench) -> Result<ExitCode> {
    let tests = Test::all(&args);
    ensure!(
        !tests.is_empty(),
        "nothing to measure; set -p or -n to at least 1, or --n-copy to at least 2"
    );
    let subject = Subject::open(&args)?;
    let mut kvs: Vec<Option<KvType>> = args.kv.iter().map(|&kv| Some(kv.into())).collect();
    if kvs.is_empty() {
        kvs.push(None);
    }
    let mut threads: Vec<usize> = args.threads.iter().map(|&t| t as usize).collect();
    if threads.is_empty() {
        threads.push(default_threads());
    }
    let longest_copy = tests.iter().filter(|t| t.kind == Kind::Copy).map(|t| t.tokens).max();
    let mut runners = Vec::new();
    for &threads in &threads {
        for &kv in &kvs {
            let mut runner = Runner::new(Arc::clone(&subject.model), threads, kv, &tests)?;
            if let Some(tokens) = longest_copy {
                runner.enable_copies(Arc::clone(&subject.model), tokens, args.draft_length)?;
            }
            runners.push(runner);
        }
    }
    let mut limits = Limits::each(&threads, runners[0].engine.isa())?;
    let mut rows: Vec<Row> = runners
        .iter()
        .flat_map(|runner| tests.iter().map(|test| Row::new(&subject.name, runner, test)))
        .collect();
    measure(&args, &tests, &mut runners, &mut limits, &mut rows)?;
    let format = if args.json { Format::Json } else { args.output };
    table::print(format, &rows, &limits)?;
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
    let mut reporter = Reporter::default();
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
                    row.set_drafts(runner, test);
                }
                done += 1;
                reporter.progress(done, total);
            }
        }
    }
    if args.profile {
        for (runner, rows) in runners.iter_mut().zip(rows.chunks_mut(tests.len())) {
            let profiled = tests.iter().zip(rows).filter(|(test, _)| test.kind != Kind::Copy);
            for (test, row) in profiled {
                row.profile = Some(runner.profile(test)?);
            }
        }
    }
    Ok(())
}
