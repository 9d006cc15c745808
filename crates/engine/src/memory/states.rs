//! States of recurrent layers: an arena of slots, each with the state of all layers at one position.
//!
//! ```text
//! slots, per layer:   tail    [channels/16][kernel - 1][16]         the last inputs of the convolution
//!                     matrix  [heads · value/16][key][16]           in slices of sixteen value columns
//! log, per layer:     inputs  [sequences · LOG][channels][16]       of the tokens after a state
//!                     mixed   [sequences · LOG][channels + steps]   the same after the convolution
//! ```
//!
//! A slot is never overwritten while it is held: a pass reads one and writes others. So a cancelled pass
//! leaves no trace, and sequences and forks share slots by counting their holders. A snapshot is the state
//! behind a block of the cache; it is given up when its slot is needed, the least recently used first.

use nanoinfer_format::{Config, Recurrent};

use super::blocks::{get, put};
use crate::pool::{Pool, Shared};

/// Most tokens of a pass that can be rolled back one by one: a drafted pass.
pub(crate) const REVERSIBLE: usize = 16;
/// Tokens of a sequence in the log: those of the last pass, and of the one in progress.
pub(crate) const LOG: usize = 2 * REVERSIBLE;

/// Index of a slot.
pub(crate) type StateSlot = u32;

/// A sequence's state.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    /// The slot with the state; `None` for the state before the first token, which is zero.
    pub slot: Option<StateSlot>,
    /// Number of tokens that the state covers.
    pub base: usize,
    /// Whether the base stays while tokens are appended, as long as the log has room.
    pub pinned: bool,
    /// The block of the last snapshot, and whether it was made in an answer rather than in a prompt.
    pub last: Option<(u32, bool)>,
}

/// The buffers of one recurrent layer.
pub(crate) struct LayerStates {
    slot: Lens,
    pub tail: Shared<f32>,
    pub matrix: Shared<f32>,
    pub inputs: Shared<f32>,
    pub mixed: Shared<f32>,
}

/// Values of the buffers of a layer, per slot or per token in the log.
#[derive(Clone, Copy)]
struct Lens {
    tail: usize,
    matrix: usize,
    inputs: usize,
    mixed: usize,
}

impl Lens {
    fn of(r: &Recurrent) -> Self {
        let (tail, inputs) = ((r.kernel as usize - 1) * r.channels(), r.channels());
        if r.has_matrix() {
            Self { tail, matrix: r.key_dim as usize * r.inner(), inputs, mixed: r.mixed() }
        } else {
            Self { tail, matrix: 0, inputs, mixed: 0 }
        }
    }
}

/// Bytes of a slot, and of the log of a sequence; 0 without recurrent layers.
pub(super) fn state_bytes(c: &Config) -> (u64, u64) {
    let Some(r) = &c.recurrent else { return (0, 0) };
    let Lens { tail, matrix, inputs, mixed } = Lens::of(r);
    let layers = r.layers.iter().filter(|recurrent| **recurrent).count() as u64;
    let bytes = |values: usize| layers.saturating_mul(values as u64).saturating_mul(4);
    (bytes(tail + matrix), bytes(LOG * (inputs + mixed)))
}

/// The states of all sequences, and of prefixes in the tree. Empty for models without recurrent layers.
pub(crate) struct States {
    layers: Vec<LayerStates>,
    /// Index in `layers` for each layer of the model.
    index: Vec<usize>,
    /// Number of sequences that have a log.
    sequences: usize,
    free: Vec<StateSlot>,
    /// Number of holders of each slot.
    holders: Vec<u32>,
    /// The slot with the state behind each block of the cache, or `NONE`.
    snapshots: Vec<StateSlot>,
    /// The block of which a slot is the snapshot, or `NONE`, and when it was last used.
    of_block: Vec<(u32, u64)>,
    clock: u64,
}

const NONE: u32 = u32::MAX;

impl States {
    /// States for `slots` positions and the logs of `sequences` sequences, for a cache of `blocks` blocks.
    pub(super) fn new(
        pool: &Pool,
        c: &Config,
        (slots, sequences, blocks): (usize, usize, usize),
    ) -> Self {
        let all = c.recurrent.as_ref().map_or(&[][..], |r| &r.layers);
        let mut layers = Vec::with_capacity(all.iter().filter(|recurrent| **recurrent).count());
        let mut index = Vec::with_capacity(all.len());
        for (r, layer) in c.recurrent.iter().flat_map(|r| r.layers.iter().map(move |l| (r, l))) {
            index.push(layers.len());
            if *layer {
                layers.push(LayerStates::new(pool, r, slots, sequences.saturating_mul(LOG)));
            }
        }
        let (slots, blocks) = if layers.is_empty() { (0, 0) } else { (slots, blocks) };
        let free = (0..slots as u32).rev().collect();
        Self {
            layers,
            index,
            sequences,
            free,
            holders: vec![0; slots],
            snapshots: vec![NONE; blocks],
            of_block: vec![(NONE, 0); slots],
            clock: 0,
        }
    }

    /// Whether the model has no recurrent layers.
    pub(crate) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// The buffers of a recurrent layer of the model.
    pub(crate) fn of(&self, layer: usize) -> &LayerStates {
        &self.layers[self.index[layer]]
    }

    /// A slot with one holder: a free one, or that of the least recently used snapshot.
    pub(super) fn take(&mut self) -> Option<StateSlot> {
        if self.free.is_empty() {
            let snapshots = self.of_block.iter().zip(&self.holders);
            let unused = snapshots.filter(|((block, _), holders)| *block != NONE && **holders == 1);
            let ((block, _), _) = unused.min_by_key(|((_, used), _)| *used)?;
            self.forget(*block);
        }
        let slot = self.free.pop()?;
        self.holders[slot as usize] = 1;
        Some(slot)
    }

    /// Adds a holder.
    pub(super) fn hold(&mut self, slot: StateSlot) {
        self.holders[slot as usize] += 1;
    }

    /// Removes a holder; the slot is free after the last one.
    pub(super) fn release(&mut self, slot: StateSlot) {
        let holders = &mut self.holders[slot as usize];
        *holders -= 1;
        if *holders == 0 {
            self.free.push(slot);
        }
    }

    /// Keeps a slot as the snapshot of a block, unless it is that of another one.
    pub(super) fn remember(&mut self, block: u32, slot: StateSlot) {
        if self.of_block[slot as usize].0 != NONE {
            return;
        }
        self.forget(block);
        self.hold(slot);
        self.snapshots[block as usize] = slot;
        self.clock += 1;
        self.of_block[slot as usize] = (block, self.clock);
    }

    /// Gives up the snapshot of a block, if there is one.
    pub(super) fn forget(&mut self, block: u32) {
        let Some(slot) = self.snapshots.get_mut(block as usize) else { return };
        let slot = std::mem::replace(slot, NONE);
        if slot != NONE {
            self.of_block[slot as usize].0 = NONE;
            self.release(slot);
        }
    }

    /// The snapshot of a block.
    pub(super) fn snapshot(&self, block: u32) -> Option<StateSlot> {
        self.snapshots.get(block as usize).copied().filter(|slot| *slot != NONE)
    }

    /// Counts a snapshot as used.
    pub(super) fn touch(&mut self, slot: StateSlot) {
        self.clock += 1;
        self.of_block[slot as usize].1 = self.clock;
    }

    /// Bytes of a state as [`Self::save`] writes it; 0 without recurrent layers.
    pub(crate) fn bytes(&self) -> usize {
        self.layers.iter().map(|layer| 4 * (layer.slot.tail + layer.slot.matrix)).sum()
    }

    /// Appends the bytes of the state in a slot.
    pub(super) fn save(&mut self, slot: StateSlot, out: &mut Vec<u8>) {
        for values in self.values(slot) {
            put(values, out, f32::to_le_bytes);
        }
    }

    /// Fills a slot from the bytes appended by [`Self::save`].
    pub(super) fn load(&mut self, slot: StateSlot, mut bytes: &[u8]) {
        for values in self.values(slot) {
            bytes = get(values, bytes, f32::from_le_bytes);
        }
    }

    /// The values in a slot, in parts.
    fn values(&mut self, slot: StateSlot) -> impl Iterator<Item = &mut [f32]> {
        let slot = slot as usize;
        self.layers.iter_mut().flat_map(move |layer| {
            let Lens { tail, matrix, .. } = layer.slot;
            let tail = &mut layer.tail.get_mut()[slot * tail..][..tail];
            [tail, &mut layer.matrix.get_mut()[slot * matrix..][..matrix]]
        })
    }

    /// Copies the log of a sequence to another one.
    pub(super) fn copy_log(&mut self, from: usize, to: usize) {
        for layer in &mut self.layers {
            for log in [&mut layer.inputs, &mut layer.mixed] {
                let log = log.get_mut();
                let each = log.len() / self.sequences;
                log.copy_within(from * each..(from + 1) * each, to * each);
            }
        }
    }
}

impl LayerStates {
    fn new(pool: &Pool, r: &Recurrent, slots: usize, log: usize) -> Self {
        let slot = Lens::of(r);
        let Lens { tail, matrix, inputs, mixed } = slot;
        Self {
            slot,
            tail: pool.shared(slots.saturating_mul(tail)),
            matrix: pool.shared(slots.saturating_mul(matrix)),
            inputs: pool.shared(log.saturating_mul(inputs)),
            mixed: pool.shared(log.saturating_mul(mixed)),
        }
    }
}
