//! The state that requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use nanoinfer_engine::Class;
use tokio::sync::{Notify, Semaphore};

use crate::core::model::Models;
use crate::core::prepare::Caller;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::problem::{Kind, Problem};

/// Bytes of bodies that are read at the same time, in units of [`UNIT`].
const BODIES: usize = 256 << 20;
pub(crate) const UNIT: usize = 64 << 10;

pub(crate) struct App {
    pub(crate) models: Models,
    pub(crate) options: Options,
    pub(crate) metrics: Metrics,
    /// Room for bodies.
    pub(crate) bodies: Arc<Semaphore>,
    /// Whose turn it is of the large bodies.
    pub(crate) large: Arc<Semaphore>,
    draining: AtomicBool,
    /// Notified when the server begins to drain.
    pub(crate) drain: Notify,
    /// Requests of each key in progress.
    in_use: Vec<AtomicUsize>,
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
pub(crate) struct InUse(Option<(Arc<App>, usize)>);

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some((app, key)) = &self.0 {
            app.in_use[*key].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl App {
    pub(crate) fn new(models: Models, options: Options, metrics: Metrics) -> Self {
        let keys = options.keys.as_ref().map_or(0, |keys| keys.len());
        Self {
            models,
            options,
            metrics,
            bodies: Arc::new(Semaphore::new(BODIES / UNIT)),
            large: Arc::new(Semaphore::new(1)),
            draining: AtomicBool::new(false),
            drain: Notify::new(),
            in_use: (0..keys).map(|_| AtomicUsize::new(0)).collect(),
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
                Caller { key: index as u64 + 1, class: keys.get(index).class }
            }
            _ => Caller { key: 0, class: Class::Interactive },
        }
    }

    /// Counts a request of a key.
    ///
    /// # Errors
    /// The key has as many as it may.
    pub(crate) fn enter(self: &Arc<Self>, who: &Who) -> Result<InUse, Problem> {
        let (Some(keys), Some(index)) = (&self.options.keys, who.key) else {
            return Ok(InUse(None));
        };
        let used = self.in_use[index].fetch_add(1, Ordering::Relaxed);
        let in_use = InUse(Some((Arc::clone(self), index)));
        match keys.get(index).requests {
            Some(most) if used >= most => {
                let message =
                    format!("this key may have {most} requests at once; wait for one to end");
                Err(Problem::new(Kind::Busy, message).code("rate_limit_exceeded").retry_after(1))
            }
            _ => Ok(in_use),
        }
    }
}

/// Seconds since 1970.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
