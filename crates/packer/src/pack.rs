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

use nanoinfer_format::{ALIGN, Entry, Staged, TENSOR_ROW, Writer};

use crate::model::Model;
use crate::tokenizer::Tokenizer;
use crate::{Error, Options, Progress};
use encode::encode;
use layout::{Body, Planned, plan};

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
    out: &Path,
    options: Options<'_>,
) -> Result<(Staged, usize), Error> {
    let quant = model.config.quant;
    let as_asked = |entry: &Entry| entry.spec(|role| quant.encoding(role));
    let plan = plan(&model.config, &model.weights, &model.turns, as_asked);
    let jobs: Vec<Job> = plan.iter().flat_map(jobs).collect();
    let total = plan.iter().filter_map(|p| p.spec.stored_bytes()).sum();
    crate::space::check(out.parent().unwrap_or(out), file_bytes(total, plan.len(), model))?;
    let mut writer = Writer::create(out)?;
    let mut progress = options.progress;
    let mut report = |done, tensor: &Planned| {
        if let Some(report) = progress.as_mut() {
            report(Progress { done, total, role: tensor.spec.role, layer: tensor.spec.layer });
        }
    };
    let threads = options.threads.clamp(1, MAX_THREADS);
    let failed = AtomicBool::new(false);
    let hashes = thread::scope(|scope| {
        let hashes = scope.spawn(|| sections::hash_files(&model.files, &failed));
        let results = workers(scope, &jobs, threads);
        let written = write(&mut writer, &jobs, &results, &mut report);
        failed.store(written.is_err(), Ordering::Relaxed);
        written?;
        hashes.join().expect("hashing does not panic")
    })?;
    let loras = options.loras.iter().map(|l| l.scale).collect();
    sections::add(&mut writer, model, options.source_id, loras, hashes)?;
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
    fn run(&self) -> Result<Vec<u8>, Error> {
        match &self.planned.body {
            Body::Turns(turns) => Ok(turns.iter().flat_map(|t| t.to_le_bytes()).collect()),
            Body::Rows { blocks, inputs } => {
                encode(&self.planned.spec, *inputs, &blocks[self.blocks.clone()])
            }
        }
    }
}

type Encoded = Receiver<Result<Vec<u8>, Error>>;

/// Starts the workers. Each stops after its last job, at its first error, or when the receiver is
/// dropped.
fn workers<'scope>(
    scope: &'scope Scope<'scope, '_>,
    jobs: &'scope [Job],
    threads: usize,
) -> Vec<Encoded> {
    let start = |w: usize| {
        let (send, receive) = sync_channel(1);
        scope.spawn(move || {
            for job in jobs.iter().skip(w).step_by(threads) {
                let result = job.run();
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

fn write(
    writer: &mut Writer,
    jobs: &[Job],
    results: &[Encoded],
    report: &mut dyn FnMut(u64, &Planned),
) -> Result<(), Error> {
    let mut done = 0;
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
        report(done, job.planned);
    }
    Ok(())
}
