//! Rows of a weight whose file has an input after the other: reading a few of them takes a read per input, so
//! that more are read at once, and kept until the same thread reads the next ones.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Error;

/// Values of a band; those of a few weights are kept, since the parts of a fused tensor alternate.
const VALUES: usize = 1 << 20;
const KEPT: usize = 4;
/// Bands begin at multiples of this number of rows, of which 32-bit words hold whole numbers.
const ALIGN: usize = 32;

thread_local! {
    /// Weight, first row and values.
    static BANDS: RefCell<VecDeque<(u64, usize, Vec<f32>)>> = const { RefCell::new(VecDeque::new()) };
}

/// A weight that is read in bands.
pub(super) struct Bands {
    id: u64,
    n: usize,
    k: usize,
}

impl Bands {
    pub(super) fn new([n, k]: [usize; 2]) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), n, k }
    }

    /// Copies `rows` to `out`; `read` reads all rows of a band.
    pub(super) fn rows(
        &self,
        rows: Range<usize>,
        out: &mut [f32],
        read: impl Fn(Range<usize>) -> Result<Vec<f32>, Error>,
    ) -> Result<(), Error> {
        let len = (VALUES / self.k / ALIGN * ALIGN).max(ALIGN);
        let (mut at, mut out) = (rows.start, out);
        while at < rows.end {
            let first = at / len * len;
            let end = rows.end.min(first + len);
            let (now, later) = out.split_at_mut((end - at) * self.k);
            BANDS.with_borrow_mut(|bands| {
                let found = bands.iter().position(|b| (b.0, b.1) == (self.id, first));
                let band = match found.and_then(|i| bands.remove(i)) {
                    Some(band) => band,
                    None => (self.id, first, read(first..self.n.min(first + len))?),
                };
                now.copy_from_slice(&band.2[(at - first) * self.k..][..now.len()]);
                bands.push_front(band);
                bands.truncate(KEPT);
                Ok::<_, Error>(())
            })?;
            (at, out) = (end, later);
        }
        Ok(())
    }
}
