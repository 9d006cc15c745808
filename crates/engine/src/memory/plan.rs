//! The size of a cache, its overflow policy, and the positions visible to a token.

use nanoinfer_format::Config;
use nanoinfer_kernels::BLOCK;

use super::layer::KvType;
use super::states::state_bytes;

/// Identifies a sequence of an [`crate::Engine`]. Ids are unique within the process, so those of closed
/// sequences and of other engines are rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeqId {
    pub(super) index: usize,
    pub(super) serial: u64,
}

/// Whose contexts are found when a prompt is looked up. The contexts of one namespace are never found from
/// another one, so that not even the time of an answer shows what others asked; those of
/// [`Self::COMMON`] are found from all. It has no influence on tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Namespace(pub u64);

impl Namespace {
    /// The default.
    pub const COMMON: Self = Self(0);

    /// Whether contexts of this namespace are found from another one.
    pub(crate) fn is_seen_from(self, other: Self) -> bool {
        self == other || self == Self::COMMON
    }
}

/// Who uses a block of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockUse {
    /// Nobody: it has no content.
    Free,
    /// Nobody, but its content can be reused until the space is needed.
    Cached,
    /// One sequence.
    Held,
    /// Several sequences.
    Shared,
}

/// The policy for a full context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The answer ends.
    #[default]
    Stop,
    /// The oldest positions after the pinned ones are evicted in blocks of 64, while position numbers
    /// keep increasing. The positions visible to a token depend only on its own position: the pinned
    /// blocks, treated as if they directly preceded the recent ones, and as many recent blocks as fit in
    /// the context.
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
    /// Number of positions at the beginning that are never evicted.
    pub pinned: usize,
    /// Number of positions after them that are evicted for this token.
    pub evicted: usize,
}

/// Size and overflow policy of a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub kv: KvType,
    pub ctx: usize,
    pub overflow: Overflow,
    /// Maximum number of tokens in a pass.
    pub chunk: usize,
    pub sequences: usize,
    /// Bytes of the arena; by default, enough for every sequence to fill its context.
    pub kv_bytes: Option<u64>,
}

/// Maximum number of snapshots that are kept because there is memory.
const MAX_SNAPSHOTS: u64 = 256;

impl Plan {
    /// Number of blocks per sequence. A pass must not overwrite positions visible to its first token, and
    /// a rejected draft must not overwrite positions visible to the next pass.
    pub(super) fn per_sequence(&self) -> usize {
        self.ctx.div_ceil(BLOCK)
            + match self.overflow {
                Overflow::Stop => 0,
                Overflow::Slide => self.chunk.div_ceil(BLOCK) + 1,
            }
    }

    /// Bytes of a block over all layers and heads.
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

    /// Number of blocks in the arena; `None` on overflow.
    pub(super) fn blocks(&self, c: &Config) -> Option<u64> {
        match self.kv_bytes {
            Some(bytes) => Some(bytes / self.block_bytes(c)),
            None => (self.per_sequence() as u64).checked_mul(self.sequences as u64),
        }
    }

    /// Bytes of the arena and of recurrent states; `None` on overflow.
    pub(crate) fn bytes(&self, c: &Config) -> Option<u64> {
        let (slot, log) = state_bytes(c);
        let slots = slot.checked_mul(self.state_slots(c) as u64)?;
        let states = slots.checked_add(log.checked_mul(self.sequences as u64)?)?;
        self.blocks(c)?.checked_mul(self.block_bytes(c))?.checked_add(states)
    }

    /// Number of recurrent states: two for each sequence, as a pass reads one and writes another, and as many
    /// snapshots, or more if they fit into a quarter of the memory for keys and values.
    pub(super) fn state_slots(&self, c: &Config) -> usize {
        let arena = self.blocks(c).unwrap_or(0).saturating_mul(self.block_bytes(c));
        let quarter = (arena / 4).checked_div(state_bytes(c).0).unwrap_or(0);
        let held = self.sequences.saturating_mul(2);
        held.saturating_add((quarter.min(MAX_SNAPSHOTS) as usize).max(held))
    }
}
