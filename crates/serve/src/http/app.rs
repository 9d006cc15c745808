//! The state that requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nanoinfer_engine::{Class, Namespace};
use tokio::sync::{Notify, Semaphore};

use crate::core::model::Models;
use crate::core::prepare::Caller;
use crate::keys::{Allowance, Usage};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::problem::{Kind, Problem};

/// Bytes of bodies that are read at the same time, in units of [`UNIT`].
const BODIES: usize = 256 << 20;
pub(crate) const UNIT: usize = 64 << 10;

pub(crate) struct App {
    pub(crate) models: Models,
    pub(crate) options: Options,
    pub(crate) metrics: Arc<Metrics>,
    /// Room for bodies.
    pub(crate) bodies: Arc<Semaphore>,
    /// Whose turn it is of the large bodies.
    pub(crate) large: Arc<Semaphore>,
    draining: AtomicBool,
    /// Notified when the server begins to drain.
    pub(crate) drain: Notify,
    /// What each key uses.
    usage: Vec<Arc<Usage>>,
    serial: AtomicU64,
}

/// Who sent a request.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    /// The request's id.
    pub(crate) id: String,
    /// The index of the key.
    pub(crate) key: Option<usize>,
}

/// Counts a request of a key until it is dropped.
pub(crate) struct InUse(Option<Arc<Usage>>);

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(usage) = &self.0 {
            usage.end();
        }
    }
}

impl App {
    pub(crate) fn new(models: Models, options: Options, metrics: Arc<Metrics>) -> Self {
        let keys = options.keys.iter().flat_map(|keys| (0..keys.len()).map(|i| keys.get(i)));
        let usage = keys.map(|key| Arc::new(Usage::new(key, Instant::now()))).collect();
        Self {
            models,
            options,
            metrics,
            bodies: Arc::new(Semaphore::new(BODIES / UNIT)),
            large: Arc::new(Semaphore::new(1)),
            draining: AtomicBool::new(false),
            drain: Notify::new(),
            usage,
            serial: AtomicU64::new(0),
        }
    }

    /// Stops accepting new requests for answers.
    pub(crate) fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.drain.notify_one();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// A number that no other request has.
    pub(crate) fn serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// Whom the engine charges for a request.
    pub(crate) fn caller(&self, who: &Who) -> Caller {
        let keys = self.options.keys.as_ref();
        match (keys, who.key) {
            (Some(keys), Some(index)) => {
                let key = keys.get(index);
                let own = !self.options.share_prefixes;
                let namespace = if own { key.namespace() } else { Namespace::COMMON };
                Caller { key: index as u64 + 1, namespace, class: key.class }
            }
            _ => Caller { key: 0, namespace: Namespace::COMMON, class: Class::Interactive },
        }
    }

    /// Counts a request of a key.
    ///
    /// # Errors
    /// The key has as many as it may.
    pub(crate) fn enter(&self, who: &Who) -> Result<InUse, Problem> {
        let (Some(keys), Some(index)) = (&self.options.keys, who.key) else {
            return Ok(InUse(None));
        };
        let used = self.usage[index].begin();
        let in_use = InUse(Some(Arc::clone(&self.usage[index])));
        match keys.get(index).requests {
            Some(most) if used >= most => {
                let message =
                    format!("this key may have {most} requests at once; wait for one to end");
                Err(Problem::new(Kind::Busy, message).code("rate_limit_exceeded").retry_after(1))
            }
            _ => Ok(in_use),
        }
    }

    /// Takes the tokens of a prompt from those that a key may use. Returns who pays for the answer.
    ///
    /// # Errors
    /// The key has used up its tokens.
    pub(crate) fn spend(
        &self,
        who: &Who,
        tokens: usize,
        now: Instant,
    ) -> Result<Option<Arc<Usage>>, Problem> {
        let Some(usage) = who.key.map(|index| &self.usage[index]) else { return Ok(None) };
        usage.take(tokens, now).map_err(|wait| {
            let Allowance { limit, left, .. } = usage.allowance(now).unwrap_or_default();
            let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
            let message = format!(
                "this key may use {limit} tokens per minute, of which {left} are left, but the prompt has \
                 {tokens}; send it again in {seconds} s"
            );
            let problem = Problem::new(Kind::Busy, message).code("rate_limit_exceeded");
            problem.retry_after(seconds)
        })?;
        Ok(Some(Arc::clone(usage)))
    }

    /// How many tokens a key may use, if they are limited.
    pub(crate) fn allowance(&self, key: usize) -> Option<Allowance> {
        self.usage[key].allowance(Instant::now())
    }
}

/// Seconds since 1970.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
