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
//! either read by all or written by columns, one item one column, which only that item may read
//! meanwhile. The types enforce it:
//!
//! - slices borrow the [`Worker`], and [`Worker::barrier`] needs it mutably, so none outlives its
//!   phase (checked by the compiler);
//! - every buffer carries a stamp (phase, read or written, column width), so reading what is
//!   being written, or writing two different divisions, panics (checked at run time, one atomic
//!   load per access);
//! - an item can be taken once per buffer, and items are unique.
//!
//! That is why the forward pass is safe code. This module, the threads and the buffers, is one of the
//! few places with `unsafe`.
#![allow(unsafe_code)]

mod shared;
mod threads;

pub(crate) use shared::{Columns, Plain, Shared, Split};
pub(crate) use threads::{Item, Pool, Worker};

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
}
