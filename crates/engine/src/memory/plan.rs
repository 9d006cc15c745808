//! The size of a cache, its overflow policy, and the positions visible to a token.

use nanoinfer_format::Config;
use nanoinfer_kernels::BLOCK;

use super::layer::KvType;

/// Identifies a sequence of an [`crate::Engine`]. Ids are unique within the process, so those of closed
/// sequences and of other engines are rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeqId {
    pub(super) index: usize,
    pub(super) serial: u64,
}

/// The policy for a full context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The answer ends.
    #[default]
    Stop,
    /// The oldest positions after the pinned ones are evicted, a block of 64 at a time, and positions
    /// keep growing. What a position sees depends only on its number: the pinned blocks, as if they
    /// directly preceded the others, and the most recent ones that fit the context.
    Slide,
}

impl Overflow {
    /// `stop` or `slide`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Slide => "slide",
        }
    }
}

/// The gap in the positions visible to a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slid {
    /// Positions at the beginning that are never evicted.
    pub pinned: usize,
    /// Positions after them that are evicted for this token.
    pub evicted: usize,
}

/// Size and overflow policy of a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub kv: KvType,
    pub ctx: usize,
    pub overflow: Overflow,
    /// The most tokens of a pass.
    pub chunk: usize,
    pub sequences: usize,
    /// Bytes of the arena; by default enough for full contexts of all sequences.
    pub kv_bytes: Option<u64>,
}

impl Plan {
    /// Blocks of one sequence. A pass must not overwrite positions visible to its first token, nor a
    /// rejected draft those visible to the next pass.
    pub(super) fn per_sequence(&self) -> usize {
        self.ctx.div_ceil(BLOCK)
            + match self.overflow {
                Overflow::Stop => 0,
                Overflow::Slide => self.chunk.div_ceil(BLOCK) + 1,
            }
    }

    /// Bytes of a block, all layers and heads.
    fn block_bytes(&self, c: &Config) -> u64 {
        BLOCK as u64 * self.kv.bytes_per_position(c)
    }

    /// Bytes of the smallest usable arena: one block or, if the context slides, one sequence's ring.
    pub(crate) fn min_bytes(&self, c: &Config) -> u64 {
        match self.overflow {
            Overflow::Stop => self.block_bytes(c),
            Overflow::Slide => self.block_bytes(c).saturating_mul(self.per_sequence() as u64),
        }
    }

    /// Blocks of the arena; `None` on overflow.
    pub(super) fn blocks(&self, c: &Config) -> Option<u64> {
        match self.kv_bytes {
            Some(bytes) => Some(bytes / self.block_bytes(c)),
            None => (self.per_sequence() as u64).checked_mul(self.sequences as u64),
        }
    }

    /// Bytes of the arena; `None` on overflow.
    pub(crate) fn bytes(&self, c: &Config) -> Option<u64> {
        self.blocks(c)?.checked_mul(self.block_bytes(c))
    }
}
