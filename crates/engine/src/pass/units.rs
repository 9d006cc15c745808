//! The division of a pass's attention into units, so that all workers are busy until its end.
//!
//! A unit is some rows of the batch, over all of their spans or over one. With one span per unit, a single
//! deep row keeps many workers busy, but the state of every span has to be stored and merged later. Attention
//! is therefore divided by rows, and by spans only where the rows are too deep or too few.

use nanoinfer_kernels::BLOCK;

use super::batch::{Slot, Visible, Window, spans};
use super::limits::{ATTENTION_ROWS, MAX_TOKENS};

/// Rows of one sequence are divided by spans if they are more than this part of a worker's share.
const LARGE: usize = 8;
/// Rows of several sequences form a unit if it is at most this part of a worker's share.
const SMALL: usize = 16;

/// Consecutive rows of a batch. Their attention is an item for each KV head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// First batch row.
    pub from: usize,
    /// Number of rows.
    pub n: usize,
    /// The only span, for rows of one sequence; `None` for all spans.
    pub span: Option<usize>,
}

/// The units of a pass, in the order of their rows and spans.
pub(crate) struct Units {
    all: Vec<Unit>,
    /// Rows of the longest unit. The results of every unit take as much space.
    longest: usize,
    /// Number of rows for whose results there is space.
    room: usize,
}

impl Units {
    /// An empty list, for a buffer with space for the results of `room` rows: at least a full pass, the last
    /// unit of which may be partial.
    pub(crate) fn new(room: usize) -> Self {
        assert!(room >= MAX_TOKENS + ATTENTION_ROWS);
        Self { all: Vec::with_capacity(room), longest: 0, room }
    }

    pub(crate) fn all(&self) -> &[Unit] {
        &self.all
    }

    /// Rows of the longest unit.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    /// Index of the first unit with batch row `row`, and all units with that row.
    pub(crate) fn of(&self, row: usize) -> (usize, &[Unit]) {
        let first = self.all.partition_point(|unit| unit.from + unit.n <= row);
        let n = self.all[first..].partition_point(|unit| unit.from <= row);
        (first, &self.all[first..][..n])
    }

    /// Divides a batch.
    pub(crate) fn divide(&mut self, slots: &[Slot], kv_heads: usize, workers: usize) {
        let all = slots.iter().map(work).sum::<usize>() * kv_heads;
        // A single worker has nobody to wait for.
        let share = if workers == 1 { usize::MAX } else { all.div_ceil(workers) };
        let mut rows = ATTENTION_ROWS;
        self.fill(slots, rows, share);
        while kv_heads * self.all.len() < workers && rows > 1 {
            rows /= 2;
            self.fill(slots, rows, share);
        }
    }

    /// Divides a batch into units of at most `rows` rows.
    fn fill(&mut self, slots: &[Slot], rows: usize, share: usize) {
        self.longest = runs(slots, rows).map(<[Slot]>::len).max().unwrap_or(1);
        let most = self.room / self.longest;
        let mut small = share / SMALL;
        // There is space for all rows if `small` is so large that the units are full.
        while !self.push_all(slots, rows, small, |_, _| false, most) {
            small = small.saturating_mul(2).max(1);
        }
        let by_span = |run: &[Slot]| {
            run.iter().map(work).sum::<usize>() > share / LARGE
                && spans(run, Window::UNLIMITED).nth(1).is_some()
        };
        // Dividing a run by spans can also separate the runs around it. The last ones are divided, since it
        // is best to begin with the largest units.
        let (mut from, mut first) = (slots.len(), slots.len());
        let mut space = most - self.all.len();
        for run in runs(slots, rows).rev() {
            from -= run.len();
            if by_span(run) {
                let Some(left) = space.checked_sub(spans(run, Window::UNLIMITED).count() + 1)
                else {
                    break;
                };
                (space, first) = (left, from);
            }
        }
        if first < slots.len() {
            let divided = |from, run: &[Slot]| from >= first && by_span(run);
            assert!(self.push_all(slots, rows, small, divided, most));
        }
    }

    /// Lists the units, if these are at most `most`. Rows of several sequences form a unit with work of at
    /// most `small`.
    fn push_all(
        &mut self,
        slots: &[Slot],
        rows: usize,
        small: usize,
        by_span: impl Fn(usize, &[Slot]) -> bool,
        most: usize,
    ) -> bool {
        self.all.clear();
        let (mut from, mut last) = (0, 0); // the work of the last unit
        for run in runs(slots, rows) {
            if by_span(from, run) {
                let unit = |span| Unit { from, n: run.len(), span: Some(span) };
                self.all.extend(spans(run, Window::UNLIMITED).map(unit));
                from += run.len();
                continue;
            }
            for (i, slot) in run.iter().enumerate() {
                let joins = |unit: &&mut Unit| {
                    let more = i > 0 || last + work(slot) <= small;
                    unit.span.is_none() && unit.n < self.longest && more
                };
                if let Some(unit) = self.all.last_mut().filter(joins) {
                    unit.n += 1;
                    last += work(slot);
                } else {
                    self.all.push(Unit { from, n: 1, span: None });
                    last = work(slot);
                }
                from += 1;
            }
        }
        self.all.len() <= most
    }
}

/// The rows of each sequence, up to `rows` at a time.
fn runs(slots: &[Slot], rows: usize) -> impl DoubleEndedIterator<Item = &[Slot]> {
    slots.chunk_by(|a, b| a.seq == b.seq).flat_map(move |run| run.chunks(rows))
}

/// An estimate of a row's work in blocks of the cache: those visible to it, and one for its queries.
fn work(slot: &Slot) -> usize {
    Visible::new(slot, Window::UNLIMITED).len() / BLOCK + 1
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::LazyLock;

    use nanoinfer_format::Quant;
    use nanoinfer_kernels::SPAN;
    use nanoinfer_packer::{Input, Options, convert};
    use proptest::prelude::*;

    use super::*;
    use crate::memory::{SeqId, Slid};
    use crate::{Engine, EngineOptions, Model};

    const CTX: usize = 32 << 10;

    fn ids(n: usize) -> Vec<SeqId> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny/llama-gqa");
        let out = tempfile::tempdir().unwrap();
        let file = out.path().join("model.nano");
        convert(&Input::Folder(folder), &file, Options::new(Quant::Q8)).unwrap();
        let options = EngineOptions { sequences: n, ctx: Some(64), ..EngineOptions::default() };
        let mut engine = Engine::new(Model::open(&file).unwrap(), &options).unwrap();
        (0..n).map(|_| engine.open().unwrap()).collect()
    }

    fn slot(seq: SeqId, position: usize) -> Slot {
        Slot { token: 0, position, seq, slid: Slid::default() }
    }

    /// Work of the worker that is done last, if each takes the next unit when it is done with one.
    fn last_done(units: &Units, slots: &[Slot], kv_heads: usize, workers: usize) -> usize {
        let mut busy = vec![0; workers];
        for unit in (0..kv_heads).flat_map(|_| units.all()) {
            let rows = &slots[unit.from..][..unit.n];
            let all = rows.iter().map(work).sum::<usize>();
            let part = if unit.span.is_some() { unit.n * (SPAN / BLOCK + 1) } else { all };
            *busy.iter_mut().min().unwrap() += part.min(all);
        }
        busy.into_iter().max().unwrap()
    }

    /// Every row has either one unit or one for each of its spans, and there is space for the results.
    fn check(units: &Units, slots: &[Slot]) {
        assert!(units.all().len() * units.longest() <= units.room);
        for (row, slot) in slots.iter().enumerate() {
            let of: Vec<_> = units.of(row).1.iter().map(|unit| unit.span).collect();
            let spans: Vec<_> = spans(&[*slot], Window::UNLIMITED).map(Some).collect();
            // Later rows of the same unit may see one more span.
            assert!(
                of == [None] || of.starts_with(&spans) && of.len() <= spans.len() + 1,
                "{of:?}"
            );
        }
        let sum = units.all().iter().filter(|u| u.span.is_none_or(|span| span == 0)).map(|u| u.n);
        assert_eq!(sum.sum::<usize>(), slots.len());
    }

    #[test]
    fn all_workers_are_busy_with_any_number_of_rows() {
        let ids = ids(256);
        let mut units = Units::new(MAX_TOKENS + 8 * CTX / SPAN);
        for (kv_heads, workers) in [(1, 2), (1, 8), (2, 3), (4, 2), (4, 16), (8, 6), (32, 8)] {
            for (depth, rows) in [100, 511, 4000, CTX - 1].into_iter().flat_map(|depth| {
                [1, 2, 4, 7, 8, 9, 12, 16, 17, 32, 33, 64].map(|rows| (depth, rows))
            }) {
                let name = format!("{rows} rows at {depth}, {kv_heads} heads, {workers} workers");
                let batch: Vec<_> = ids[..rows].iter().map(|&seq| slot(seq, depth)).collect();
                units.divide(&batch, kv_heads, workers);
                check(&units, &batch);
                let share = rows * work(&batch[0]) * kv_heads / workers;
                let last = last_done(&units, &batch, kv_heads, workers);
                // The smallest possible item is a span.
                assert!(last <= share + share / 4 + SPAN / BLOCK + 1, "{name}: {last} of {share}");
            }
        }
    }

    #[test]
    fn a_prompt_and_one_deep_row_are_divided_differently() {
        let ids = ids(65);
        let mut units = Units::new(MAX_TOKENS + 8 * CTX / SPAN);
        for at in [0, 20, 64] {
            let mut batch: Vec<_> = ids[..64].iter().map(|&seq| slot(seq, 100)).collect();
            batch.insert(at, slot(ids[64], CTX - 1));
            units.divide(&batch, 1, 8);
            check(&units, &batch);
            assert_eq!(units.of(at).1.len(), CTX / SPAN, "the deep row by spans");
            let others = |row: &usize| *row != at;
            assert!((0..65).filter(others).all(|row| units.of(row).1.len() == 1));
        }
        let prompt: Vec<_> = (1000..1256).map(|position| slot(ids[0], position)).collect();
        for (kv_heads, workers) in [(1, 1), (1, 2), (4, 2), (4, 8), (32, 2)] {
            units.divide(&prompt, kv_heads, workers);
            check(&units, &prompt);
            let eight = |unit: &Unit| unit.n == ATTENTION_ROWS && unit.span.is_none();
            assert!(units.all().iter().all(eight), "{kv_heads} heads, {workers} workers");
        }
    }

    /// The rows of several sequences, each with a depth and a number of rows.
    fn batch() -> impl Strategy<Value = Vec<(usize, usize)>> {
        let depth = prop_oneof![0..700usize, 0..5000usize, 0..CTX - 256];
        let rows = prop_oneof![4 => Just(1), 2 => 2..7usize, 1 => 8..200usize];
        proptest::collection::vec((depth, rows), 1..256)
    }

    proptest! {
        #[test]
        fn any_batch_has_space_for_its_results(
            batch in batch(),
            deep in prop_oneof![Just(1), 1..100usize, Just(8 * CTX / SPAN)],
            (kv_heads, workers) in (1..40usize, 1..70usize),
        ) {
            static IDS: LazyLock<Vec<SeqId>> = LazyLock::new(|| ids(256));
            let rows = |(&(depth, n), &seq): (&(usize, usize), &SeqId)| {
                (depth..depth + n).map(move |at| slot(seq, at)).collect::<Vec<_>>()
            };
            let mut slots: Vec<_> = batch.iter().zip(&*IDS).flat_map(rows).collect();
            slots.truncate(MAX_TOKENS);
            let mut units = Units::new(MAX_TOKENS + 8 * deep);
            units.divide(&slots, kv_heads, workers);
            check(&units, &slots);
        }
    }
}
