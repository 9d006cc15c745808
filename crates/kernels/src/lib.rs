//! The arithmetic: integer and float kernels over one narrow sixteen-lane trait. No dependencies.
//!
//! ```text
//!   decoded.rs, bench.rs  combinations of kernels
//!                   table.rs  an ISA's CPU features, stated once → detection + entry points
//!        ┌──────────────┴──────────────────────────────────────────────┐
//!   gemm_trellis.rs                                                    │
//!   product.rs  which GEMM loop each ISA uses                          │
//!        │                                                             │
//!   gemm.rs, trellis_decode.rs,     inputs.rs norm.rs activation.rs experts.rs kv.rs attention.rs …
//!   gemm_tile_loop.rs, gemm_matrix_unit.rs                             │  generic, one algorithm each
//!        └──────────────┬──────────────────────────────────────────────┘
//!                   isa.rs  trait Simd: about 30 operations on 16 lanes; isa/ also has the extensions
//!        ┌──────────────┼──────────────────┐
//!   isa/scalar.rs   isa/avx2.rs   isa/avx512.rs, amx.rs                       one-line intrinsics
//!        └──────────────┴──────────────────┘
//!                   layout.rs  16, 64 and the sizes derived from them, each named once
//! ```
//!
//! No cycles: a module uses only the modules below it; leaves also use the trait they implement.
//!
//! Sixteen lanes everywhere, even where a register holds eight or one, because a floating-point sum
//! depends on its order. Every kernel uses sixteen lanes and one fixed reduction tree, so every
//! instruction set computes the same bits and a model produces the same output on every machine.
//!
//! This crate knows nothing of models, files or threads. Callers pass slices.
//!
//! ```
//! use nanoinfer_kernels::{Isa, Kernels};
//! let kernels = Kernels::best();
//! assert!(Kernels::new(Isa::Scalar).is_some());
//! println!("running on {}", kernels.isa().name());
//! ```

mod activation;
mod attention;
pub mod bench;
mod conv;
mod correction;
mod decoded;
mod experts;
mod fma;
mod gemm;
#[cfg(target_arch = "x86_64")]
mod gemm_matrix_unit;
#[cfg(target_arch = "x86_64")]
mod gemm_tile_loop;
mod gemm_trellis;
mod inputs;
mod isa;
mod kv;
mod layout;
mod logits;
mod math;
mod norm;
pub mod pack;
mod peak;
mod product;
mod quantize;
mod recurrent;
mod rope;
mod survivors;
mod table;
mod temperature;
pub mod trellis;
mod trellis_decode;
mod trellis_search;
mod trellis_table;
mod triangle;
mod values;

pub use activation::{Activate, Activation, ExpWeights, SoftCap};
pub use attention::{AttendBlock, FinishHead, MergeSpans, SPAN};
pub use conv::ShortConv;
pub use correction::CorrectRows;
pub use experts::{AddWeighted, Route, RouteGroups, Weigh};
pub use fma::fma;
pub use gemm::{Gemm, GemmF32, MAX_TILE};
pub use gemm_trellis::{GemmTrellis, decoded_panel_bytes};
pub use inputs::{
    F32Inputs, Pack, QuantizedInputs, TileData, TileMut, locate_token, packed_rows, tile_rows,
};
pub use kv::{
    BLOCK, KvBlock, KvBlockMut, PackQuery, Queries, QueriesMut, StoreKv, q4_key_block,
    q4_value_block, q8_key_block,
};
pub use layout::{GROUP, LANES, LINE, QUAD, TOKENS, f32_panel_len, q8_panel_bytes};
pub use logits::CopyRow;
pub use norm::{NormKind, NormPack, NormParams, NormRow};
pub use quantize::Rotate;
pub use recurrent::{ApplyGate, Gate, Recur, StateSteps, Steps};
pub use rope::{Rope, rope_table};
pub use table::{Isa, Kernels, UnknownIsa};
pub use temperature::temperature;
pub use trellis::{Trellis, trellis_panel, trellis_panel_bytes, trellis_row, trellis_values};
pub use trellis_search::{Feedback, SearchScratch, SearchTrellis};
pub use trellis_table::SearchTable;
pub use triangle::{AddOuter, AddProducts, FACTOR_ROWS, FactorRows};
