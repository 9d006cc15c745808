//! The tokens of a pass, and the positions visible to each.

use std::ops::Range;

use nanoinfer_kernels::{BLOCK, SPAN};

use crate::memory::{SeqId, Slid};

/// One token of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub token: u32,
    pub position: usize,
    pub seq: SeqId,
    pub slid: Slid,
}

/// How far back the tokens of a layer see.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    /// Positions, including the current one; 0 = unlimited.
    pub positions: usize,
    /// Whether a window begins at a multiple of its size (chunked attention) rather than ending at the token.
    pub chunked: bool,
}

impl Window {
    pub(crate) const UNLIMITED: Self = Self { positions: 0, chunked: false };

    /// The first position visible from the one before `end`.
    fn first(self, end: usize) -> usize {
        match self.positions {
            0 => 0,
            n if self.chunked => (end - 1) / n * n,
            n => end.saturating_sub(n),
        }
    }
}

/// Positions visible to a token: the pinned ones, if the context has slid, and the recent ones.
pub(crate) struct Visible {
    pinned: Range<usize>,
    recent: Range<usize>,
}

impl Visible {
    /// Positions visible to a token within a window. The distance to pinned positions excludes evicted ones.
    pub(crate) fn new(slot: &Slot, window: Window) -> Self {
        let end = slot.position + 1;
        let first = |end: usize| window.first(end);
        let Slid { pinned, evicted } = slot.slid;
        match evicted {
            0 => Self { pinned: 0..0, recent: first(end)..end },
            _ => Self {
                pinned: first(end - evicted).min(pinned)..pinned,
                recent: first(end).max(pinned + evicted)..end,
            },
        }
    }

    /// The visible range of a block, relative to its start.
    pub(crate) fn in_block(&self, start: usize) -> (usize, usize) {
        let range = if start < self.pinned.end { &self.pinned } else { &self.recent };
        let clip = |x: usize| x.clamp(start, start + BLOCK) - start;
        (clip(range.start), clip(range.end))
    }

    pub(crate) fn in_span(&self, span: usize) -> bool {
        let overlaps = |r: &Range<usize>| r.start < (span + 1) * SPAN && span * SPAN < r.end;
        !self.pinned.is_empty() && overlaps(&self.pinned) || overlaps(&self.recent)
    }

    pub(crate) fn first_span(&self) -> usize {
        if self.pinned.is_empty() { self.recent.start / SPAN } else { self.pinned.start / SPAN }
    }

    /// Number of positions.
    pub(crate) fn len(&self) -> usize {
        self.pinned.len() + self.recent.len()
    }
}

/// The spans visible to any of these rows of a sequence, in order, and possibly a few others.
pub(crate) fn spans(rows: &[Slot], window: Window) -> impl Iterator<Item = usize> {
    let visible = |row| Visible::new(row, window);
    let start = rows.iter().map(|row| visible(row).first_span()).min().unwrap_or(0);
    let end = rows.last().map_or(0, |row| row.position / SPAN + 1);
    // What is evicted for the first row, is evicted for all.
    let first = rows.first().map(visible).filter(|first| !first.pinned.is_empty());
    let (pause, resume) = first.map_or((end, end), |first| {
        let pause = first.pinned.end.div_ceil(SPAN);
        (pause, pause.max(first.recent.start / SPAN))
    });
    (start..pause).chain(resume..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_begin_at_multiples_of_their_size() {
        let first =
            |position: usize, chunked| Window { positions: 24, chunked }.first(position + 1);
        assert_eq!([0, 23, 24, 47, 48, 100].map(|p| first(p, true)), [0, 0, 24, 24, 48, 96]);
        assert_eq!([0, 23, 24, 47, 48, 100].map(|p| first(p, false)), [0, 0, 1, 24, 25, 77]);
        assert_eq!(Window::UNLIMITED.first(100), 0);
    }
}
