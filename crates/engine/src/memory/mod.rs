//! The KV cache: keys and values in memory, and as bytes.
//!
//! ```text
//! plan ──► cache    sequences and their block tables, copy-on-write
//!            ├─► layer ── blocks    one layer's arena; its blocks as bytes
//!            └─► freed              released blocks, found again by content
//! entry             header of stored keys and values
//! ```
//!
//! Read `plan` (sizes, overflow policy), then `cache`.

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
