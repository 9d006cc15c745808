//! What decides whether an engine is loaded.

use std::time::{Duration, Instant};

use nanoinfer_engine::{Batch, BatchOptions, Engines, Seams};

use crate::options::Load;
use crate::room::Place;

/// What decides whether an engine is loaded.
pub(crate) struct Loading {
    /// The model's name.
    pub(crate) name: String,
    /// Makes the engine; without it, it is never unloaded.
    pub(crate) load: Option<Load>,
    pub(crate) options: BatchOptions,
    pub(crate) seams: Seams,
    pub(crate) place: Place,
    /// Time without requests after which it is unloaded.
    pub(crate) idle: Option<Duration>,
    /// Since when it has had none.
    pub(super) since: Option<Instant>,
    /// Whether it is unloaded as soon as it has none.
    pub(super) is_unwanted: bool,
}

impl Loading {
    pub(crate) fn new(
        (name, load): (String, Option<Load>),
        (options, seams): (BatchOptions, Seams),
        place: Place,
        idle: Option<Duration>,
    ) -> Self {
        Self { name, load, options, seams, place, idle, since: None, is_unwanted: false }
    }

    /// A request begins.
    pub(super) fn begin(&mut self) {
        self.since = None;
        self.place.begin();
    }
}

/// A batch that shares the answers of earlier ones. Its store is read and written in the background, unlike by a
/// sequence of its own.
pub(crate) fn batch(mut engines: Engines, options: BatchOptions, seams: Option<Seams>) -> Batch {
    let store = engines.store.take();
    let mut batch = Batch::new(engines, options);
    if let Some(seams) = seams {
        batch.set_seams(seams);
    }
    batch.set_store(store);
    batch
}
