//! Work on blocks of rows, divided among threads.

use std::sync::Mutex;
use std::thread;

/// Calls `f` for each block of `len` values and its index. Blocks at the end are started first: in a
/// lower triangle, they take longest.
pub(super) fn for_each_block(
    threads: usize,
    rows: &mut [f32],
    len: usize,
    f: impl Fn(usize, &mut [f32]) + Sync,
) {
    let threads = threads.min(rows.len().div_ceil(len));
    let blocks = Mutex::new(rows.chunks_mut(len).enumerate().rev());
    let next = || blocks.lock().expect("taking a block does not panic").next();
    let work = || {
        while let Some((i, block)) = next() {
            f(i, block);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
}
