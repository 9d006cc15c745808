//! Keys and values: in memory while sequences run, and as bytes.
//!
//! ```text
//! plan    sizes and overflow behaviour           Cache    blocks, shared and copied on write
//! layer   one layer of the arena    ◄────────── cache ──► freed   content of blocks nobody holds
//! blocks  a block of a layer as bytes           entry    header of stored keys and values
//! ```
//!
//! Read `plan`, then `cache`; the others are its parts.

mod blocks;
mod cache;
mod entry;
mod freed;
mod layer;
mod plan;

pub(crate) use cache::Cache;
pub(crate) use entry::{HEADER, IDENTITY, MAGIC, Prefix};
pub use layer::KvType;
pub(crate) use layer::{HeadMut, LayerSplit};
pub use plan::{Overflow, SeqId};
pub(crate) use plan::{Plan, Slid};
