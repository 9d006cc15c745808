//! A model that any number of threads share: their requests run in the same passes of one engine, and HTTP clients
//! can join them. The bindings for other languages are made of this.
//!
//! ```no_run
//! use nanoinfer::local::{Api, OpenOptions, Update, open, wait};
//!
//! let model = open("smollm2", &OpenOptions::default(), &mut |_| {})?;
//! let request = r#"{"messages": [{"role": "user", "content": "What is the capital of France?"}]}"#;
//! let mut answers = model.ask(Api::Chat, &serde_json::from_str(request)?)?;
//! while let Some(update) = wait(answers.next(), None).flatten() {
//!     if let Update::Chunk(chunk) = update {
//!         print!("{}", chunk.text());
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::ffi::OsStr;
use std::sync::Arc;

use nanoinfer_engine::{
    BatchOptions, Engine, EngineOptions, Engines, KvType, Model, available_memory,
};
use nanoinfer_format::{Precision, PrecisionError};
use nanoinfer_hub::{Online, Status};
pub use nanoinfer_serve::{
    Answers, Api, Chunk, End, Exchange, Keys, KeysError, Kind, Limits, Listen, Local, Log,
    Logprobs, Opened, Options, Part, Pending, Problem, Reason, Update, wait,
};
use nanoinfer_serve::{Error as ServeError, Served};
use serde::Deserialize;

use crate::{Error, Loader};

/// Why a model cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// An option has a value that it cannot have.
    #[error("{name}: {what}")]
    Option {
        /// Its name.
        name: &'static str,
        /// What it can be.
        what: String,
    },
    /// The model cannot be found, converted or run.
    #[error(transparent)]
    Model(#[from] Error),
    /// Its threads cannot be started.
    #[error(transparent)]
    Start(#[from] ServeError),
}

/// How to open a model. What is absent has a default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpenOptions {
    /// Precision to convert to: `q8`, `q5` … `q2`, `f32`, or bits per weight; by default `auto`.
    pub quant: Option<String>,
    /// Branch, tag or commit of a hub model.
    pub revision: Option<String>,
    /// Use only models of this machine.
    pub offline: bool,
    /// Read the file into memory instead of mapping it.
    pub in_memory: bool,
    /// Number of threads; by default, the physical cores available to this process.
    pub threads: Option<usize>,
    /// Maximum number of tokens in a context; by default, the length that the model was trained for.
    pub ctx: Option<usize>,
    /// Maximum number of answers at the same time; further requests wait. By default 64.
    pub sequences: Option<usize>,
    /// Precision of cached keys and values: `q4`, `q8`, `f16`, `f32`.
    pub kv: Option<String>,
    /// Megabytes for the keys and values of all contexts; by default, a quarter of the free memory.
    pub kv_mb: Option<u64>,
    /// Milliseconds for a pass while answers are generated; by default 150.
    pub pass_ms: Option<f64>,
    /// Maximum number of requests that wait; by default 4096.
    pub queue: Option<usize>,
}

/// Maximum number of requests that wait, by default. Callers in this process would only have to wait themselves.
const QUEUE: usize = 4096;

impl OpenOptions {
    fn check(&self) -> Result<(), OpenError> {
        let within = |name, value: Option<usize>, most: usize| match value {
            Some(n) if !(1..=most).contains(&n) => {
                let what = format!("expected a number from 1 to {most}, not {n}");
                Err(OpenError::Option { name, what })
            }
            _ => Ok(()),
        };
        within("threads", self.threads, 1024)?;
        within("ctx", self.ctx, 1 << 30)?;
        within("sequences", self.sequences, 256)?;
        within("queue", self.queue, 1 << 20)?;
        match self.pass_ms {
            Some(ms) if !(1.0..=60_000.0).contains(&ms) => {
                let what = format!("expected a number from 1 to 60000, not {ms}");
                Err(OpenError::Option { name: "pass_ms", what })
            }
            _ => Ok(()),
        }
    }

    fn precision(&self) -> Result<Precision, OpenError> {
        let Some(text) = &self.quant else { return Ok(Precision::Auto) };
        text.parse().map_err(|e: PrecisionError| {
            let what = format!("{text:?}: {e}");
            OpenError::Option { name: "quant", what }
        })
    }

    fn kv(&self) -> Result<Option<KvType>, OpenError> {
        Ok(Some(match self.kv.as_deref() {
            None => return Ok(None),
            Some("q4") => KvType::Q4,
            Some("q8") => KvType::Q8,
            Some("f16") => KvType::F16,
            Some("f32") => KvType::F32,
            Some(other) => {
                let what = format!("expected q4, q8, f16 or f32, not {other:?}");
                return Err(OpenError::Option { name: "kv", what });
            }
        }))
    }
}

/// Finds a model as [`Loader`] does, fetches and converts it if necessary, and starts its engine.
///
/// # Errors
/// An option is wrong, or the model cannot be found, converted or run.
pub fn open(
    name: impl AsRef<OsStr>,
    options: &OpenOptions,
    status: &mut dyn FnMut(Status<'_>),
) -> Result<Local, OpenError> {
    options.check()?;
    let (quant, kv) = (options.precision()?, options.kv()?);
    let mut loader = Loader::new(name.as_ref()).quant(quant).in_memory(options.in_memory);
    if let Some(revision) = &options.revision {
        loader = loader.revision(revision);
    }
    if !options.offline {
        loader = loader.fetch(&Online);
    }
    let model = loader.status(status).model()?;
    let kv_bytes = options.kv_mb.map(|mb| mb.saturating_mul(1 << 20));
    let engine = EngineOptions {
        threads: options.threads,
        kv,
        ..shared(&model, (options.sequences.unwrap_or(64), 1), options.ctx, kv_bytes)
    };
    let queue = options.queue.unwrap_or(QUEUE);
    let defaults = BatchOptions::default();
    let pass_ms = options.pass_ms.unwrap_or(defaults.pass_ms);
    let batch = BatchOptions { pass_ms, queue, queue_per_key: queue, ..defaults };
    let engine = Engine::new(Arc::new(model), &engine).map_err(Error::from)?;
    let name = name.as_ref().to_string_lossy().into_owned();
    Ok(Local::open(Served { name, engines: Engines::from(engine), load: None, batch })?)
}

/// The options of an engine that serves up to `sequences` requests at once: full contexts, and by default a quarter
/// of the free memory, divided by the number of models, for their keys and values.
pub(crate) fn shared(
    model: &Model,
    (sequences, models): (usize, u64),
    ctx: Option<usize>,
    kv_bytes: Option<u64>,
) -> EngineOptions {
    let trained = model.config().context_length as usize;
    let bytes = model.file().header().file_len;
    let quarter = || available_memory().map(|free| free.saturating_sub(bytes) / 4 / models);
    EngineOptions {
        ctx: Some(ctx.unwrap_or(trained)),
        sequences,
        kv_bytes: kv_bytes.or_else(quarter),
        logits_rows: sequences.max(16),
        ..EngineOptions::default()
    }
}
