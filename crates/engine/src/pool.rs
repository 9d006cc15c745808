//! Threads that walk through a forward pass together, and buffers they share without races.
//!
//! A *job* runs on every worker at once (the caller is worker 0). Barriers divide it into *phases*:
//!
//! ```text
//! worker 0 ──items──┤           ├──items──┤            one job = one forward pass
//! worker 1 ──items──┤  barrier  ├──items──┤  barrier   no locks, no queue, no allocation
//! ```
//!
//! Within a phase, workers claim items (numbers 0…n) from a counter, so a worker that the system
//! put to sleep delays nobody's share but its own item. A [`Shared`] buffer is, in one phase,
//! either read by all or written by columns, one item one column. The types enforce it:
//!
//! - slices borrow the [`Worker`], and [`Worker::barrier`] needs it mutably, so none outlives its
//!   phase (checked by the compiler);
//! - every buffer carries a stamp (phase, read or written, column width), so reading what is
//!   being written, or writing two different divisions, panics (checked at run time, one atomic
//!   load per access);
//! - an item can be taken once per buffer, and items are unique.
//!
//! That is why the forward pass is safe code. This module is one of the few places with `unsafe`.
#![allow(unsafe_code)]

use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a waiting worker spins before it yields the CPU.
const SPIN: Duration = Duration::from_micros(50);
/// How long an idle worker yields before it sleeps.
const IDLE: Duration = Duration::from_millis(2);

/// What all workers share. Hot atomics sit on cache lines of their own.
struct Control {
    id: u64,
    workers: usize,
    phase: Line<AtomicU64>,
    arrived: Line<AtomicUsize>,
    /// Item counters of even and odd phases.
    counters: [Line<AtomicUsize>; 2],
    /// Worker 0's votes in even and odd phases.
    votes: [AtomicBool; 2],
    /// Number of the current job; rising tells the workers to start.
    epoch: Line<AtomicU64>,
    job: UnsafeCell<Option<Job>>,
    sleepers: AtomicUsize,
    stop: AtomicBool,
    bell: (Mutex<()>, Condvar),
}

#[repr(align(128))]
struct Line<T>(T);

/// A type-erased job: the closure and how to call it.
#[derive(Clone, Copy)]
struct Job {
    data: *const (),
    call: unsafe fn(*const (), &mut Worker),
}

// SAFETY: `job` is written by the caller of `Pool::run` only while every worker waits for the next
// epoch, and read by workers only after they saw that epoch (release/acquire). The pointer inside
// is used only until the job's last barrier, before which `run` does not return.
unsafe impl Sync for Control {}
// SAFETY: as above; the closure behind the pointer is `Sync`, see `Pool::run`.
unsafe impl Send for Control {}

/// A fixed set of threads.
pub(crate) struct Pool {
    control: Arc<Control>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `workers` threads, the caller of [`Self::run`] being one of them.
    pub(crate) fn new(workers: usize) -> std::io::Result<Self> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let control = Arc::new(Control {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            workers: workers.max(1),
            phase: Line(AtomicU64::new(1)),
            arrived: Line(AtomicUsize::new(0)),
            counters: [Line(AtomicUsize::new(0)), Line(AtomicUsize::new(0))],
            votes: [AtomicBool::new(false), AtomicBool::new(false)],
            epoch: Line(AtomicU64::new(0)),
            job: UnsafeCell::new(None),
            sleepers: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            bell: (Mutex::new(()), Condvar::new()),
        });
        let mut pool = Self { control, threads: Vec::new() };
        for index in 1..pool.workers() {
            let control = Arc::clone(&pool.control);
            let builder = thread::Builder::new().name(format!("nanoinfer-{index}"));
            pool.threads.push(builder.spawn(move || control.serve(index))?);
        }
        Ok(pool)
    }

    /// Workers, the caller included.
    pub(crate) fn workers(&self) -> usize {
        self.control.workers
    }

    /// A zeroed buffer for this pool's jobs. Its pages are not touched until used.
    pub(crate) fn shared<T: Plain>(&self, len: usize) -> Shared<T> {
        Shared::new(len, self.control.id, self.workers())
    }

    /// Runs `f` on every worker, worker `i` with `locals[i]`, and returns when all are done.
    ///
    /// # Panics
    /// If there are fewer locals than workers. A panic inside `f` ends the process: the other
    /// workers would wait for ever.
    pub(crate) fn run<L: Send, F: Fn(&mut Worker, &mut L) + Sync>(
        &mut self,
        locals: &mut [L],
        f: F,
    ) {
        struct Call<L, F> {
            f: F,
            locals: *mut L,
        }
        unsafe fn call<L, F: Fn(&mut Worker, &mut L)>(data: *const (), worker: &mut Worker) {
            // SAFETY: `data` is the `Call` below, alive until `run` returns.
            let call = unsafe { &*data.cast::<Call<L, F>>() };
            // SAFETY: each worker has its own index, below `locals.len()`.
            (call.f)(worker, unsafe { &mut *call.locals.add(worker.index) });
        }
        assert!(locals.len() >= self.workers());
        let data = Call { f, locals: locals.as_mut_ptr() };
        let job = Job { data: (&raw const data).cast(), call: call::<L, F> };
        let control = &*self.control;
        // SAFETY: `&mut self` and the last barrier of the job before: no worker reads it now.
        unsafe { *control.job.get() = Some(job) };
        control.epoch.0.fetch_add(1, Ordering::SeqCst);
        if control.sleepers.load(Ordering::SeqCst) > 0 {
            drop(control.bell.0.lock());
            control.bell.1.notify_all();
        }
        control.work(0, job);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.control.stop.store(true, Ordering::SeqCst);
        self.control.epoch.0.fetch_add(1, Ordering::SeqCst);
        drop(self.control.bell.0.lock());
        self.control.bell.1.notify_all();
        for thread in self.threads.drain(..) {
            // A worker never unwinds, see `Control::work`.
            let _ = thread.join();
        }
    }
}

impl Control {
    /// A worker thread's life: wait for an epoch, work, wait.
    fn serve(&self, index: usize) {
        let mut seen = 0;
        loop {
            seen = self.next_epoch(seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            // SAFETY: written before this epoch began, and not again until the job's end.
            let job = unsafe { *self.job.get() };
            if let Some(job) = job {
                self.work(index, job);
            }
        }
    }

    fn next_epoch(&self, seen: u64) -> u64 {
        let idle_since = Instant::now();
        loop {
            let epoch = self.epoch.0.load(Ordering::SeqCst);
            if epoch != seen {
                return epoch;
            }
            let idle = idle_since.elapsed();
            if idle > IDLE {
                break;
            }
            if idle > SPIN { thread::yield_now() } else { std::hint::spin_loop() }
        }
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.bell.0.lock().unwrap_or_else(PoisonError::into_inner);
        while self.epoch.0.load(Ordering::SeqCst) == seen {
            guard = self.bell.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        self.epoch.0.load(Ordering::SeqCst)
    }

    fn work(&self, index: usize, job: Job) {
        /// Ends the process if the job unwinds: the other workers wait at a barrier.
        struct NoUnwind;
        impl Drop for NoUnwind {
            fn drop(&mut self) {
                if thread::panicking() {
                    std::process::abort();
                }
            }
        }
        let guard = NoUnwind;
        reset_float_environment();
        let phase = self.phase.0.load(Ordering::Acquire);
        let mut worker = Worker { control: self, index, phase };
        // SAFETY: `job.data` is alive until the barrier below, which `run` passes too.
        unsafe { (job.call)(job.data, &mut worker) };
        worker.barrier();
        drop(guard);
    }
}

/// Rounding to nearest, no flushing of denormals: whatever the host program set, bits must agree.
fn reset_float_environment() {
    #[cfg(target_arch = "x86_64")]
    {
        let default: u32 = 0x1f80;
        // SAFETY: loads the documented power-on value of MXCSR, the one Rust assumes.
        unsafe {
            std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const default, options(nostack, readonly))
        };
    }
}

/// One worker within a job.
pub(crate) struct Worker<'c> {
    control: &'c Control,
    index: usize,
    phase: u64,
}

impl Worker<'_> {
    /// Waits until every worker is here, and begins the next phase.
    pub(crate) fn barrier(&mut self) {
        let c = self.control;
        if c.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == c.workers {
            c.arrived.0.store(0, Ordering::Relaxed);
            c.counters[(self.phase as usize + 1) % 2].0.store(0, Ordering::Relaxed);
            c.phase.0.store(self.phase + 1, Ordering::Release);
        } else {
            self.wait();
        }
        self.phase += 1;
    }

    fn wait(&self) {
        let changed = || self.control.phase.0.load(Ordering::Acquire) != self.phase;
        // A few hundred spins before the first look at the clock, which costs as much as they do.
        for _ in 0..512 {
            if changed() {
                return;
            }
            std::hint::spin_loop();
        }
        let since = Instant::now();
        while !changed() {
            if since.elapsed() > SPIN { thread::yield_now() } else { std::hint::spin_loop() }
        }
    }

    /// A barrier at which all workers learn what worker 0 thinks of `question`.
    pub(crate) fn barrier_agree(&mut self, question: impl Fn() -> bool) -> bool {
        let vote = &self.control.votes[self.phase as usize % 2];
        if self.index == 0 {
            vote.store(question(), Ordering::Relaxed);
        }
        self.barrier();
        vote.load(Ordering::Relaxed)
    }

    /// Claims this worker's share of the items 0…`n` of this phase. Once per phase.
    pub(crate) fn items(&self, n: usize) -> Items<'_> {
        Items { worker: self, n }
    }
}

/// Iterator over the items a worker claims.
pub(crate) struct Items<'p> {
    worker: &'p Worker<'p>,
    n: usize,
}

impl<'p> Iterator for Items<'p> {
    type Item = Item<'p>;

    fn next(&mut self) -> Option<Item<'p>> {
        let w = self.worker;
        let index = w.control.counters[w.phase as usize % 2].0.fetch_add(1, Ordering::Relaxed);
        (index < self.n).then_some(Item {
            index,
            phase: w.phase,
            pool: w.control.id,
            _p: PhantomData,
        })
    }
}

/// A unit of work that exactly one worker holds in this phase.
pub(crate) struct Item<'p> {
    index: usize,
    phase: u64,
    pool: u64,
    _p: PhantomData<&'p ()>,
}

impl Item<'_> {
    /// Its number.
    pub(crate) fn index(&self) -> usize {
        self.index
    }
}

/// Plain numbers: what shared buffers hold.
pub(crate) trait Plain: Copy + Default + Send + Sync + 'static {}
impl Plain for f32 {}
impl Plain for i32 {}
impl Plain for i8 {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}

/// A buffer that in each phase is either read by all workers or written by columns.
pub(crate) struct Shared<T> {
    /// The allocation, up to one cache line longer than the buffer.
    storage: NonNull<[T]>,
    /// The buffer: the part of `storage` that begins on a cache line.
    start: NonNull<T>,
    len: usize,
    pool: u64,
    /// Phase of the last access, times 4, plus `READ`, `SETTING` or `WRITE`.
    state: AtomicU64,
    /// Stride and column width of the phase that writes.
    grid: AtomicU64,
    /// Per worker: the last phase in which it split the buffer.
    splits: Box<[AtomicU64]>,
}

const READ: u64 = 0;
const SETTING: u64 = 1;
const WRITE: u64 = 2;

// SAFETY: access goes through `read` and `split`, whose stamps keep readers and writers of one
// phase apart, and phases are ordered by the barrier (release/acquire).
unsafe impl<T: Plain> Sync for Shared<T> {}
// SAFETY: it owns its allocation, and plain numbers may move between threads.
unsafe impl<T: Plain> Send for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: `storage` came from `Box::into_raw` in `new` and is freed once.
        drop(unsafe { Box::from_raw(self.storage.as_ptr()) });
    }
}

impl<T: Plain> Shared<T> {
    fn new(len: usize, pool: u64, workers: usize) -> Self {
        const CACHE_LINE: usize = 64;
        // `vec!` of zeros asks the system for zero pages, which cost nothing until touched; an
        // aligned allocation would be cleared by hand. Hence the slack.
        let storage = vec![T::default(); len + CACHE_LINE / size_of::<T>()].into_boxed_slice();
        let storage = NonNull::from(Box::leak(storage));
        let base = storage.cast::<T>();
        // SAFETY: at most a cache line, which the allocation has beyond `len`.
        let start = unsafe { base.add(base.align_offset(CACHE_LINE)) };
        let splits = (0..workers).map(|_| AtomicU64::new(0)).collect();
        let (state, grid) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { storage, start, len, pool, state, grid, splits }
    }

    /// The whole buffer, outside of any job.
    pub(crate) fn get_mut(&mut self) -> &mut [T] {
        // SAFETY: `&mut self`: no worker holds a part of it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// The whole buffer, written in an earlier phase.
    ///
    /// # Panics
    /// If it is written in this phase.
    pub(crate) fn read<'p>(&'p self, worker: &'p Worker<'_>) -> &'p [T] {
        assert_eq!(worker.control.id, self.pool);
        let mut state = self.state.load(Ordering::Acquire);
        while state != worker.phase << 2 | READ {
            assert!(
                state >> 2 < worker.phase,
                "a shared buffer is read in the phase that writes it"
            );
            match self.state.compare_exchange(
                state,
                worker.phase << 2 | READ,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        // SAFETY: the stamp says that nobody writes in this phase; the slice borrows the worker,
        // so it ends before the worker's next barrier.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Divides the buffer for writing: rows of `stride` values, item `i` owning the columns
    /// `i·width .. (i+1)·width` of every row. Once per worker and phase, the same on every worker.
    ///
    /// # Panics
    /// If the buffer is read in this phase, or divided in another way.
    pub(crate) fn split<'p>(
        &'p self,
        worker: &'p Worker<'_>,
        stride: usize,
        width: usize,
    ) -> Split<'p, T> {
        assert_eq!(worker.control.id, self.pool);
        assert!(width > 0 && stride <= u32::MAX as usize && width <= u32::MAX as usize);
        let last = self.splits[worker.index].swap(worker.phase, Ordering::Relaxed);
        assert_ne!(last, worker.phase, "a shared buffer is divided twice in a phase");
        let grid = (stride as u64) << 32 | width as u64;
        let tag = |kind| worker.phase << 2 | kind;
        let mut state = self.state.load(Ordering::Acquire);
        while state != tag(WRITE) {
            if state == tag(SETTING) {
                std::hint::spin_loop();
                state = self.state.load(Ordering::Acquire);
                continue;
            }
            assert!(
                state >> 2 < worker.phase,
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
        assert_eq!(
            self.grid.load(Ordering::Relaxed),
            grid,
            "a shared buffer is divided in two ways"
        );
        Split {
            start: self.start.as_ptr(),
            rows: self.len.checked_div(stride).unwrap_or(0),
            stride,
            width,
            phase: worker.phase,
            pool: self.pool,
            next: Cell::new(0),
            _p: PhantomData,
        }
    }
}

/// One worker's view of a buffer that is written in this phase.
pub(crate) struct Split<'p, T> {
    start: *mut T,
    rows: usize,
    stride: usize,
    width: usize,
    phase: u64,
    pool: u64,
    /// Items below this number were taken.
    next: Cell<usize>,
    _p: PhantomData<&'p mut [T]>,
}

impl<'p, T: Plain> Split<'p, T> {
    /// The columns of `item`.
    ///
    /// # Panics
    /// If the item was taken from this buffer before, or lies beyond it.
    pub(crate) fn take(&self, item: &Item<'p>) -> Columns<'p, T> {
        assert!(item.phase == self.phase && item.pool == self.pool);
        assert!(item.index >= self.next.get(), "an item is taken twice from one buffer");
        self.next.set(item.index + 1);
        let from = item.index * self.width;
        assert!(from < self.stride, "an item lies beyond its buffer");
        let width = self.width.min(self.stride - from);
        // SAFETY: `from < stride`, and row 0 exists unless `rows` is 0, in which case the pointer
        // is never used.
        let start = if self.rows == 0 { self.start } else { unsafe { self.start.add(from) } };
        Columns { start, rows: self.rows, stride: self.stride, width, _p: PhantomData }
    }
}

/// The part of a buffer that one item owns: the same columns of every row.
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
        // and an item is taken once, so no other slice covers these columns; `&mut self` keeps
        // rows of this item apart in time.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(r * self.stride), self.width) }
    }

    /// The columns of the first row, for a buffer divided into plain runs.
    pub(crate) fn run(self) -> &'p mut [T] {
        assert!(self.rows > 0);
        // SAFETY: as in `row`; `self` is consumed, so this is the item's only slice.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.width) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_pass_data_between_all_workers() {
        for workers in [1, 2, 3, 7] {
            let mut pool = Pool::new(workers).unwrap();
            let (a, b) = (pool.shared::<u32>(1000), pool.shared::<u32>(1000));
            let mut sums = vec![0u64; workers];
            for round in 0..200u32 {
                pool.run(&mut sums, |w, sum| {
                    let split = a.split(w, 1000, 7);
                    for item in w.items(1000usize.div_ceil(7)) {
                        let at = item.index() as u32 * 7;
                        for (i, x) in split.take(&item).run().iter_mut().enumerate() {
                            *x = round + at + i as u32;
                        }
                    }
                    w.barrier();
                    let split = b.split(w, 100, 10); // 10 rows, columns of 10
                    for item in w.items(10) {
                        let mut columns = split.take(&item);
                        for r in 0..10 {
                            let from = &a.read(w)[r * 100 + item.index() * 10..][..10];
                            columns.row(r).copy_from_slice(from);
                        }
                    }
                    w.barrier();
                    *sum = b.read(w).iter().map(|&x| u64::from(x)).sum();
                });
                let want = (0..1000).map(|i| u64::from(round) + i).sum::<u64>();
                assert!(sums.iter().all(|&s| s == want), "{workers} workers, round {round}");
            }
        }
    }

    #[test]
    fn workers_agree_on_what_worker_0_says() {
        let mut pool = Pool::new(3).unwrap();
        let mut heard = vec![Vec::new(); 3];
        pool.run(&mut heard, |w, heard| {
            for i in 0..1000 {
                heard.push(w.barrier_agree(|| i % 3 == 0));
            }
        });
        let want: Vec<bool> = (0..1000).map(|i| i % 3 == 0).collect();
        assert!(heard.iter().all(|h| *h == want));
    }

    /// What a violation looks like: a panic, before any reference exists. With one worker the
    /// panic's abort guard would end the test process, so the check is called directly.
    fn violation(f: impl Fn(&mut Worker<'_>)) -> bool {
        let pool = Pool::new(1).unwrap();
        let control = Arc::clone(&pool.control);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            f(&mut Worker { control: &control, index: 0, phase: 1 });
        }))
        .is_err()
    }

    #[test]
    fn reading_what_is_being_written_is_refused() {
        let shared = |w: &Worker<'_>| Shared::<f32>::new(64, w.control.id, 1);
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
