//! What the steps of a pass share: what it works on, and how inputs of products are packed.

mod attend;
mod batch;
mod embed;
mod experts;
mod forward;
mod inputs;
mod limits;
mod norm;
mod product;
mod profile;
mod routing;
mod scratch;

use std::ops::Range;

use nanoinfer_format::{self as format, Config, NanoFile};
use nanoinfer_kernels::{Activation, Kernels, LANES, TOKENS};

use crate::memory::Cache;
use crate::model::weights::Weights;
use crate::pool::Worker;
use batch::Sees;
pub(crate) use batch::{Run, Slot, divide};
use inputs::{Input, OwnInputs, Rows, Tile};
pub(crate) use limits::{MAX_SPLIT, MAX_TOKENS};
pub use profile::{Profile, Stage};
pub(crate) use scratch::{InputNeeds, Local, Scratch, ScratchSizes};

/// What a pass works on: all shared, all read-only but the phase-checked buffers. Its steps are
/// methods, in the files that `forward.rs` lists them from.
pub(crate) struct Pass<'a> {
    pub file: &'a NanoFile,
    pub config: &'a Config,
    pub weights: &'a Weights,
    pub kernels: &'a Kernels,
    pub scratch: &'a Scratch,
    pub cache: &'a Cache,
    /// The batch, tokens of one sequence in ascending position.
    pub slots: &'a [Slot],
    /// Its sequences, if attention is divided by spans (see `attend.rs`).
    pub runs: &'a [Run],
    /// Whether some token sees pinned positions from nearer than they are.
    pub slid: bool,
    /// Batch rows whose logits are wanted, ascending.
    pub wanted: &'a [usize],
    /// Rows of RoPE frequencies, one of each kind of RoPE.
    pub ropes: &'a [usize],
    pub workers: usize,
    /// Whether the pass is to end early; worker 0 looks before each layer and after the last.
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl Pass<'_> {
    /// Tokens of the batch.
    pub(crate) fn m(&self) -> usize {
        self.slots.len()
    }

    /// Values of a token in the residual stream, padding included.
    pub(crate) fn width(&self) -> usize {
        self.config.d_model_padded()
    }

    /// Whether all workers pack the inputs of `m` tokens together, and none for itself.
    pub(crate) fn shares_inputs(m: usize) -> bool {
        m > TOKENS
    }

    /// Where [`Self::pack_rows`] left `m` packed tokens.
    pub(crate) fn input<'i>(&'i self, own: &'i OwnInputs, m: usize) -> Input<'i> {
        if Self::shares_inputs(m) {
            Input::shared(m, &self.scratch.inputs)
        } else {
            Input::own(m, own)
        }
    }

    /// Packs the inputs of a product: one tile, which every worker fills for itself, or more, an
    /// item being a tile. `pack` fills a tile with these of the rows.
    pub(crate) fn pack_rows(
        &self,
        w: &Worker<'_>,
        own: &mut OwnInputs,
        rows: Rows,
        mut pack: impl FnMut(Range<usize>, &mut Tile<'_>),
    ) {
        if !Self::shares_inputs(rows.m) {
            return pack(0..rows.m, &mut own.tile(rows));
        }
        let split = self.scratch.inputs.by_tile(w, rows);
        for item in w.items(rows.m.div_ceil(TOKENS)) {
            let from = item.index() * TOKENS;
            pack(from..rows.m.min(from + TOKENS), &mut split.take(&item).tile(0));
        }
    }

    /// Positions that a token sees in a layer.
    pub(crate) fn sees(&self, layer: usize, slot: &Slot) -> Sees {
        Sees::of(slot, self.config.windows[layer] as usize)
    }

    pub(crate) fn activation(&self) -> Activation {
        match self.config.activation {
            format::Activation::Silu => Activation::Silu,
            format::Activation::Gelu => Activation::Gelu,
        }
    }
}

/// Copies `out.len()` values of token `row`, from value `at` on, out of panel-major activations.
pub(crate) fn gather(x: &[f32], m: usize, row: usize, at: usize, out: &mut [f32]) {
    for (panel, lanes) in out.chunks_exact_mut(LANES).enumerate() {
        lanes.copy_from_slice(&x[((at / LANES + panel) * m + row) * LANES..][..LANES]);
    }
}
