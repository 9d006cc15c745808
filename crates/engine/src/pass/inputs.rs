//! Inputs of matrix products: packed activations, shared by all workers or private to each.
//!
//! A single tile of tokens (decoding, small batches) is packed by every worker independently, which is
//! cheaper than the barrier needed for sharing. More tokens are packed jointly.
//!
//! Activations are packed in the forms that the matrices of a product read: int8 (rotated and quantized),
//! f32 (unchanged), or both if an f32 router and 8-bit experts read the same activations.

use nanoinfer_kernels::{
    F32Inputs, GROUP, QuantizedInputs, TOKENS, TileData, TileMut, packed_rows, tile_rows,
};

use crate::model::weights::Matrix;
use crate::pool::{Buffers, Columns, Item, Shared, Split, Worker};

/// The forms of packed activations read by some matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    pub int8: bool,
    pub f32: bool,
}

/// Number of tokens to pack, values per token, and forms.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub m: usize,
    pub k: usize,
    pub needs: Needs,
}

/// Packed inputs for up to a whole pass (see `kernels::Acts`). Unneeded forms are empty.
pub(crate) struct SharedInputs {
    q: Shared<i8>,       // [tiles][k/64][rows][64]
    scales: Shared<f32>, // [tiles][k/64][rows]
    sums: Shared<i32>,   // [tiles][k/64][rows]
    x: Shared<f32>,      // [tiles][k/64][rows][64], f32
}

/// Packed inputs of one worker.
pub(crate) struct OwnInputs {
    q: Vec<i8>,       // [k/64][rows][64]
    scales: Vec<f32>, // [k/64][rows]
    sums: Vec<i32>,   // [k/64][rows]
    x: Vec<f32>,      // [k/64][rows][64], f32
}

/// The packed tokens that a product reads.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    /// Number of tokens.
    pub m: usize,
    from: Source<'a>,
}

#[derive(Clone, Copy)]
enum Source<'a> {
    Own(&'a OwnInputs),
    Shared(&'a SharedInputs),
}

/// The input of a product, as kernel types. Unneeded forms are empty, which no kernel accepts.
pub(crate) struct Packed<'a> {
    pub int8: QuantizedInputs<'a>,
    pub f32: F32Inputs<'a>,
}

/// Number of 64-value lines needed for `m` tokens of `k` inputs.
pub(crate) fn lines(m: usize, k: usize) -> usize {
    packed_rows(m) * k / GROUP
}

impl Needs {
    /// The forms read by a matrix.
    pub(crate) fn of(matrix: &Matrix) -> Self {
        Self { int8: matrix.needs_int8(), f32: matrix.needs_f32() }
    }

    /// The union of both.
    pub(crate) fn or(self, other: Self) -> Self {
        Self { int8: self.int8 || other.int8, f32: self.f32 || other.f32 }
    }

    /// Lines to allocate in int8 and in f32: `n` for each needed form.
    fn lines(self, n: usize) -> (usize, usize) {
        (if self.int8 { n } else { 0 }, if self.f32 { n } else { 0 })
    }
}

impl<'a> Input<'a> {
    /// `m` tokens packed by each worker independently.
    pub(crate) fn own(m: usize, inputs: &'a OwnInputs) -> Self {
        Self { m, from: Source::Own(inputs) }
    }

    /// `m` tokens packed jointly by the workers.
    pub(crate) fn shared(m: usize, inputs: &'a SharedInputs) -> Self {
        Self { m, from: Source::Shared(inputs) }
    }

    /// All tokens of `k` inputs.
    pub(crate) fn packed(self, w: &'a Worker<'_>, k: usize, needs: Needs) -> Packed<'a> {
        self.lines(w, needs).packed(0, self.m, k)
    }

    /// The whole buffer, as lines of 64 values.
    pub(crate) fn lines(self, w: &'a Worker<'_>, needs: Needs) -> Lines<'a> {
        match self.from {
            Source::Own(inputs) => inputs.lines(needs),
            Source::Shared(inputs) => inputs.lines(w, needs),
        }
    }
}

/// Packed inputs for reading, as lines of 64 values; unneeded forms are empty.
#[derive(Clone, Copy, Default)]
pub(crate) struct Lines<'a> {
    q: &'a [i8],
    scales: &'a [f32],
    sums: &'a [i32],
    x: &'a [f32],
}

impl<'a> Lines<'a> {
    /// The lines from `first`, as `m` tokens of `k` inputs.
    pub(crate) fn packed(self, first: usize, m: usize, k: usize) -> Packed<'a> {
        let n = lines(m, k);
        Packed {
            int8: QuantizedInputs {
                q: part(self.q, GROUP * first, GROUP * n),
                scales: part(self.scales, first, n),
                sums: part(self.sums, first, n),
                m,
            },
            f32: F32Inputs { x: part(self.x, GROUP * first, GROUP * n), m },
        }
    }
}

/// `n` values from `first`; empty if `all` is.
fn part<T>(all: &[T], first: usize, n: usize) -> &[T] {
    if all.is_empty() { all } else { &all[first..][..n] }
}

/// Copies `n` values, unless the form is unneeded.
fn copy<T: Copy>(to: &mut [T], at: usize, from: &[T], first: usize, n: usize) {
    if !from.is_empty() {
        to[at..at + n].copy_from_slice(&from[first..first + n]);
    }
}

impl OwnInputs {
    /// Room for one tile of the widest input.
    pub(crate) fn new(b: &mut Buffers<'_>, needs: Needs, k: usize) -> Self {
        Self::with_lines(b, needs, lines(TOKENS, k))
    }

    /// Room for `n` lines.
    pub(crate) fn with_lines(b: &mut Buffers<'_>, needs: Needs, n: usize) -> Self {
        let (int8, f32) = needs.lines(n);
        Self {
            q: b.own(GROUP * int8),
            scales: b.own(int8),
            sums: b.own(int8),
            x: b.own(GROUP * f32),
        }
    }

    /// Copies `n` lines of `from`, starting at `first`, to line `at`.
    pub(crate) fn copy(&mut self, at: usize, from: Lines<'_>, first: usize, n: usize) {
        copy(&mut self.q, GROUP * at, from.q, GROUP * first, GROUP * n);
        copy(&mut self.scales, at, from.scales, first, n);
        copy(&mut self.sums, at, from.sums, first, n);
        copy(&mut self.x, GROUP * at, from.x, GROUP * first, GROUP * n);
    }

    /// The tile of these rows, for writing.
    pub(crate) fn tile(&mut self, rows: Rows) -> Tile<'_> {
        self.tile_at(rows, 0)
    }

    /// Tile `index` of these rows, for writing.
    pub(crate) fn tile_at(&mut self, rows: Rows, index: usize) -> Tile<'_> {
        let height = tile_rows(rows.m);
        let n = height * rows.k / GROUP;
        let at = index * n;
        let int8 = rows.needs.int8.then(|| Int8Tile {
            q: &mut self.q[GROUP * at..][..GROUP * n],
            scales: &mut self.scales[at..][..n],
            sums: &mut self.sums[at..][..n],
        });
        let f32 = rows.needs.f32.then(|| &mut self.x[GROUP * at..][..GROUP * n]);
        Tile { rows: height, int8, f32 }
    }

    /// The packed inputs in these forms, as lines of 64 values.
    pub(crate) fn lines(&self, needs: Needs) -> Lines<'_> {
        let mut lines = Lines::default();
        if needs.int8 {
            (lines.q, lines.scales, lines.sums) = (&self.q, &self.scales, &self.sums);
        }
        if needs.f32 {
            lines.x = &self.x;
        }
        lines
    }
}

impl SharedInputs {
    pub(crate) fn new(b: &mut Buffers<'_>, needs: Needs, m: usize, k: usize) -> Self {
        Self::with_lines(b, needs, lines(m.next_multiple_of(TOKENS), k))
    }

    /// Room for `n` lines.
    pub(crate) fn with_lines(b: &mut Buffers<'_>, needs: Needs, n: usize) -> Self {
        let (int8, f32) = needs.lines(n);
        Self {
            q: b.shared(GROUP * int8),
            scales: b.shared(int8),
            sums: b.shared(int8),
            x: b.shared(GROUP * f32),
        }
    }

    fn lines<'a>(&'a self, w: &'a Worker<'_>, needs: Needs) -> Lines<'a> {
        let mut lines = Lines::default();
        if needs.int8 {
            lines.q = self.q.read(w);
            (lines.scales, lines.sums) = (self.scales.read(w), self.sums.read(w));
        }
        if needs.f32 {
            lines.x = self.x.read(w);
        }
        lines
    }

    /// For writing; an item is a tile.
    pub(crate) fn by_tile<'p>(&'p self, w: &'p Worker<'_>, rows: Rows) -> InputSplit<'p> {
        let height = tile_rows(rows.m);
        let tile = height * rows.k / GROUP;
        let grid = Grid { stride: rows.m.div_ceil(TOKENS) * tile, width: tile, rows: height };
        self.split(w, grid, rows.needs)
    }

    /// For writing; an item is a group of 64 values of all tokens.
    pub(crate) fn by_group<'p>(&'p self, w: &'p Worker<'_>, rows: Rows) -> InputSplit<'p> {
        let height = tile_rows(rows.m);
        let grid = Grid { stride: height * rows.k / GROUP, width: height, rows: height };
        self.split(w, grid, rows.needs)
    }

    /// For writing; an item is one of `items` runs of `width` lines.
    pub(crate) fn by_run<'p>(
        &'p self,
        w: &'p Worker<'_>,
        items: usize,
        width: usize,
        needs: Needs,
    ) -> InputSplit<'p> {
        self.split(w, Grid { stride: items * width, width, rows: width }, needs)
    }

    fn split<'p>(&'p self, w: &'p Worker<'_>, grid: Grid, needs: Needs) -> InputSplit<'p> {
        let Grid { stride, width, rows } = grid;
        let int8 = needs.int8.then(|| Int8Split {
            q: self.q.split(w, stride * GROUP, width * GROUP),
            scales: self.scales.split(w, stride, width),
            sums: self.sums.split(w, stride, width),
        });
        let f32 = needs.f32.then(|| self.x.split(w, stride * GROUP, width * GROUP));
        InputSplit { rows, int8, f32 }
    }
}

/// The split of inputs for writing, in lines, and the rows of a tile.
struct Grid {
    stride: usize,
    width: usize,
    rows: usize,
}

/// Inputs being written in this phase.
pub(crate) struct InputSplit<'p> {
    rows: usize,
    int8: Option<Int8Split<'p>>,
    f32: Option<Split<'p, f32>>,
}

struct Int8Split<'p> {
    q: Split<'p, i8>,
    scales: Split<'p, f32>,
    sums: Split<'p, i32>,
}

/// The part written by one item.
pub(crate) struct InputColumns<'p> {
    rows: usize,
    int8: Option<Int8Columns<'p>>,
    f32: Option<Columns<'p, f32>>,
}

struct Int8Columns<'p> {
    q: Columns<'p, i8>,
    scales: Columns<'p, f32>,
    sums: Columns<'p, i32>,
}

impl<'p> InputSplit<'p> {
    pub(crate) fn take(&self, item: &Item<'p>) -> InputColumns<'p> {
        let int8 = self.int8.as_ref().map(|split| Int8Columns {
            q: split.q.take(item),
            scales: split.scales.take(item),
            sums: split.sums.take(item),
        });
        InputColumns { rows: self.rows, int8, f32: self.f32.as_ref().map(|x| x.take(item)) }
    }
}

impl InputColumns<'_> {
    /// The item's part of tile `tile`, which is 0 if an item is a tile.
    pub(crate) fn tile(&mut self, tile: usize) -> Tile<'_> {
        let int8 = self.int8.as_mut().map(|columns| Int8Tile {
            q: columns.q.row(tile),
            scales: columns.scales.row(tile),
            sums: columns.sums.row(tile),
        });
        Tile { rows: self.rows, int8, f32: self.f32.as_mut().map(|x| x.row(tile)) }
    }
}

/// A tile for writing, in every needed form.
pub(crate) struct Tile<'a> {
    rows: usize,
    int8: Option<Int8Tile<'a>>,
    f32: Option<&'a mut [f32]>,
}

struct Int8Tile<'a> {
    q: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
}

impl Tile<'_> {
    /// Iterates over the forms of the tile, for writing from row `row` on.
    pub(crate) fn forms(&mut self, row: usize) -> impl Iterator<Item = TileMut<'_>> {
        let rows = self.rows;
        let int8 =
            self.int8.as_mut().map(|Int8Tile { q, scales, sums }| TileData::Q8 { q, scales, sums });
        let f32 = self.f32.as_mut().map(|x| TileData::F32(x));
        int8.into_iter().chain(f32).map(move |to| TileMut { rows, row, to })
    }
}
