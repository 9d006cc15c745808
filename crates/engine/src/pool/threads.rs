//! The threads: jobs, phases, barriers, items.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a waiting worker spins before it yields the CPU. With more workers than CPUs, it does not
/// spin at all, as the worker it waits for may need its CPU.
const SPIN: Duration = Duration::from_micros(50);
/// How long an idle worker yields before it sleeps.
const IDLE: Duration = Duration::from_millis(2);

/// The phase of a pool after a worker has panicked: barriers no longer complete.
const POISONED: u64 = u64::MAX;

/// A worker panicked, in this job or an earlier one. Shared buffers may be inconsistent, so the pool
/// runs no more jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Panicked {
    /// The panic's message.
    pub message: String,
}

/// Panic payload of a worker that unwinds because another one panicked.
struct Bystander;

/// State shared by all workers. Each hot atomic has its own cache line.
struct Control {
    id: u64,
    workers: usize,
    crowded: bool,
    /// Number of the current phase, or [`POISONED`].
    phase: Line<AtomicU64>,
    arrived: Line<AtomicUsize>,
    /// 1 + the number of items, or 0 if no worker has asked for any, in even and odd phases.
    items: [Line<AtomicUsize>; 2],
    /// Per worker: how many items of its share are claimed, in even and odd phases.
    claimed: Box<[[Line<AtomicUsize>; 2]]>,
    /// Worker 0's votes in even and odd phases.
    votes: [AtomicBool; 2],
    /// Number of the current job; an increment starts the workers.
    epoch: Line<AtomicU64>,
    job: UnsafeCell<Option<Job>>,
    sleepers: AtomicUsize,
    stop: AtomicBool,
    bell: (Mutex<()>, Condvar),
    /// Number of workers that have left a poisoned job.
    left: AtomicUsize,
    /// The message of the first panic.
    panic: Mutex<Option<String>>,
}

#[derive(Default)]
#[repr(align(128))]
struct Line<T>(T);

/// A type-erased closure.
#[derive(Clone, Copy)]
struct Job {
    data: *const (),
    call: unsafe fn(*const (), &mut Worker),
}

// SAFETY: `job` is written by the caller of `Pool::run` only while every worker waits for the next epoch,
// and read by workers only after they have seen that epoch (release/acquire). The pointer inside is used
// only until the job's last barrier, before which `run` does not return.
unsafe impl Sync for Control {}
// SAFETY: as above; the closure behind the pointer is `Sync`, see `Pool::run`.
unsafe impl Send for Control {}

/// A fixed set of threads.
pub(crate) struct Pool {
    control: Arc<Control>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `workers` threads, one of which is the caller of [`Self::run`].
    pub(crate) fn new(workers: usize) -> std::io::Result<Self> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let control = Arc::new(Control {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            workers: workers.max(1),
            crowded: thread::available_parallelism().is_ok_and(|cpus| workers > cpus.get()),
            phase: Line(AtomicU64::new(1)),
            arrived: Line(AtomicUsize::new(0)),
            items: Default::default(),
            claimed: (0..workers.max(1)).map(|_| Default::default()).collect(),
            votes: [AtomicBool::new(false), AtomicBool::new(false)],
            epoch: Line(AtomicU64::new(0)),
            job: UnsafeCell::new(None),
            sleepers: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            bell: (Mutex::new(()), Condvar::new()),
            left: AtomicUsize::new(0),
            panic: Mutex::new(None),
        });
        let mut pool = Self { control, threads: Vec::new() };
        for index in 1..pool.workers() {
            let control = Arc::clone(&pool.control);
            let builder = thread::Builder::new().name(format!("nanoinfer-{index}"));
            pool.threads.push(builder.spawn(move || control.serve(index))?);
        }
        Ok(pool)
    }

    /// The only worker of a single-threaded pool, outside of a job.
    #[cfg(test)]
    pub(super) fn only_worker(&self) -> Worker<'_> {
        assert_eq!(self.workers(), 1);
        Worker { control: &self.control, index: 0, phase: 1, divided: Cell::new(0) }
    }

    /// Number of workers, including the caller.
    pub(crate) fn workers(&self) -> usize {
        self.control.workers
    }

    /// The pool's id, unique within the process.
    pub(super) fn id(&self) -> u64 {
        self.control.id
    }

    /// Number of phases started so far: one per barrier, including the one at the end of each job.
    #[cfg(test)]
    pub(crate) fn phases(&self) -> u64 {
        self.control.phase.0.load(Ordering::Acquire)
    }

    /// Runs `f` on every worker, passing `locals[i]` to worker `i`, and returns when all are done.
    ///
    /// # Errors
    /// A worker panicked, now or in an earlier job. The other workers leave the job at their next
    /// barrier, so neither `f` nor its borrows are in use when this returns.
    ///
    /// # Panics
    /// If there are fewer locals than workers.
    pub(crate) fn run<L: Send, F: Fn(&mut Worker, &mut L) + Sync>(
        &mut self,
        locals: &mut [L],
        f: F,
    ) -> Result<(), Panicked> {
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
        self.check()?;
        let data = Call { f, locals: locals.as_mut_ptr() };
        let job = Job { data: (&raw const data).cast(), call: call::<L, F> };
        let control = &*self.control;
        // SAFETY: no worker reads it now, due to `&mut self` and the previous job's last barrier.
        unsafe { *control.job.get() = Some(job) };
        control.epoch.0.fetch_add(1, Ordering::SeqCst);
        if control.sleepers.load(Ordering::SeqCst) > 0 {
            drop(control.bell.0.lock());
            control.bell.1.notify_all();
        }
        control.work(0, job);
        self.check().inspect_err(|_| {
            // The job's data stays borrowed until the last worker has unwound out of it.
            while control.left.load(Ordering::Acquire) < control.workers {
                thread::yield_now();
            }
        })
    }

    /// Runs `f` once for each of `tasks` on any worker, with that worker's local.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub(crate) fn for_each<L: Send, T: Send, F: Fn(&mut L, &mut T) + Sync>(
        &mut self,
        locals: &mut [L],
        tasks: &mut [T],
        f: F,
    ) -> Result<(), Panicked> {
        /// The start of `tasks`.
        struct Tasks<T>(*mut T);
        // SAFETY: each element is accessed by one worker only, see below, and `T` is `Send`.
        unsafe impl<T: Send> Sync for Tasks<T> {}
        impl<T> Tasks<T> {
            fn at(&self, index: usize) -> *mut T {
                self.0.wrapping_add(index)
            }
        }
        let (n, first) = (tasks.len(), Tasks(tasks.as_mut_ptr()));
        self.run(locals, |w, local| {
            for item in w.items(n) {
                // SAFETY: an item's number is below `n` and held by one worker only; `tasks` stays
                // borrowed until `run` returns, when no worker is in this closure.
                f(local, unsafe { &mut *first.at(item.index()) });
            }
        })
    }

    /// Fails if any job so far has panicked.
    pub(crate) fn check(&self) -> Result<(), Panicked> {
        if self.control.phase.0.load(Ordering::Acquire) != POISONED {
            return Ok(());
        }
        let panic = self.control.panic.lock().unwrap_or_else(PoisonError::into_inner);
        Err(Panicked { message: panic.clone().unwrap_or_default() })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.control.stop.store(true, Ordering::SeqCst);
        self.control.epoch.0.fetch_add(1, Ordering::SeqCst);
        drop(self.control.bell.0.lock());
        self.control.bell.1.notify_all();
        for thread in self.threads.drain(..) {
            // It never panics: `Control::work` catches the panics of jobs.
            let _ = thread.join();
        }
    }
}

impl Control {
    /// A worker thread's main loop: wait for an epoch, work, repeat.
    fn serve(&self, index: usize) {
        let mut seen = 0;
        loop {
            seen = self.next_epoch(seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            // SAFETY: written before this epoch began, and not again until the job's end.
            let job = unsafe { *self.job.get() };
            if job.is_some_and(|job| !self.work(index, job)) {
                return;
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
            if self.crowded || idle > SPIN {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
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

    /// Does a worker's part of a job. Returns false if the pool is poisoned: the worker has then
    /// incremented `left`, which it must do only once, so it must not call this again.
    fn work(&self, index: usize, job: Job) -> bool {
        nanoinfer_platform::float::reset();
        let phase = self.phase.0.load(Ordering::Acquire);
        if phase == POISONED {
            // Another worker panicked before this one began.
            self.left.fetch_add(1, Ordering::Release);
            return false;
        }
        let mut worker = Worker { control: self, index, phase, divided: Cell::new(0) };
        // Unwind-safe: a poisoned pool never reads the job's data again.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: `job.data` is alive until the barrier below, which `run` passes too, or until
            // this worker increments `left`.
            unsafe { (job.call)(job.data, &mut worker) };
            worker.barrier();
        }));
        let Err(payload) = outcome else { return true };
        self.poison(payload);
        self.left.fetch_add(1, Ordering::Release);
        false
    }

    /// Records the message of the first panic, and makes every later barrier unwind.
    fn poison(&self, payload: Box<dyn Any + Send>) {
        if !payload.is::<Bystander>() {
            let message = payload.downcast_ref::<&str>().map(|message| (*message).to_owned());
            let message = message.or_else(|| payload.downcast_ref::<String>().cloned());
            let mut panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            panic.get_or_insert(message.unwrap_or_else(|| "unknown panic payload".into()));
        }
        self.phase.0.store(POISONED, Ordering::Release);
    }
}

/// One worker within a job.
pub(crate) struct Worker<'c> {
    control: &'c Control,
    index: usize,
    phase: u64,
    /// The last phase whose items were divided.
    divided: Cell<u64>,
}

impl Worker<'_> {
    /// Waits for all workers, then begins the next phase. Unwinds if one of them has panicked.
    pub(crate) fn barrier(&mut self) {
        let c = self.control;
        // Nobody claims items of the next phase before all workers have arrived.
        c.claimed[self.index][(self.phase as usize + 1) % 2].0.store(0, Ordering::Relaxed);
        if c.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == c.workers {
            c.arrived.0.store(0, Ordering::Relaxed);
            c.items[(self.phase as usize + 1) % 2].0.store(0, Ordering::Relaxed);
            c.phase.0.store(self.phase + 1, Ordering::Release);
        } else {
            self.wait();
            if c.phase.0.load(Ordering::Acquire) == POISONED {
                resume_unwind(Box::new(Bystander));
            }
        }
        self.phase += 1;
    }

    fn wait(&self) {
        let changed = || self.control.phase.0.load(Ordering::Acquire) != self.phase;
        if self.control.crowded {
            while !changed() {
                thread::yield_now();
            }
            return;
        }
        // Spin a few hundred times before reading the clock, which costs as much.
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

    /// A barrier that returns worker 0's answer to `question` on all workers.
    pub(crate) fn barrier_agree(&mut self, question: impl Fn() -> bool) -> bool {
        let vote = &self.control.votes[self.phase as usize % 2];
        if self.index == 0 {
            vote.store(question(), Ordering::Relaxed);
        }
        self.barrier();
        vote.load(Ordering::Relaxed)
    }

    /// The pool's id, checked by buffers.
    pub(super) fn pool(&self) -> u64 {
        self.control.id
    }

    /// The worker's index in the pool.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The number of the phase, unique within the pool.
    pub(super) fn phase(&self) -> u64 {
        self.phase
    }

    /// Claims items from 0…`n`, one at a time: first those of the worker's own share, in order, then
    /// those that others have not begun.
    ///
    /// # Panics
    /// If it is called twice in a phase, or with different numbers by different workers: items would not
    /// be unique.
    pub(crate) fn items(&self, n: usize) -> Items<'_> {
        assert_ne!(
            self.divided.replace(self.phase),
            self.phase,
            "items are divided twice in a phase"
        );
        let items = &self.control.items[self.phase as usize % 2].0;
        let before = items.swap(n + 1, Ordering::Relaxed);
        assert!(before == 0 || before == n + 1, "workers disagree about the number of items");
        Items { worker: self, n, owner: self.index, helped: 0, order: 0 }
    }
}

/// Iterator over the items claimed by a worker.
///
/// The items are divided into shares of consecutive items, one per worker, because consecutive items
/// usually read consecutive memory, which the CPU prefetches. A worker whose share is exhausted helps
/// those whose index differs in one bit: with many workers, looking at all shares would cost more than
/// it gains, and no item is left undone, since each worker finishes its own share.
pub(crate) struct Items<'p> {
    worker: &'p Worker<'p>,
    n: usize,
    /// The worker from whose share to claim.
    owner: usize,
    /// Number of bits of the index tried so far.
    helped: u32,
    /// Number of items claimed so far.
    order: usize,
}

impl<'p> Iterator for Items<'p> {
    type Item = Item<'p>;

    fn next(&mut self) -> Option<Item<'p>> {
        let (w, n) = (self.worker, self.n);
        let workers = w.control.workers;
        loop {
            let share = self.owner * n / workers..(self.owner + 1) * n / workers;
            let claimed = &w.control.claimed[self.owner][w.phase as usize % 2].0;
            // Reading first leaves an exhausted counter in the caches of those who look at it.
            if claimed.load(Ordering::Relaxed) < share.len() {
                let index = share.start + claimed.fetch_add(1, Ordering::Relaxed);
                if index < share.end {
                    let order = self.order;
                    self.order += 1;
                    return Some(Item { index, order, worker: w });
                }
            }
            self.owner = loop {
                let bit = 1_usize.checked_shl(self.helped).filter(|&bit| bit < workers)?;
                self.helped += 1;
                if w.index ^ bit < workers {
                    break w.index ^ bit;
                }
            };
        }
    }
}

/// A unit of work, held by exactly one worker in this phase.
pub(crate) struct Item<'p> {
    index: usize,
    order: usize,
    worker: &'p Worker<'p>,
}

impl Item<'_> {
    /// The item's number.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// How many items the worker had claimed before in this phase.
    pub(super) fn order(&self) -> usize {
        self.order
    }

    /// The pool, the phase and the worker to which the item belongs.
    pub(super) fn belongs(&self) -> (u64, u64, usize) {
        let w = self.worker;
        (w.pool(), w.phase(), w.index())
    }
}
