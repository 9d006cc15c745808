//! What the page shows of an engine: who uses its cache, and how fast it reads memory. Nothing of what is asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nanoinfer_engine::{Batch, BlockUse};
use serde_json::{Value, json};

use crate::options::Bandwidth;

/// Least time between two views of an engine.
const INTERVAL: Duration = Duration::from_millis(50);
/// Maximum number of cells of the map of blocks.
const CELLS: usize = 1024;

/// The memory bandwidth of the machine, measured when a page first shows it.
#[derive(Debug, Default)]
pub(crate) struct Roof {
    pub(crate) bandwidth: Option<Bandwidth>,
    measured: OnceLock<Option<f64>>,
}

impl Roof {
    pub(crate) fn new(bandwidth: Option<Bandwidth>) -> Self {
        Self { bandwidth, measured: OnceLock::new() }
    }
}

/// The view of an engine, which is up to date only while somebody watches.
#[derive(Debug)]
pub(crate) struct Inside {
    watchers: AtomicUsize,
    view: Mutex<View>,
    roof: Arc<Roof>,
}

#[derive(Debug, Default)]
struct View {
    updated: Option<Instant>,
    /// Number of blocks by use, and a letter for each cell.
    uses: [usize; 4],
    map: String,
    /// Bytes that the last pass read.
    bytes: u64,
}

impl Inside {
    pub(crate) fn new(roof: Arc<Roof>) -> Self {
        Self { watchers: AtomicUsize::new(0), view: Mutex::default(), roof }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner) // every update leaves it whole
    }

    fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    /// Looks at the engine if somebody watches.
    pub(crate) fn update(&self, batch: &Batch, now: Instant) {
        if !self.is_watched() {
            return;
        }
        let mut view = self.view();
        let is_new =
            |last: Instant| batch.is_idle() || now.saturating_duration_since(last) >= INTERVAL;
        if view.updated.is_none_or(is_new) {
            view.updated = Some(now);
            view.bytes = batch.pass_bytes().unwrap_or(0);
            view.look(batch.engine().block_uses(), batch.engine().kv_blocks().0);
        }
    }

    /// The engine is not loaded.
    pub(crate) fn clear(&self) {
        *self.view() = View::default();
    }

    /// Measures the memory bandwidth if somebody watches for the first time. Takes about a second.
    pub(crate) fn measure(&self, threads: usize) {
        if let Some(bandwidth) = self.roof.bandwidth.as_ref().filter(|_| self.is_watched()) {
            self.roof.measured.get_or_init(|| bandwidth.measure(threads));
        }
    }

    /// As members of a report.
    pub(crate) fn report(&self) -> Value {
        let view = self.view();
        let [free, cached, held, shared] = view.uses;
        json!({
            "uses": {"free": free, "cached": cached, "held": held, "shared": shared},
            "map": view.map,
            "pass_bytes": view.bytes,
            "bandwidth": self.roof.measured.get().copied().flatten(),
        })
    }
}

impl View {
    /// Counts the uses of `n` blocks, and divides them into cells; a cell shows the most interesting one.
    fn look(&mut self, uses: impl Iterator<Item = BlockUse>, n: usize) {
        let cells = n.min(CELLS);
        (self.uses, self.map) = ([0; 4], String::with_capacity(cells));
        let (mut cell, mut most) = (0, BlockUse::Free);
        for (i, used) in uses.enumerate() {
            let at = i * cells / n;
            if at != cell {
                self.map.push(letter(most));
                (cell, most) = (at, BlockUse::Free);
            }
            most = most.max(used);
            self.uses[used as usize] += 1;
        }
        if cells > 0 {
            self.map.push(letter(most));
        }
    }
}

fn letter(used: BlockUse) -> char {
    match used {
        BlockUse::Free => '.',
        BlockUse::Cached => 'c',
        BlockUse::Held => 'h',
        BlockUse::Shared => 's',
    }
}

/// Somebody who watches, until it is dropped.
pub(crate) struct Watch(Arc<Inside>);

impl Watch {
    pub(crate) fn new(inside: &Arc<Inside>) -> Self {
        inside.watchers.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(inside))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use BlockUse::{Cached, Free, Held, Shared};

    #[test]
    fn a_map_has_all_blocks_or_the_most_interesting_of_each_cell() {
        let mut view = View::default();
        view.look([Held, Free, Shared, Cached, Free].into_iter(), 5);
        assert_eq!((view.map.as_str(), view.uses), ("h.sc.", [2, 1, 1, 1]));
        view.look((0..2500).map(|i| if i == 1234 { Shared } else { Cached }), 2500);
        assert_eq!((view.map.len(), view.uses), (CELLS, [0, 2499, 0, 1]));
        assert_eq!(view.map.find('s'), Some(1234 * CELLS / 2500));
        view.look(std::iter::empty(), 0);
        assert_eq!((view.map.as_str(), view.uses), ("", [0; 4]));
    }

    #[test]
    fn the_bandwidth_is_measured_once_and_only_for_somebody_who_watches() {
        let roof = Roof::new(Some(Bandwidth::new(|threads| Some(threads as f64 * 1e9))));
        let inside = Arc::new(Inside::new(Arc::new(roof)));
        inside.measure(2);
        assert!(inside.report()["bandwidth"].is_null());
        let watch = Watch::new(&inside);
        inside.measure(3);
        inside.measure(4);
        assert_eq!(inside.report()["bandwidth"], 3e9);
        drop(watch);
        assert!(!inside.is_watched());
    }
}
