//! Packing: several threads encode a model's plan, and one thread writes the result in order.
//!
//! ```text
//! layout     which rows of which source tensor go where
//! encode     read, pad, rotate, quantize
//! sections   tokenizer, chat template, provenance
//! ```
//!
//! Worker `w` of `t` encodes jobs `w, w + t, w + 2t, …` into a channel with capacity 1; the writer
//! receives from the channels in round-robin order. The order of bytes therefore does not depend on
//! timing, and only a few jobs are in memory at a time, however large the model.

pub(crate) mod encode;
pub(crate) mod layout;
mod sections;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, Scope};

use nanoinfer_format::{ALIGN, Entry, Recipe, Role, Staged, TENSOR_ROW, Writer};

use crate::model::Model;
use crate::quantize::{Calibrate, Factors, Matrix};
use crate::tokenizer::Tokenizer;
use crate::{Error, Options, Progress};
use encode::encode;
use layout::{Body, Planned, plan};
use sections::Details;

/// Target number of values per job (4 MB of f32); a single large head may exceed it.
const VALUES_PER_JOB: usize = 1 << 20;
/// Additional threads would only wait for the writer.
const MAX_THREADS: usize = 16;

/// Consecutive blocks of one tensor.
struct Job<'p, 'a> {
    planned: &'p Planned<'a>,
    /// Whether the tensor starts with this job.
    first: bool,
    /// Whether the tensor ends with this job.
    last: bool,
    blocks: Range<usize>,
}

/// Writes the model to a temporary file beside `out`. Returns the file and its number of tensors.
pub(crate) fn pack(
    model: &Model,
    recipe: &Recipe,
    out: &Path,
    options: Options<'_>,
) -> Result<(Staged, usize), Error> {
    let as_asked = |entry: &Entry| entry.spec(|role| recipe.encoding(entry.layer, role));
    let plan = plan(&model.config, &model.weights, &model.turns, as_asked);
    let jobs: Vec<Job> = plan.iter().flat_map(jobs).collect();
    let total = plan.iter().filter_map(|p| p.spec.stored_bytes()).sum();
    crate::space::check(out.parent().unwrap_or(out), file_bytes(total, plan.len(), model))?;
    let mut writer = Writer::create(out)?;
    let details = Details::of(model, recipe, &options);
    let mut progress = options.progress;
    let mut report = |done, tensor: &Planned| {
        if let Some(report) = progress.as_mut() {
            report(Progress { done, total, role: tensor.spec.role, layer: tensor.spec.layer });
        }
    };
    let threads = options.threads.clamp(1, MAX_THREADS);
    let failed = AtomicBool::new(false);
    let mut calibration = Calibration::new(options.calibrate);
    let hashes = thread::scope(|scope| {
        let hashes = scope.spawn(|| sections::hash_files(&model.files, &failed));
        let mut run = || {
            let (mut left, mut done) = (&jobs[..], 0);
            calibration.begin(left)?;
            while !left.is_empty() {
                let (ready, rest) = left.split_at(calibration.prepare(left)?);
                let Calibration { source, factors, .. } = &mut calibration;
                let factors = &*factors;
                done = thread::scope(|scope| {
                    let results = workers(scope, ready, factors, threads);
                    let mut stored = |tensor: &Planned, bytes: &[u8], done| {
                        if let Some(source) =
                            source.as_mut().filter(|_| tensor.spec.layer.is_some())
                        {
                            source.stored(&tensor.spec, bytes);
                        }
                        report(done, tensor);
                    };
                    write(&mut writer, ready, &results, done, &mut stored)
                })?;
                left = rest;
            }
            Ok(())
        };
        let written: Result<(), Error> = run();
        failed.store(written.is_err(), Ordering::Relaxed);
        written?;
        hashes.join().expect("hashing does not panic")
    })?;
    sections::add(&mut writer, model, details, hashes)?;
    Ok((writer.finish(&model.config, &model.generation)?, plan.len()))
}

/// An upper bound on the size of the file: tensors, gaps, tables and sections.
fn file_bytes(tensors: u64, n: usize, model: &Model) -> u64 {
    const SMALL: u64 = 1 << 18;
    let per_tensor = ALIGN + TENSOR_ROW as u64; // alignment gap and table row
    let text = model.tokenizer.as_ref().map_or(0, Tokenizer::bytes)
        + model.chat_template.as_ref().map_or(0, String::len);
    tensors + n as u64 * per_tensor + text as u64 + SMALL
}

/// Splits a tensor into jobs of about [`VALUES_PER_JOB`] values.
fn jobs<'p, 'a>(planned: &'p Planned<'a>) -> Vec<Job<'p, 'a>> {
    let mut cuts = vec![0];
    if let Body::Rows { blocks, inputs } = &planned.body {
        let mut values = 0;
        for (i, block) in blocks.iter().enumerate() {
            if values >= VALUES_PER_JOB {
                cuts.push(i);
                values = 0;
            }
            values += block.padded * inputs.stored;
        }
        cuts.push(blocks.len());
    } else {
        cuts.push(0);
    }
    let n = cuts.len() - 1;
    let job =
        |i: usize| Job { planned, first: i == 0, last: i + 1 == n, blocks: cuts[i]..cuts[i + 1] };
    (0..n).map(job).collect()
}

impl Job<'_, '_> {
    /// The matrix of a job that stores codes.
    fn coded(&self) -> Option<Matrix> {
        let spec = &self.planned.spec;
        let role = if spec.role == Role::TokenEmbd { Role::Output } else { spec.role };
        spec.encodings().any(|e| e.trellis_bits().is_some()).then_some((spec.layer, role))
    }

    fn run(&self, factors: &Factors) -> Result<Vec<u8>, Error> {
        match &self.planned.body {
            Body::Turns(turns) => Ok(turns.iter().flat_map(|t| t.to_le_bytes()).collect()),
            Body::Rows { blocks, inputs } => {
                let factor = self.coded().and_then(|matrix| factors.get(&matrix));
                encode(&self.planned.spec, *inputs, &blocks[self.blocks.clone()], factor)
            }
        }
    }
}

/// The factors that are in memory.
struct Calibration<'a> {
    source: Option<&'a mut dyn Calibrate>,
    factors: Factors,
    /// Number of layers whose factors were provided.
    layers: usize,
}

impl<'a> Calibration<'a> {
    fn new(source: Option<&'a mut dyn Calibrate>) -> Self {
        Self { source, factors: Factors::new(), layers: 0 }
    }

    /// Gets the factor of the output matrix, if any of the jobs stores it as codes: with the embeddings, it can
    /// come before all layers.
    fn begin(&mut self, jobs: &[Job]) -> Result<(), Error> {
        let output = (None, Role::Output);
        let Some(source) = &mut self.source else { return Ok(()) };
        if jobs.iter().any(|job| job.coded() == Some(output)) {
            let factor = source.output().map_err(Error::Calibration)?;
            self.factors.extend(factor.map(|factor| (output, factor)));
        }
        Ok(())
    }

    /// Gets the factors of the first job's layer. Returns the number of jobs that need no others.
    fn prepare(&mut self, jobs: &[Job]) -> Result<usize, Error> {
        let Some(source) = &mut self.source else { return Ok(jobs.len()) };
        // Also of matrices that need none, so that layers are stored one after the other.
        let layer = |job: &Job| job.planned.spec.layer.map_or(0, |l| l as usize + 1);
        while jobs.first().is_some_and(|job| layer(job) > self.layers) {
            self.factors.retain(|(layer, _), _| layer.is_none());
            let (layers, factors) = source.next_layers().map_err(Error::Calibration)?;
            self.factors.extend(factors);
            self.layers = layers.end;
        }
        Ok(jobs.iter().take_while(|job| layer(job) <= self.layers).count())
    }
}

type Encoded = Receiver<Result<Vec<u8>, Error>>;

/// Starts the workers. Each stops after its last job, at its first error, or when the receiver is
/// dropped.
fn workers<'scope>(
    scope: &'scope Scope<'scope, '_>,
    jobs: &'scope [Job],
    factors: &'scope Factors,
    threads: usize,
) -> Vec<Encoded> {
    let start = |w: usize| {
        let (send, receive) = sync_channel(1);
        scope.spawn(move || {
            for job in jobs.iter().skip(w).step_by(threads) {
                let result = job.run(factors);
                let stop = result.is_err();
                if send.send(result).is_err() || stop {
                    break;
                }
            }
        });
        receive
    };
    (0..threads).map(start).collect()
}

/// Writes the results of jobs, `done` bytes after the first. Returns that number after them. `stored` is called
/// with each result and that number.
fn write(
    writer: &mut Writer,
    jobs: &[Job],
    results: &[Encoded],
    mut done: u64,
    stored: &mut dyn FnMut(&Planned, &[u8], u64),
) -> Result<u64, Error> {
    for (job, results) in jobs.iter().zip(results.iter().cycle()) {
        let bytes =
            results.recv().expect("a worker sends a result for each job up to its first error")?;
        if job.first {
            writer.begin(job.planned.spec.clone())?;
        }
        writer.write(&bytes)?;
        if job.last {
            writer.end()?;
        }
        done += bytes.len() as u64;
        stored(job.planned, &bytes, done);
    }
    Ok(done)
}
