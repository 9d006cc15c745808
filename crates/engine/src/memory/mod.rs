//! The KV cache: keys and values in memory, and as bytes.
//!
//! ```text
//! plan ──► cache    sequences and their block tables, copy-on-write
//!            ├─► layer ── blocks    one layer's arena; its blocks as bytes
//!            ├─► tree               full blocks by content: the prefix tree
//!            ├── share              prefixes in common
//!            ├── known              what the tree knows; its blocks as bytes, to and from a disk
//!            └─► recurrent ── states    states of recurrent layers, and what a pass does with them
//! entry             header of stored keys and values
//! ```
//!
//! Read `plan` (sizes, overflow policy), then `cache`.

mod blocks;
mod cache;
mod entry;
mod known;
mod layer;
mod plan;
mod recurrent;
mod share;
mod states;
mod tree;

pub(crate) use cache::Cache;
pub(crate) use entry::{HEADER, IDENTITY, MAGIC, Prefix, common, head_bytes};
pub use layer::KvType;
pub(crate) use layer::{HeadMut, KvShape, LayerSplit};
pub use plan::{BlockUse, Namespace, Overflow, SeqId};
pub(crate) use plan::{Plan, Slid};
pub(crate) use recurrent::{StateRun, StateRuns};
pub(crate) use states::LOG;
