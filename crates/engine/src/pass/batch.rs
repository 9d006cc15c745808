//! The tokens of a pass, their split for attention, and the positions visible to each.

use std::ops::Range;

use nanoinfer_kernels::{BLOCK, SPAN};

use super::limits::MAX_SPLIT;
use crate::memory::{SeqId, Slid};

/// One token of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub token: u32,
    pub position: usize,
    pub seq: SeqId,
    pub slid: Slid,
}

/// Consecutive tokens of one sequence in a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// First batch row.
    pub from: usize,
    /// Number of rows.
    pub n: usize,
    /// Number of visible spans: the first spans and, if the context has slid, the last ones.
    pub spans: usize,
    /// Number of spans before the gap, and in the gap.
    gap: (usize, usize),
    /// Number of spans in all previous runs.
    pub first_span: usize,
}

/// Splits a batch into runs for decoding; no runs if it is too large to split attention by spans.
pub(crate) fn divide(slots: &[Slot], runs: &mut Vec<Run>) {
    runs.clear();
    if slots.len() > MAX_SPLIT {
        return;
    }
    let (mut from, mut first_span) = (0, 0);
    for rows in slots.chunk_by(|a, b| a.seq == b.seq) {
        let (first, last) = (rows[0].slid, rows[rows.len() - 1]);
        let before = last.slid.pinned.div_ceil(SPAN);
        let gap = ((first.pinned + first.evicted) / SPAN).saturating_sub(before);
        let spans = (last.position + 1).div_ceil(SPAN) - gap;
        runs.push(Run { from, n: rows.len(), spans, gap: (before, gap), first_span });
        (from, first_span) = (from + rows.len(), first_span + spans);
    }
}

impl Run {
    /// The span number of the run's `index`-th visible span.
    pub(crate) fn span(&self, index: usize) -> usize {
        if index < self.gap.0 { index } else { index + self.gap.1 }
    }
}

/// Positions visible to a token: the pinned ones, if the context has slid, and the recent ones.
pub(crate) struct Visible {
    pinned: Range<usize>,
    recent: Range<usize>,
}

impl Visible {
    /// Positions visible to a token within a window (0 = unlimited). The distance to pinned positions
    /// excludes evicted ones.
    pub(crate) fn new(slot: &Slot, window: usize) -> Self {
        let end = slot.position + 1;
        let first = |end: usize| if window == 0 { 0 } else { end.saturating_sub(window) };
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
}
