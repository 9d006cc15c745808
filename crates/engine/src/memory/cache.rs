//! The KV cache: an arena of 64-position blocks, and a block table per sequence.
//!
//! ```text
//! arena, per layer:   K [kv heads][blocks][4 panels of 16 positions]
//!                     V [kv heads][blocks][64 positions][head]
//! sequence 0: blocks 0 1 2 …     position p lies in table[p / 64], at p % 64
//! ```
//!
//! Sequences share the blocks of a common prefix; a shared block is copied before it is written. Full
//! blocks are found by their content (`tree.rs`), whether a sequence holds them or not, until their space
//! is needed. So a new sequence can reuse a prefix computed by a closed one, and sequences that compute
//! the same block end up sharing one. If the context slides, the table
//! after the pinned blocks is a ring, in which invisible blocks are overwritten:
//!
//! ```text
//! table: pinned │ 9 10 11 4 5 6 7 8      block 12 replaces 4, which was visible until block 11 began
//! ```
//!
//! K is stored in panels like a weight matrix whose rows are positions, so that q·K uses the same
//! register tile as any other product; V is stored by position, because p·V sums over positions. The
//! 8-bit and 4-bit caches have one scale per position and head, and their keys are rotated like weights to
//! preserve accuracy.

use std::sync::atomic::{AtomicU64, Ordering};

use nanoinfer_format::Config;
use nanoinfer_kernels::BLOCK;
use nanoinfer_platform::pages;

use super::layer::{KvShape, KvType, LayerCache};
use super::plan::{Namespace, Overflow, Plan, SeqId, Slid};
use super::states::{Held, States};
use super::tree::Tree;
use crate::Error;
use crate::cancel::Canceller;
use crate::pool::Pool;

/// Number of open sequences from which arenas are in large pages: their blocks lie so far apart that translating
/// addresses would take a fifth of the time. For fewer, the pages would mostly be unused memory.
const MANY: usize = 8;
/// Minimum size of a KV head's keys and values for that, in large pages: the first block of each takes a whole page,
/// so smaller ones would mostly be unused memory, too.
const LARGE_PAGES: usize = 8;

/// A sequence's cached positions, by block.
pub(super) struct Sequence {
    /// The serial number in the [`SeqId`]; `None` while the entry is free.
    pub serial: Option<u64>,
    pub namespace: Namespace,
    /// Arena blocks. Once the context slides, the part after the pinned blocks is a ring.
    pub blocks: Vec<u32>,
    pub len: usize,
    /// Number of blocks ever written; in a ring, later blocks overwrite earlier ones.
    pub written: usize,
    /// Number of blocks that remain when the context slides.
    pub pinned: usize,
    /// Tokens at the positions cached before the context first slid; these can be shared.
    pub tokens: Vec<u32>,
    /// The state of recurrent layers.
    pub held: Held,
    pub canceller: Canceller,
}

/// The arena and its sequences. A shared block is copied before it is written.
pub(crate) struct Cache {
    /// Those of the layers with keys and values of their own.
    pub(super) layers: Vec<LayerCache>,
    /// Their sizes.
    pub(super) shapes: Vec<KvShape>,
    /// Index in `layers` for each layer of the model.
    arenas: Vec<usize>,
    pub states: States,
    pub n_blocks: usize,
    pub kv: KvType,
    ctx: usize,
    overflow: Overflow,
    /// Number of blocks a sequence can hold: its context and, if that slides, the blocks a pass can add.
    pub(super) per_sequence: usize,
    is_in_large_pages: bool,
    /// Blocks without reusable content.
    pub(super) free: Vec<u32>,
    pub(super) readers: Vec<u32>, // per block, the number of sequences that hold it
    pub(super) tree: Tree,
    pub(super) sequences: Vec<Sequence>,
    pub(super) found: Vec<u32>, // blocks found by `share`
}

impl Cache {
    /// Reserves the arena. The caller must have checked that [`Plan::bytes`] are available.
    pub(crate) fn new(pool: &Pool, c: &Config, plan: &Plan) -> Self {
        let per_sequence = plan.per_sequence();
        let n_blocks = plan.blocks(c).unwrap_or(0) as usize;
        let shapes: Vec<_> = KvShape::of_layers(c).collect();
        let sequence = |_| Sequence {
            serial: None,
            namespace: Namespace::COMMON,
            blocks: Vec::with_capacity(per_sequence),
            len: 0,
            written: 0,
            pinned: 1,
            tokens: Vec::with_capacity(plan.ctx),
            held: Held::default(),
            canceller: Canceller::default(),
        };
        let arena = |&shape| LayerCache::new(pool, plan.kv, n_blocks, shape);
        let caches = |layer: &usize| c.caches(*layer);
        let arenas = (0..c.n_layers as usize).map(|layer| {
            let of = c.attention_of(layer).cache_of.unwrap_or(layer);
            (0..of).filter(caches).count()
        });
        Self {
            layers: shapes.iter().map(arena).collect(),
            shapes,
            arenas: arenas.collect(),
            states: States::new(pool, c, (plan.state_slots(c), plan.sequences, n_blocks)),
            is_in_large_pages: false,
            n_blocks,
            kv: plan.kv,
            ctx: plan.ctx,
            overflow: plan.overflow,
            per_sequence,
            free: (0..n_blocks as u32).rev().collect(),
            readers: vec![0; n_blocks],
            tree: Tree::new(n_blocks),
            sequences: (0..plan.sequences).map(sequence).collect(),
            found: Vec::with_capacity(per_sequence),
        }
    }

    /// The keys and values of a layer with attention.
    pub(crate) fn layer(&self, layer: usize) -> &LayerCache {
        &self.layers[self.arenas[layer]]
    }

    /// The state of an open sequence.
    pub(super) fn held(&self, id: SeqId) -> &Held {
        &self.sequences[id.index].held
    }

    pub(super) fn held_mut(&mut self, id: SeqId) -> &mut Held {
        &mut self.sequences[id.index].held
    }

    /// Maximum number of positions visible to a token.
    pub(crate) fn ctx(&self) -> usize {
        self.ctx
    }

    pub(crate) fn overflow(&self) -> Overflow {
        self.overflow
    }

    /// Number of blocks that no sequence holds: empty ones, and those kept for reuse.
    pub(crate) fn unused(&self) -> usize {
        self.free.len() + self.tree.cached()
    }

    /// Maximum number of blocks that a sequence can hold.
    pub(crate) fn per_sequence(&self) -> usize {
        self.per_sequence
    }

    /// Maximum number of open sequences.
    pub(crate) fn max_sequences(&self) -> usize {
        self.sequences.len()
    }

    pub(crate) fn open(&mut self, namespace: Namespace) -> Result<SeqId, Error> {
        static SERIALS: AtomicU64 = AtomicU64::new(0);
        let index = self.sequences.iter().position(|s| s.serial.is_none());
        let index = index.ok_or(Error::CacheFull { what: "all sequences are in use" })?;
        let serial = SERIALS.fetch_add(1, Ordering::Relaxed);
        let s = &mut self.sequences[index];
        (s.serial, s.namespace) = (Some(serial), namespace);
        (s.pinned, s.canceller) = (1, Canceller::default());
        self.suit_pages();
        Ok(SeqId { index, serial })
    }

    /// Moves the arenas to large pages of memory once, when there are many sequences.
    fn suit_pages(&mut self) {
        let widest = self.shapes.iter().map(|&shape| self.kv.bytes(shape)).max();
        let bytes = self.n_blocks * BLOCK * widest.unwrap_or(0) as usize;
        let are_many = || self.sequences.iter().filter(|s| s.serial.is_some()).count() >= MANY;
        if self.is_in_large_pages || bytes < LARGE_PAGES * pages::LARGE || !are_many() {
            return;
        }
        self.is_in_large_pages = true;
        // Those that never left the list are still in its order.
        let unused = self.free.iter().zip((0..self.n_blocks as u32).rev());
        let unused = unused.take_while(|(block, first)| *block == first).count();
        let sizes = (self.n_blocks, self.n_blocks - unused);
        let layers = self.layers.iter_mut().zip(&self.shapes);
        layers.for_each(|(layer, &shape)| layer.make_large(shape, sizes));
    }

    pub(crate) fn close(&mut self, id: SeqId) -> Result<(), Error> {
        self.truncate(id, 0)?;
        self.sequences[id.index].held.pinned = false;
        self.sequences[id.index].serial = None;
        Ok(())
    }

    /// The entry of an open sequence.
    fn get(&self, id: SeqId) -> Result<&Sequence, Error> {
        let found = self.sequences.get(id.index).filter(|s| s.serial == Some(id.serial));
        found.ok_or(Error::Sequence)
    }

    /// Length of a sequence in positions, including evicted ones.
    pub(crate) fn len(&self, id: SeqId) -> Result<usize, Error> {
        Ok(self.get(id)?.len)
    }

    /// The namespace in which a sequence's blocks are found.
    pub(crate) fn namespace(&self, id: SeqId) -> Result<Namespace, Error> {
        Ok(self.get(id)?.namespace)
    }

    /// Sets the namespace of the blocks that a sequence fills from now on. Returns the previous one.
    pub(crate) fn set_namespace(
        &mut self,
        id: SeqId,
        namespace: Namespace,
    ) -> Result<Namespace, Error> {
        self.get(id)?;
        Ok(std::mem::replace(&mut self.sequences[id.index].namespace, namespace))
    }

    /// The handle that cancels a sequence.
    pub(crate) fn canceller(&self, id: SeqId) -> Result<&Canceller, Error> {
        Ok(&self.get(id)?.canceller)
    }

    /// Replaces the handle that cancels a sequence.
    pub(crate) fn set_canceller(&mut self, id: SeqId, canceller: Canceller) -> Result<(), Error> {
        self.get(id)?;
        self.sequences[id.index].canceller = canceller;
        Ok(())
    }

    /// Pins the first positions, rounded up to whole blocks: at least one block, at most half the
    /// context. No effect once the context has slid.
    pub(crate) fn pin(&mut self, id: SeqId, positions: usize) -> Result<(), Error> {
        let max = (self.ctx / BLOCK / 2).max(1);
        if self.get(id)?.written * BLOCK <= self.ctx {
            self.sequences[id.index].pinned = positions.div_ceil(BLOCK).clamp(1, max);
        }
        Ok(())
    }

    /// The gap in the positions visible to the token at `position` of an open sequence.
    pub(crate) fn slid(&self, id: SeqId, position: usize) -> Slid {
        match self.overflow {
            Overflow::Stop => Slid::default(),
            Overflow::Slide => Slid {
                pinned: self.sequences[id.index].pinned * BLOCK,
                evicted: (position / BLOCK + 1).saturating_sub(self.ctx / BLOCK) * BLOCK,
            },
        }
    }

    /// Table index of block `index` of a sequence.
    fn table_index(&self, s: &Sequence, index: usize) -> usize {
        if index < self.per_sequence {
            index
        } else {
            s.pinned + (index - s.pinned) % (self.per_sequence - s.pinned)
        }
    }

    /// Number of positions that can be appended to a sequence before blocks run out, regardless of its
    /// context size.
    pub(crate) fn room(&self, id: SeqId) -> Result<usize, Error> {
        let s = self.get(id)?;
        if self.overflow == Overflow::Slide && s.blocks.len() == self.per_sequence {
            return Ok(usize::MAX); // the ring is complete
        }
        let (reserved, unused) = (s.blocks.len() * BLOCK, self.unused() * BLOCK);
        let last = s.blocks.get(s.len / BLOCK).filter(|_| !s.len.is_multiple_of(BLOCK));
        let copied = last.is_some_and(|&block| self.is_copied(block, s.len / BLOCK));
        let copied = if copied { BLOCK } else { 0 };
        Ok((reserved + unused).saturating_sub(s.len + copied))
    }

    /// Number of unused blocks that `n` more positions of a sequence require at most.
    pub(crate) fn blocks_for(&self, id: SeqId, n: usize) -> Result<usize, Error> {
        let s = self.get(id)?;
        let taken = |index: usize| {
            let block = s.blocks.get(self.table_index(s, index));
            block.is_none_or(|&block| self.is_copied(block, index))
        };
        Ok((s.len / BLOCK..(s.len + n).div_ceil(BLOCK)).filter(|&index| taken(index)).count())
    }

    /// Reserves room for `n` more positions. Allocates nothing, as tables have their full capacity. On
    /// error, the room reserved so far remains until [`Self::truncate`] releases it.
    pub(crate) fn reserve(&mut self, id: SeqId, n: usize) -> Result<(), Error> {
        let len = self.get(id)?.len;
        if self.overflow == Overflow::Stop && len + n > self.ctx {
            return Err(Error::Context { tokens: len + n, ctx: self.ctx });
        }
        for index in len / BLOCK..(len + n).div_ceil(BLOCK) {
            let partly = index == len / BLOCK && !len.is_multiple_of(BLOCK);
            self.make_writable(id, index, partly)?;
        }
        Ok(())
    }

    /// Whether block `index` of a sequence is copied before it is written: other sequences hold it, or
    /// cached blocks continue it. In a ring, nothing continues what is overwritten.
    fn is_copied(&self, block: u32, index: usize) -> bool {
        let continued = self.tree.has_children(block) && index < self.per_sequence;
        self.readers[block as usize] > 1 || continued
    }

    /// Gives up a sequence's hold on a block.
    fn release(&mut self, block: u32) {
        let readers = &mut self.readers[block as usize];
        *readers -= 1;
        if *readers == 0 && !self.tree.release(block) {
            self.free.push(block);
        }
    }

    /// Lets one more sequence hold a block.
    pub(super) fn hold(&mut self, block: u32) {
        self.tree.hold(block);
        self.readers[block as usize] += 1;
    }

    /// Makes block `index` of a sequence exclusive, preserving its content if `needed`.
    fn make_writable(&mut self, id: SeqId, index: usize, needed: bool) -> Result<(), Error> {
        let s = &self.sequences[id.index];
        let at = self.table_index(s, index);
        let old = s.blocks.get(at).copied();
        match old {
            Some(own) if !self.is_copied(own, index) => self.tree.remove(own, &mut self.free),
            _ => {
                let new = self.free.pop().or_else(|| self.tree.evict());
                let new = new.ok_or(Error::CacheFull { what: "no free block" })?;
                self.readers[new as usize] = 1;
                if let Some(old) = old {
                    if needed {
                        let layers = self.layers.iter_mut().zip(&self.shapes);
                        layers.for_each(|(layer, &shape)| {
                            layer.copy_block(shape, (old as usize, new as usize));
                        });
                    }
                    self.release(old);
                }
                let blocks = &mut self.sequences[id.index].blocks;
                match blocks.get_mut(at) {
                    Some(block) => *block = new,
                    None => blocks.push(new),
                }
            }
        }
        let s = &mut self.sequences[id.index];
        s.written = s.written.max(index + 1);
        Ok(())
    }

    /// Counts a reserved position of an open sequence as cached.
    pub(crate) fn advance(&mut self, id: SeqId, token: u32) {
        let s = &mut self.sequences[id.index];
        s.len += 1;
        if s.len <= self.ctx {
            s.tokens.push(token);
        }
        let (len, known) = (s.len, s.tokens.len());
        if len.is_multiple_of(BLOCK) && known == len {
            self.fill(id.index, len / BLOCK - 1);
        }
    }

    /// Adds the full block `index` of a sequence to the tree, if its parent is there. If the tree has the
    /// same content already, the sequence takes that block instead.
    fn fill(&mut self, sequence: usize, index: usize) {
        let s = &self.sequences[sequence];
        let (own, parent) = (s.blocks[index], index.checked_sub(1).map(|i| s.blocks[i]));
        if parent.is_some_and(|parent| !self.tree.contains(parent)) {
            return;
        }
        let (place, tokens) =
            ((s.namespace, parent), &s.tokens[index * BLOCK..(index + 1) * BLOCK]);
        match self.tree.child(place, tokens) {
            None => {
                self.tree.insert(own, place, tokens);
                self.states.forget(own); // of what it held before
            }
            Some(same) if same != own => {
                self.sequences[sequence].blocks[index] = same;
                self.hold(same);
                self.release(own);
            }
            Some(_) => {}
        }
    }

    /// Removes all positions from `len` on and releases their room. Returns the number of remaining
    /// positions. If any position visible at `len` has been overwritten, only the pinned positions
    /// remain, and of those and of others, only as many as a recurrent state is known for.
    pub(crate) fn truncate(&mut self, id: SeqId, len: usize) -> Result<usize, Error> {
        let mut len = len.min(self.get(id)?.len);
        // The blocks may reach less far back than the state, or the other way round.
        loop {
            let kept = self.reachable(id, len);
            len = self.blocks_kept(id, kept);
            if len == kept {
                self.truncate_state(id, len);
                return self.truncate_blocks(id, len);
            }
        }
    }

    /// Number of positions that [`Self::truncate_blocks`] leaves.
    fn blocks_kept(&self, id: SeqId, len: usize) -> usize {
        let s = &self.sequences[id.index];
        let len = s.len.min(len);
        if s.written <= self.per_sequence || len > 0 && self.is_intact(s, len) {
            len
        } else {
            len.min(s.pinned * BLOCK)
        }
    }

    /// Whether no position visible at `len` has been overwritten in the ring of a sequence.
    fn is_intact(&self, s: &Sequence, len: usize) -> bool {
        let ctx = self.ctx / BLOCK;
        let seen = (len / BLOCK + 1 + s.pinned).saturating_sub(ctx).max(s.pinned);
        s.written - (self.per_sequence - s.pinned) <= seen
    }

    /// The same for keys and values alone.
    fn truncate_blocks(&mut self, id: SeqId, len: usize) -> Result<usize, Error> {
        let ring = self.per_sequence;
        let len = self.blocks_kept(id, len);
        let s = &self.sequences[id.index];
        let intact = s.written > ring && len > 0 && self.is_intact(s, len);
        let s = &mut self.sequences[id.index];
        s.len = len;
        if intact {
            s.tokens.truncate(len); // the ring is left unchanged
            return Ok(len);
        }
        s.tokens.truncate(len);
        s.written = len.div_ceil(BLOCK);
        // From the end, so that a prefix's last block is evicted before its parents.
        let written = s.written;
        while self.sequences[id.index].blocks.len() > written {
            let Some(block) = self.sequences[id.index].blocks.pop() else { break };
            self.release(block);
        }
        Ok(len)
    }

    /// Opens a copy of a sequence; blocks are shared until they are written.
    pub(crate) fn fork(&mut self, from: SeqId) -> Result<SeqId, Error> {
        let (n, namespace) = (self.get(from)?.blocks.len(), self.get(from)?.namespace);
        let to = self.open(namespace)?;
        self.copy_table(from.index, to, n);
        let pair = self.sequences.get_disjoint_mut([from.index, to.index]);
        let [a, b] = pair.expect("two different sequences");
        (b.len, b.written, b.pinned) = (a.len, a.written, a.pinned);
        b.tokens.extend_from_slice(&a.tokens);
        self.fork_state(from, to);
        Ok(to)
    }

    /// Shares the first `n` blocks of a sequence with an empty one.
    pub(super) fn copy_table(&mut self, from: usize, to: SeqId, n: usize) {
        for i in 0..n {
            let block = self.sequences[from].blocks[i];
            self.readers[block as usize] += 1;
            self.sequences[to.index].blocks.push(block);
        }
    }

    /// Block `index` of an open sequence, if it is in the tree.
    pub(super) fn tree_block(&self, id: SeqId, index: usize) -> Option<u32> {
        let s = &self.sequences[id.index];
        let full = (index + 1) * BLOCK <= s.tokens.len();
        let block = *s.blocks.get(index).filter(|_| full && s.written <= self.per_sequence)?;
        self.tree.contains(block).then_some(block)
    }

    /// The arena block that holds block `index` of an open sequence.
    pub(crate) fn block(&self, id: SeqId, index: usize) -> usize {
        let s = &self.sequences[id.index];
        s.blocks[self.table_index(s, index)] as usize
    }
}
