//! How large a cache is, what happens when it is full, and what a token sees of it.

use nanoinfer_format::Config;
use nanoinfer_kernels::BLOCK;

use super::layer::KvType;

/// Names a sequence of an [`crate::Engine`]. No two sequences of a process have the same name, so
/// that of a closed one is refused, and so is that of another engine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeqId {
    pub(super) index: usize,
    pub(super) serial: u64,
}

/// What happens at the end of the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// It ends.
    #[default]
    Stop,
    /// The oldest positions after the pinned ones are forgotten, a block of 64 at a time, and
    /// positions keep growing. What a position sees depends on its number alone: the pinned
    /// blocks, as if they came right before the others, and the last ones that fit the context.
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

/// The positions that a token sees apart from those evicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slid {
    /// Positions at the beginning that stay.
    pub pinned: usize,
    /// Positions after them that are gone, as this token sees it.
    pub evicted: usize,
}

/// Size and behaviour of a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub kv: KvType,
    pub ctx: usize,
    pub overflow: Overflow,
    /// Most tokens of a pass.
    pub chunk: usize,
    pub sequences: usize,
    /// Bytes of the arena; by default those of full contexts of all sequences.
    pub kv_bytes: Option<u64>,
}

impl Plan {
    /// Blocks of one sequence. A pass must not overwrite what its first token sees, nor a rejected
    /// draft what the next pass does.
    pub(super) fn per_sequence(&self) -> usize {
        self.ctx.div_ceil(BLOCK)
            + match self.overflow {
                Overflow::Stop => 0,
                Overflow::Slide => self.chunk.div_ceil(BLOCK) + 1,
            }
    }

    /// Bytes of a block of all layers and heads.
    fn block_bytes(&self, c: &Config) -> u64 {
        BLOCK as u64 * self.kv.bytes_per_position(c)
    }

    /// Bytes of the smallest arena that is of use: a block, or where the context slides, the ring of
    /// one sequence, without which it could not slide.
    pub(crate) fn least_bytes(&self, c: &Config) -> u64 {
        match self.overflow {
            Overflow::Stop => self.block_bytes(c),
            Overflow::Slide => self.block_bytes(c).saturating_mul(self.per_sequence() as u64),
        }
    }

    /// Blocks of the arena, or `None` if they do not fit into 64 bits.
    pub(super) fn blocks(&self, c: &Config) -> Option<u64> {
        match self.kv_bytes {
            Some(bytes) => Some(bytes / self.block_bytes(c)),
            None => (self.per_sequence() as u64).checked_mul(self.sequences as u64),
        }
    }

    /// Bytes of the arena, or `None` if they do not fit into 64 bits.
    pub(crate) fn bytes(&self, c: &Config) -> Option<u64> {
        self.blocks(c)?.checked_mul(self.block_bytes(c))
    }
}
