//! One forward pass: its shared state, its steps, its buffers.
//!
//! ```text
//! forward    the order of the steps and the barriers between them: read this first
//!   embed · norm · product · attend · recurrent · experts · observe      the steps: methods of `Pass`, defined here
//! batch      the tokens of a pass, and the positions visible to each
//! inputs     packed inputs of products             routing   tokens by expert
//! units      the division of attention             limits    sizes that bound a pass
//! scratch    every buffer, described once
//! profile    time per stage                        part      part of the model to run, and its observer
//! ```

mod attend;
mod batch;
mod embed;
mod experts;
mod forward;
mod inputs;
mod latent;
mod limits;
mod norm;
mod observe;
mod part;
mod product;
mod profile;
mod recurrent;
mod recurrent_scratch;
mod routing;
mod scratch;
mod units;

use std::ops::Range;

use nanoinfer_format::{self as format, Config, NanoFile};
use nanoinfer_kernels::{Activation, Kernels, LANES, TOKENS};

use crate::memory::{Cache, StateRuns};
use crate::model::weights::Weights;
use crate::pool::Worker;
pub(crate) use batch::Slot;
use batch::{Visible, Window};
use inputs::{Input, OwnInputs, Rows, Tile};
pub(crate) use limits::MAX_TOKENS;
pub(crate) use norm::norm_token;
pub use part::Observed;
pub(crate) use part::Part;
pub use profile::{Profile, Stage};
pub(crate) use scratch::{InputNeeds, Local, Scratch, ScratchSizes};
pub(crate) use units::Units;

/// The state of a pass, shared by all workers: read-only except for the phase-checked buffers. The
/// steps are methods in sibling files.
pub(crate) struct Pass<'a> {
    pub file: &'a NanoFile,
    pub config: &'a Config,
    pub weights: &'a Weights,
    pub kernels: &'a Kernels,
    pub scratch: &'a Scratch,
    pub cache: &'a Cache,
    /// The batch; tokens of one sequence are in order of position.
    pub slots: &'a [Slot],
    /// The division of the batch for attention.
    pub units: &'a Units,
    /// The division of the batch for recurrent layers.
    pub states: &'a StateRuns,
    /// Whether the context has slid for any token, so that pinned positions need different angles.
    pub slid: bool,
    /// Batch rows that request logits, ascending.
    pub requested: &'a [usize],
    /// Row of frequencies for each kind of RoPE.
    pub ropes: &'a [usize],
    pub workers: usize,
    /// Whether to abort; polled by worker 0 before each layer and after the last.
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
    /// The layers to run, and who observes them.
    pub part: Part<'a>,
}

impl Pass<'_> {
    /// Number of tokens in the batch.
    pub(crate) fn m(&self) -> usize {
        self.slots.len()
    }

    /// Padded width of the residual stream.
    pub(crate) fn width(&self) -> usize {
        self.config.d_model_padded()
    }

    /// Whether the workers pack the inputs of `m` tokens jointly rather than independently.
    pub(crate) fn shares_inputs(m: usize) -> bool {
        m > TOKENS
    }

    /// The `m` tokens packed by [`Self::pack_rows`].
    pub(crate) fn input<'i>(&'i self, own: &'i OwnInputs, m: usize) -> Input<'i> {
        if Self::shares_inputs(m) {
            Input::shared(m, &self.scratch.inputs)
        } else {
            Input::own(m, own)
        }
    }

    /// Packs the inputs of a product. Every worker packs a single tile independently; several tiles are
    /// packed jointly, with one tile per item. `pack` fills a tile with the given rows.
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

    /// Positions visible to a token in a layer.
    pub(crate) fn visible(&self, layer: usize, slot: &Slot) -> Visible {
        Visible::new(slot, self.window(layer))
    }

    fn window(&self, layer: usize) -> Window {
        let (positions, chunked) =
            (self.config.windows[layer] as usize, self.config.chunked_windows);
        Window { positions, chunked }
    }

    pub(crate) fn activation(&self, layer: usize) -> Activation {
        match self.config.activation {
            format::Activation::Silu => Activation::Silu,
            format::Activation::Gelu => Activation::Gelu,
            format::Activation::Relu2 => Activation::Relu2,
            format::Activation::Xielu => {
                let x = self.config.xielu[layer];
                let [positive, negative, beta, eps] =
                    [x.positive, x.negative, x.beta, x.eps].map(|x| x as f32);
                Activation::Xielu { positive, negative, beta, eps }
            }
            format::Activation::Clamped => Activation::Clamped,
        }
    }
}

/// Copies `out.len()` values of token `row`, starting at value `at`, from panel-major activations.
pub(crate) fn gather(x: &[f32], m: usize, row: usize, at: usize, out: &mut [f32]) {
    for (panel, lanes) in out.chunks_exact_mut(LANES).enumerate() {
        lanes.copy_from_slice(&x[((at / LANES + panel) * m + row) * LANES..][..LANES]);
    }
}
