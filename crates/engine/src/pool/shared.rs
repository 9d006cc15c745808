//! The shared buffers: in each phase, they are read by all workers or written in columns, as enforced by
//! a stamp.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::threads::{Item, Pool, Worker};

/// Element types of shared buffers: plain numbers.
pub(crate) trait Plain: Copy + Default + Send + Sync + 'static {}
impl Plain for f32 {}
impl Plain for i32 {}
impl Plain for i8 {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}

/// A buffer that in each phase is either read by all workers or written in columns.
pub(crate) struct Shared<T> {
    /// The allocation, up to one cache line longer than the buffer.
    storage: NonNull<[T]>,
    /// The buffer: the cache-line-aligned part of `storage`.
    start: NonNull<T>,
    len: usize,
    pool: u64,
    /// Phase of the last access, times 4, plus `READ`, `SETTING` or `WRITE`.
    state: AtomicU64,
    /// Stride and column width of the writing phase.
    grid: AtomicU64,
    /// Per worker: the last phase in which it split the buffer.
    splits: Box<[AtomicU64]>,
}

const READ: u64 = 0;
const SETTING: u64 = 1;
const WRITE: u64 = 2;

// SAFETY: access goes through `read` and `split`, whose stamps keep readers and writers in separate
// phases, and phases are ordered by the barrier (release/acquire).
unsafe impl<T: Plain> Sync for Shared<T> {}
// SAFETY: it owns its allocation, and plain numbers may move between threads.
unsafe impl<T: Plain> Send for Shared<T> {}

impl Pool {
    /// A zeroed buffer for this pool's jobs. Its pages stay untouched until used.
    pub(crate) fn shared<T: Plain>(&self, len: usize) -> Shared<T> {
        Shared::new(len, self.id(), self.workers())
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: `storage` came from `Box::into_raw` in `new` and is freed once.
        drop(unsafe { Box::from_raw(self.storage.as_ptr()) });
    }
}

impl<T: Plain> Shared<T> {
    fn new(len: usize, pool: u64, workers: usize) -> Self {
        const CACHE_LINE: usize = 64;
        // `vec!` of zeros gets zero pages from the system, which cost nothing until touched; an
        // aligned allocation would be cleared explicitly. Hence the slack.
        let storage = vec![T::default(); len + CACHE_LINE / size_of::<T>()].into_boxed_slice();
        let storage = NonNull::from(Box::leak(storage));
        let base = storage.cast::<T>();
        // SAFETY: the offset is at most one cache line, and the allocation is one cache line longer
        // than `len` values.
        let start = unsafe { base.add(base.align_offset(CACHE_LINE)) };
        let splits = (0..workers).map(|_| AtomicU64::new(0)).collect();
        let (state, grid) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { storage, start, len, pool, state, grid, splits }
    }

    /// An empty buffer without a pool or an allocation.
    pub(crate) fn empty() -> Self {
        let storage = NonNull::from(Box::leak(Box::<[T]>::default()));
        Self {
            storage,
            start: storage.cast(),
            len: 0,
            pool: u64::MAX,
            state: AtomicU64::new(0),
            grid: AtomicU64::new(0),
            splits: Box::default(),
        }
    }

    /// The whole buffer, outside of any job.
    pub(crate) fn get_mut(&mut self) -> &mut [T] {
        // SAFETY: due to `&mut self`, no worker holds a part of it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// The whole buffer, written in an earlier phase.
    ///
    /// # Panics
    /// If the buffer is written in this phase.
    pub(crate) fn read<'p>(&'p self, worker: &'p Worker<'_>) -> &'p [T] {
        assert_eq!(worker.pool(), self.pool);
        let mut state = self.state.load(Ordering::Acquire);
        while state != worker.phase() << 2 | READ {
            assert!(
                state >> 2 < worker.phase(),
                "a shared buffer is read in the phase that writes it"
            );
            match self.state.compare_exchange(
                state,
                worker.phase() << 2 | READ,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        // SAFETY: the stamp rules out writes in this phase; the slice borrows the worker, so it ends
        // before the worker's next barrier.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Splits the buffer for writing: rows of `stride` values, where item `i` owns the columns
    /// `i·width .. (i+1)·width` of every row. Call it once per worker and phase, with the same
    /// arguments on every worker.
    ///
    /// # Panics
    /// If the buffer is read in this phase, or split differently.
    pub(crate) fn split<'p>(
        &'p self,
        worker: &'p Worker<'_>,
        stride: usize,
        width: usize,
    ) -> Split<'p, T> {
        assert_eq!(worker.pool(), self.pool);
        assert!(width > 0 && stride <= u32::MAX as usize && width <= u32::MAX as usize);
        let last = self.splits[worker.index()].swap(worker.phase(), Ordering::Relaxed);
        assert_ne!(last, worker.phase(), "a shared buffer is split twice in a phase");
        let grid = (stride as u64) << 32 | width as u64;
        let tag = |kind| worker.phase() << 2 | kind;
        let mut state = self.state.load(Ordering::Acquire);
        while state != tag(WRITE) {
            if state == tag(SETTING) {
                std::hint::spin_loop();
                state = self.state.load(Ordering::Acquire);
                continue;
            }
            assert!(
                state >> 2 < worker.phase(),
                "a shared buffer is written in the phase that reads it"
            );
            match self.state.compare_exchange(
                state,
                tag(SETTING),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    self.grid.store(grid, Ordering::Relaxed);
                    self.state.store(tag(WRITE), Ordering::Release);
                    break;
                }
                Err(now) => state = now,
            }
        }
        assert_eq!(self.grid.load(Ordering::Relaxed), grid, "a shared buffer is split in two ways");
        Split {
            start: self.start.as_ptr(),
            rows: self.len.checked_div(stride).unwrap_or(0),
            stride,
            width,
            belongs: (self.pool, worker.phase(), worker.index()),
            next: Cell::new(0),
            _p: PhantomData,
        }
    }
}

/// One worker's view of a buffer being written in this phase.
pub(crate) struct Split<'p, T> {
    start: *mut T,
    rows: usize,
    stride: usize,
    width: usize,
    /// The pool, the phase and the worker.
    belongs: (u64, u64, usize),
    /// How many items the worker had claimed when it took the last one, that included.
    next: Cell<usize>,
    _p: PhantomData<&'p mut [T]>,
}

impl<'p, T: Plain> Split<'p, T> {
    /// The columns of `item`.
    ///
    /// # Panics
    /// If the item was already taken from this buffer, or lies beyond it.
    pub(crate) fn take(&self, item: &Item<'p>) -> Columns<'p, T> {
        assert_eq!(item.belongs(), self.belongs);
        assert!(item.order() >= self.next.get(), "an item is taken twice from one buffer");
        self.next.set(item.order() + 1);
        let from = item.index() * self.width;
        assert!(from < self.stride, "an item lies beyond its buffer");
        let width = self.width.min(self.stride - from);
        // SAFETY: `from < stride`, and row 0 exists unless `rows` is 0, in which case the pointer
        // is never used.
        let start = if self.rows == 0 { self.start } else { unsafe { self.start.add(from) } };
        Columns { start, rows: self.rows, stride: self.stride, width, _p: PhantomData }
    }
}

/// The part of a buffer owned by one item: the same columns of every row.
pub(crate) struct Columns<'p, T> {
    start: *mut T,
    rows: usize,
    stride: usize,
    width: usize,
    _p: PhantomData<&'p mut [T]>,
}

impl<'p, T: Plain> Columns<'p, T> {
    /// The columns of row `r`.
    pub(crate) fn row(&mut self, r: usize) -> &mut [T] {
        assert!(r < self.rows);
        // SAFETY: row and columns lie within the buffer (see `take`); items are unique in a phase
        // and taken once, so no other slice covers these columns; `&mut self` rules out overlapping
        // borrows within the item.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(r * self.stride), self.width) }
    }

    /// The columns of row `r`, for reading by their owner.
    pub(crate) fn get(&self, r: usize) -> &[T] {
        assert!(r < self.rows);
        // SAFETY: as in `row`; `&self` rules out writes through this item meanwhile.
        unsafe { std::slice::from_raw_parts(self.start.add(r * self.stride), self.width) }
    }

    /// The columns of the first row, for a buffer split into contiguous runs.
    pub(crate) fn run(self) -> &'p mut [T] {
        assert!(self.rows > 0);
        // SAFETY: as in `row`; `self` is consumed, so this is the item's only slice.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.width) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether `f` panics, before any invalid reference exists.
    fn violation(f: impl Fn(&mut Worker<'_>)) -> bool {
        let pool = Pool::new(1).unwrap();
        let run = || f(&mut pool.only_worker());
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err()
    }

    #[test]
    fn conflicting_accesses_panic() {
        let shared = |w: &Worker<'_>| Shared::<f32>::new(64, w.pool(), 1);
        assert!(!violation(move |w| {
            let s = shared(w);
            s.read(w);
            w.barrier();
            s.split(w, 64, 16);
            w.barrier();
            s.read(w);
        }));
        assert!(violation(move |w| {
            let s = shared(w);
            s.split(w, 64, 16);
            s.read(w);
        }));
        assert!(violation(move |w| {
            let s = shared(w);
            s.read(w);
            s.split(w, 64, 16);
        }));
        assert!(violation(move |w| {
            let s = shared(w);
            s.split(w, 64, 16);
            s.split(w, 64, 16);
        }));
        assert!(violation(move |w| {
            let s = shared(w);
            let split = s.split(w, 64, 16);
            for item in w.items(1) {
                split.take(&item);
                split.take(&item);
            }
        }));
    }
}
