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
fn sizes(quant: Quant, m: usize, k: usize) -> (usize, usize, usize) {
    let n = lines(m, k);
    match quant {
        Quant::Q8 => (GROUP * n, n, 0),
        Quant::F32 => (0, 0, GROUP * n),
    }
}

impl<'a> Input<'a> {
    /// The first `m` tokens of `k` inputs.
    pub(crate) fn packed(self, w: &'a Worker<'_>, m: usize, k: usize) -> Packed<'a> {
        let (quant, q, scales, sums, x) = match self {
            Self::Own(o) => (o.quant, &o.q[..], &o.scales[..], &o.sums[..], &o.x[..]),
            Self::Shared(s) => {
                (s.quant, s.q.read(w), s.scales.read(w), s.sums.read(w), s.x.read(w))
            }
        };
        let n = lines(m, k);
        match quant {
            Quant::Q8 => {
                let (q, scales, sums) = (&q[..GROUP * n], &scales[..n], &sums[..n]);
                Packed::Q8(Acts { q, scales, sums, m })
            }
            Quant::F32 => Packed::F32(ActsF32 { x: &x[..GROUP * n], m }),
        }
    }
}

impl OwnInputs {
    /// Room for one tile of the widest input.
    pub(crate) fn new(quant: Quant, k: usize) -> Self {
        let (q, each, x) = sizes(quant, TOKENS, k);
        Self { quant, q: vec![0; q], scales: vec![0.0; each], sums: vec![0; each], x: vec![0.0; x] }
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
        let (q, each, x) = sizes(quant, m.next_multiple_of(TOKENS), k);
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
