//! Inputs of matrix products: packed activations, shared by all workers or each worker's own.
//!
//! Few tokens (one tile: decoding, small batches) are packed by every worker for itself, which
//! costs less than the barrier that sharing would need. Many are packed once, in shares.

use nanoinfer_format::{GROUP, Quant};
use nanoinfer_kernels::{Acts, ActsF32, TOKENS, TileData, TileMut, packed_rows, tile_rows};

use crate::pool::{Columns, Item, Pool, Shared, Split, Worker};

/// Packed inputs of up to a pass's tokens (see `kernels::Acts`).
pub(crate) struct SharedInputs {
    quant: Quant,
    q: Shared<i8>,       // [tiles][k/64][rows][64], q8 models
    scales: Shared<f32>, // [tiles][k/64][rows]
    sums: Shared<i32>,   // [tiles][k/64][rows]
    x: Shared<f32>,      // [tiles][k/64][rows][64], f32 models
}

/// Packed inputs of up to 16 tokens, of one worker.
pub(crate) struct OwnInputs {
    quant: Quant,
    q: Vec<i8>,       // [k/64][rows][64], q8 models
    scales: Vec<f32>, // [k/64][rows]
    sums: Vec<i32>,   // [k/64][rows]
    x: Vec<f32>,      // [k/64][rows][64], f32 models
}

/// Where a product reads its input.
#[derive(Clone, Copy)]
pub(crate) enum Input<'a> {
    Own(&'a OwnInputs),
    Shared(&'a SharedInputs),
}

/// The input of `m` tokens, as the kernels take it.
pub(crate) enum Packed<'a> {
    Q8(Acts<'a>),
    F32(ActsF32<'a>),
}

/// Lines of 64 values that `m` tokens of `k` inputs take.
fn lines(m: usize, k: usize) -> usize {
    packed_rows(m) * k / GROUP
}

/// The sizes of `q`, of scales and sums, and of `x`.
fn sizes(quant: Quant, n: usize) -> (usize, usize, usize) {
    match quant {
        Quant::Q8 => (GROUP * n, n, 0),
        Quant::F32 => (0, 0, GROUP * n),
    }
}

impl<'a> Input<'a> {
    /// The first `m` tokens of `k` inputs.
    pub(crate) fn packed(self, w: &'a Worker<'_>, m: usize, k: usize) -> Packed<'a> {
        self.lines(w).packed(0, m, k)
    }

    /// All of it, as lines of 64 values.
    pub(crate) fn lines(self, w: &'a Worker<'_>) -> Lines<'a> {
        match self {
            Self::Own(o) => o.lines(),
            Self::Shared(s) => Lines {
                quant: s.quant,
                q: s.q.read(w),
                scales: s.scales.read(w),
                sums: s.sums.read(w),
                x: s.x.read(w),
            },
        }
    }
}

/// Packed inputs to be read, as lines of 64 values.
#[derive(Clone, Copy)]
pub(crate) struct Lines<'a> {
    quant: Quant,
    q: &'a [i8],
    scales: &'a [f32],
    sums: &'a [i32],
    x: &'a [f32],
}

impl<'a> Lines<'a> {
    /// The lines from `first` on, as `m` tokens of `k` inputs.
    pub(crate) fn packed(self, first: usize, m: usize, k: usize) -> Packed<'a> {
        let (at, n) = (first, lines(m, k));
        match self.quant {
            Quant::Q8 => {
                let q = &self.q[GROUP * at..][..GROUP * n];
                let (scales, sums) = (&self.scales[at..][..n], &self.sums[at..][..n]);
                Packed::Q8(Acts { q, scales, sums, m })
            }
            Quant::F32 => Packed::F32(ActsF32 { x: &self.x[GROUP * at..][..GROUP * n], m }),
        }
    }
}

impl OwnInputs {
    /// Room for one tile of the widest input.
    pub(crate) fn new(quant: Quant, k: usize) -> Self {
        Self::with_lines(quant, lines(TOKENS, k))
    }

    /// Room for `n` lines.
    pub(crate) fn with_lines(quant: Quant, n: usize) -> Self {
        let (q, each, x) = sizes(quant, n);
        Self { quant, q: vec![0; q], scales: vec![0.0; each], sums: vec![0; each], x: vec![0.0; x] }
    }

    pub(crate) fn lines(&self) -> Lines<'_> {
        let Self { quant, q, scales, sums, x } = self;
        Lines { quant: *quant, q, scales, sums, x }
    }

    /// Copies `n` lines of `from`, beginning at `first`, to line `at`.
    pub(crate) fn copy(&mut self, at: usize, from: Lines<'_>, first: usize, n: usize) {
        let (to_values, values) =
            (GROUP * at..GROUP * (at + n), GROUP * first..GROUP * (first + n));
        match self.quant {
            Quant::Q8 => {
                self.q[to_values].copy_from_slice(&from.q[values]);
                self.scales[at..at + n].copy_from_slice(&from.scales[first..first + n]);
                self.sums[at..at + n].copy_from_slice(&from.sums[first..first + n]);
            }
            Quant::F32 => self.x[to_values].copy_from_slice(&from.x[values]),
        }
    }

    /// The tile of `m` tokens, to be written from row `row` on.
    pub(crate) fn tile(&mut self, m: usize, k: usize, row: usize) -> TileMut<'_> {
        let n = lines(m, k);
        let to = match self.quant {
            Quant::Q8 => TileData::Q8 {
                q: &mut self.q[..GROUP * n],
                scales: &mut self.scales[..n],
                sums: &mut self.sums[..n],
            },
            Quant::F32 => TileData::F32(&mut self.x[..GROUP * n]),
        };
        TileMut { rows: m, row, to }
    }
}

impl SharedInputs {
    pub(crate) fn new(pool: &Pool, quant: Quant, m: usize, k: usize) -> Self {
        Self::with_lines(pool, quant, lines(m.next_multiple_of(TOKENS), k))
    }

    /// Room for `n` lines.
    pub(crate) fn with_lines(pool: &Pool, quant: Quant, n: usize) -> Self {
        let (q, each, x) = sizes(quant, n);
        Self {
            quant,
            q: pool.shared(q),
            scales: pool.shared(each),
            sums: pool.shared(each),
            x: pool.shared(x),
        }
    }

    /// For writing `m` tokens, an item being a whole tile.
    pub(crate) fn by_tile<'p>(&'p self, w: &'p Worker<'_>, m: usize, k: usize) -> InputSplit<'p> {
        let tile = tile_rows(m) * k / GROUP;
        self.split(w, m.div_ceil(TOKENS) * tile, tile, tile_rows(m))
    }

    /// For writing `m` tokens, an item being one group of 64 inputs of all tokens.
    pub(crate) fn by_group<'p>(&'p self, w: &'p Worker<'_>, m: usize, k: usize) -> InputSplit<'p> {
        self.split(w, tile_rows(m) * k / GROUP, tile_rows(m), tile_rows(m))
    }

    /// For writing `items` runs of `width` lines, an item being one.
    pub(crate) fn by_run<'p>(
        &'p self,
        w: &'p Worker<'_>,
        items: usize,
        width: usize,
    ) -> InputSplit<'p> {
        self.split(w, items * width, width, width)
    }

    fn split<'p>(
        &'p self,
        w: &'p Worker<'_>,
        stride: usize,
        width: usize,
        rows: usize,
    ) -> InputSplit<'p> {
        InputSplit {
            quant: self.quant,
            rows,
            q: self.q.split(w, stride * GROUP, width * GROUP),
            scales: self.scales.split(w, stride, width),
            sums: self.sums.split(w, stride, width),
            x: self.x.split(w, stride * GROUP, width * GROUP),
        }
    }
}

/// Inputs that are written in this phase.
pub(crate) struct InputSplit<'p> {
    quant: Quant,
    rows: usize,
    q: Split<'p, i8>,
    scales: Split<'p, f32>,
    sums: Split<'p, i32>,
    x: Split<'p, f32>,
}

/// The part that one item writes.
pub(crate) struct InputColumns<'p> {
    quant: Quant,
    rows: usize,
    q: Columns<'p, i8>,
    scales: Columns<'p, f32>,
    sums: Columns<'p, i32>,
    x: Columns<'p, f32>,
}

impl<'p> InputSplit<'p> {
    pub(crate) fn take(&self, item: &Item<'p>) -> InputColumns<'p> {
        InputColumns {
            quant: self.quant,
            rows: self.rows,
            q: self.q.take(item),
            scales: self.scales.take(item),
            sums: self.sums.take(item),
            x: self.x.take(item),
        }
    }
}

impl InputColumns<'_> {
    /// The item's part of tile `tile` (of its only one, if an item is a tile), from row `row` on.
    pub(crate) fn tile(&mut self, tile: usize, row: usize) -> TileMut<'_> {
        let to = match self.quant {
            Quant::Q8 => TileData::Q8 {
                q: self.q.row(tile),
                scales: self.scales.row(tile),
                sums: self.sums.row(tile),
            },
            Quant::F32 => TileData::F32(self.x.row(tile)),
        };
        TileMut { rows: self.rows, row, to }
    }
}
