//! Threads that run a forward pass in lockstep, and race-free shared buffers.
//!
//! A *job* runs on every worker at once (the caller is worker 0). Barriers divide it into *phases*:
//!
//! ```text
//! worker 0 ──items──┤           ├──items──┤            one job = one forward pass
//! worker 1 ──items──┤  barrier  ├──items──┤  barrier   no locks, no queue, no allocation
//! ```
//!
//! Within a phase, each worker claims items (numbers 0…n) from its own share, consecutive items that
//! usually read consecutive memory, and then from the shares of others, so a preempted worker delays
//! only its current item. In any one phase, a [`Shared`] buffer is either read by all workers or
//! written in columns, one per item, readable only by that item. The types enforce this:
//!
//! - slices borrow the [`Worker`], and [`Worker::barrier`] needs it mutably, so no slice outlives its
//!   phase (checked by the compiler);
//! - every buffer carries a stamp (phase, access, column width), so reading during a write, or
//!   writing with two different splits, panics (checked at run time, one atomic load per access);
//! - an item can be taken once per buffer, and items are unique.
//!
//! A panicking worker poisons its pool: the other workers unwind out of the job at their next barrier, so
//! that no slice of a shared buffer survives, and every later job fails. This requires `panic =
//! "unwind"`; with `abort`, a panic ends the process as usual.
//!
//! So the forward pass is safe code. All `unsafe` code is in `threads` and `shared`; `buffers` allocates
//! the shared buffers and those of each worker.

mod buffers;
#[allow(unsafe_code)]
mod shared;
#[allow(unsafe_code)]
mod threads;

pub(crate) use buffers::Buffers;
pub(crate) use shared::{Columns, Plain, Shared, Split};
pub(crate) use threads::{Item, Panicked, Pool, Worker};

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn data_passes_between_workers_across_phases() {
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
                })
                .unwrap();
                let want = (0..1000).map(|i| u64::from(round) + i).sum::<u64>();
                assert!(sums.iter().all(|&s| s == want), "{workers} workers, round {round}");
            }
        }
    }

    #[test]
    fn workers_agree_with_worker_0() {
        let mut pool = Pool::new(3).unwrap();
        let mut votes = vec![Vec::new(); 3];
        pool.run(&mut votes, |w, votes| {
            for i in 0..1000 {
                votes.push(w.barrier_agree(|| i % 3 == 0));
            }
        })
        .unwrap();
        let want: Vec<bool> = (0..1000).map(|i| i % 3 == 0).collect();
        assert!(votes.iter().all(|v| *v == want));
    }

    #[test]
    fn every_task_runs_once() {
        for workers in [1, 2, 5] {
            let mut pool = Pool::new(workers).unwrap();
            let (mut done, mut tasks) = (vec![0; workers], [0u32; 100]);
            for _ in 0..50 {
                pool.for_each(&mut done, &mut tasks, |done, task| {
                    *done += 1;
                    *task += 1;
                })
                .unwrap();
            }
            assert_eq!((done.iter().sum::<u32>(), tasks), (5000, [50; 100]));
        }
    }

    /// Worker 0 waits until the others have left nothing but its first item, so they must have helped.
    #[test]
    fn a_worker_claims_its_share_in_order_and_then_helps() {
        for workers in [2, 4, 5] {
            let n = 10 * workers + 3;
            let mut pool = Pool::new(workers).unwrap();
            let mut claimed = vec![Vec::new(); workers];
            let done = AtomicUsize::new(0);
            pool.run(&mut claimed, |w, claimed| {
                for item in w.items(n) {
                    claimed.push(item.index());
                    while w.index() == 0 && done.load(Ordering::Acquire) < n - 1 {
                        std::thread::yield_now();
                    }
                    done.fetch_add(1, Ordering::Release);
                }
            })
            .unwrap();
            assert_eq!(claimed[0], [0]);
            for (w, claimed) in claimed.iter().enumerate() {
                let share = w * n / workers..(w + 1) * n / workers;
                let own: Vec<_> = claimed.iter().copied().filter(|i| share.contains(i)).collect();
                assert!(own.is_sorted());
                assert!(claimed.starts_with(&own), "{workers} workers, worker {w}: {claimed:?}");
            }
            let mut all = claimed.concat();
            all.sort_unstable();
            assert_eq!(all, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn items_are_divided_once_in_a_phase() {
        let mut pool = Pool::new(1).unwrap();
        let twice = pool.run(&mut [()], |w, ()| {
            w.items(3).for_each(drop);
            w.items(4).for_each(drop);
        });
        assert_eq!(
            twice.unwrap_err().message.lines().next(),
            Some("assertion `left != right` failed: items are divided twice in a phase")
        );
    }

    #[test]
    fn a_panic_fails_this_job_and_all_later_ones() {
        for (workers, culprit) in [(1, 0), (2, 0), (2, 1), (3, 1), (5, 4)] {
            for barriers in [0, 1, 7] {
                let mut pool = Pool::new(workers).unwrap();
                let buffer = pool.shared::<u32>(workers * 16);
                let mut locals = vec![0; workers];
                let panicked = pool
                    .run(&mut locals, |w, phases| {
                        for _ in 0..barriers {
                            let split = buffer.split(w, workers * 16, 16);
                            for item in w.items(workers) {
                                split.take(&item).run().fill(1);
                            }
                            w.barrier();
                            *phases += 1;
                        }
                        assert!(w.index() != culprit, "worker {culprit} fails");
                        w.barrier();
                        *phases += 100;
                    })
                    .unwrap_err();
                let want = Panicked { message: format!("worker {culprit} fails") };
                assert_eq!(panicked, want);
                // Workers that had not yet begun did nothing; none got past the panic.
                assert!(locals.iter().all(|&n| n <= barriers), "{locals:?}");
                assert_eq!(locals[culprit], barriers);
                assert_eq!(pool.run(&mut locals, |_, _| unreachable!()), Err(want.clone()));
                assert_eq!(pool.check(), Err(want));
            }
        }
    }

    /// A worker may still be leaving the last job when the next one starts and fails. No worker may
    /// use the job's borrows after `run` has returned.
    #[test]
    fn no_worker_is_inside_a_failed_job_after_run_returns() {
        for workers in [2, 3, 5] {
            for jobs in 0..60 {
                let mut pool = Pool::new(workers).unwrap();
                let mut locals = vec![0u64; workers];
                for _ in 0..jobs % 7 {
                    pool.run(&mut locals, |_, n| *n += 1).unwrap();
                }
                let inside = AtomicUsize::new(0);
                struct Leave<'a>(&'a AtomicUsize);
                impl Drop for Leave<'_> {
                    fn drop(&mut self) {
                        self.0.fetch_sub(1, Ordering::SeqCst);
                    }
                }
                let failed = pool.run(&mut locals, |w, n| {
                    inside.fetch_add(1, Ordering::SeqCst);
                    let _leave = Leave(&inside);
                    assert!(w.index() != 0, "at once");
                    for _ in 0..20_000 {
                        *n = std::hint::black_box(*n + 1);
                    }
                    w.barrier();
                });
                assert!(failed.is_err());
                assert_eq!(inside.load(Ordering::SeqCst), 0, "{workers} workers, {jobs} jobs");
            }
        }
    }
}
