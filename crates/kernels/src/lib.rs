//! The arithmetic: integer and float kernels over one narrow sixteen-lane trait. No dependencies.
//!
//! ```text
//!                   table.rs  an ISA's CPU features, stated once → detection + entry points
//!        ┌──────────────┴──────────────────────────────────────────────┐
//!   product.rs  which loops multiply on which ISA                      │
//!        │                                                             │
//!   gemm.rs tiles.rs matrix.rs      acts.rs norm.rs activation.rs experts.rs kv.rs attention.rs …
//!        │                                                             │  generic, one algorithm each
//!        └──────────────┬──────────────────────────────────────────────┘
//!                   isa.rs  trait Simd: about 25 operations on 16 lanes; in isa/, what some have beside
//!        ┌──────────────┼──────────────────┐
//!   isa/scalar.rs   isa/avx2.rs   isa/avx512.rs, amx.rs                       one-line intrinsics
//!        └──────────────┴──────────────────┘
//!                   layout.rs  16, 64 and what follows from them, each named once
//! ```
//!
//! No circles: a module uses what stands below it, and a leaf the trait that it implements.
//!
//! Why sixteen lanes everywhere, even where a register holds eight or one: a sum of floats depends
//! on its order. Every kernel is written over sixteen lanes and one fixed reduction tree, so that
//! each instruction set computes the same bits and a model says the same words on every machine.
//!
//! What this crate is not: it knows no models, files or threads. Callers hand it slices.
//!
//! ```
//! use nanoinfer_kernels::{Isa, Kernels};
//! let kernels = Kernels::best();
//! assert!(Kernels::new(Isa::Scalar).is_some());
//! println!("running on {}", kernels.isa().name());
//! ```

mod activation;
mod acts;
mod attention;
mod experts;
mod fma;
mod gemm;
mod isa;
mod kv;
mod layout;
mod math;
#[cfg(target_arch = "x86_64")]
mod matrix;
mod norm;
pub mod pack;
mod peak;
mod product;
mod quantize;
mod rope;
mod table;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod values;

pub use activation::{Activate, Activation, ExpWeights, SoftCap};
pub use acts::{Acts, ActsF32, Pack, TileData, TileMut, line_of, packed_rows, tile_rows};
pub use attention::{AttendBlock, FinishHead, MergeSpans, SPAN};
pub use experts::{AddWeighted, Route};
pub use fma::fma;
pub use gemm::{Gemm, GemmF32, MAX_TILE};
pub use kv::{BLOCK, KvBlock, KvBlockMut, PackQuery, Queries, QueriesMut, StoreKv, q8_key_block};
pub use layout::{GROUP, LANES, LINE, QUAD, TOKENS, f32_panel_len, q8_panel_bytes};
pub use norm::{NormKind, NormOf, NormPack, NormRow};
pub use peak::{PeakDots, ReadLines};
pub use quantize::Rotate;
pub use rope::{Rope, rope_table};
pub use table::{Isa, Kernels, UnknownIsa};
