//! A row of logits in one piece, from the layout in which a matrix product writes its results.

use crate::isa::Simd;
use crate::layout::{LANES, Lanes};

/// How many panels ahead a row is prefetched. Its parts lie too far apart for the CPU to foresee them.
const AHEAD: usize = 32;

/// Arguments of `copy_row`.
#[derive(Debug)]
pub struct CopyRow<'a> {
    /// `[panels][rows][16]`
    pub values: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// The row to copy.
    pub row: usize,
    /// The row's values, at most 16 per panel.
    pub to: &'a mut [f32],
    /// Output: the largest of them, or `None` if any is not finite.
    pub max: &'a mut Option<f32>,
}

impl CopyRow<'_> {
    pub(crate) fn check(&self) {
        let panels = self.to.len().div_ceil(LANES);
        assert!(self.row < self.rows && panels * self.rows * LANES <= self.values.len());
    }
}

#[inline(always)]
pub(crate) fn copy_row<S: Simd>(s: S, a: CopyRow<'_>) {
    let panels = &a.values.as_chunks::<LANES>().0[a.row..];
    let (whole, part) = a.to.as_chunks_mut::<LANES>();
    let (mut finite, mut max) = (true, [f32::NEG_INFINITY; LANES]);
    for (i, to) in whole.iter_mut().enumerate() {
        if let Some(later) = panels.get((i + AHEAD) * a.rows) {
            s.prefetch_near(later);
        }
        *to = panels[i * a.rows];
        see(to, &mut max, &mut finite);
    }
    if !part.is_empty() {
        part.copy_from_slice(&panels[whole.len() * a.rows][..part.len()]);
        let mut last = [part[0]; LANES];
        last[..part.len()].copy_from_slice(part);
        see(&last, &mut max, &mut finite);
    }
    *a.max = finite.then(|| max.iter().copied().fold(f32::NEG_INFINITY, f32::max));
}

/// Updates the largest values and whether all are finite, without branches.
#[inline(always)]
fn see(values: &Lanes, max: &mut Lanes, finite: &mut bool) {
    for i in 0..LANES {
        max[i] = if values[i] > max[i] { values[i] } else { max[i] };
    }
    *finite = values.iter().fold(*finite, |finite, x| finite & x.is_finite());
}
