//! Selects an instruction set at run time.
//!
//! There are two lists: `with_kernels!` lists the kernels, and the `table!` lines list the CPU features
//! of each ISA. Macros derive the [`Kernels`] struct, the detection and the `#[target_feature]` entry
//! points from these lists, so they cannot drift apart.
#![allow(unsafe_code)]

use crate::attention::{FinishHead, MergeSpans};
use crate::isa::codes::Codes;
use crate::isa::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use crate::isa::{
    amx,
    avx2::{Avx2, AvxVnni},
    avx512::{Amx, Avx512Vbmi, Avx512Vnni},
};
use crate::peak::{PeakDots, ReadLines};
use crate::product::Product;
use crate::trellis_decode::DecodePanel;
use crate::{
    Activate, AddWeighted, AttendBlock, CopyRow, ExpWeights, Gemm, GemmF32, GemmTrellis, NormPack,
    NormRow, Pack,
};
use crate::{AddOuter, AddProducts, CorrectRows, FactorRows, SearchTrellis};
use crate::{ApplyGate, Recur, ShortConv, StateSteps};
use crate::{PackQuery, Rope, Rotate, Route, SoftCap, StoreKv, Weigh};
use crate::{
    activation, attention, conv, correction, experts, gemm, gemm_trellis, inputs, isa::Simd, kv,
    logits, norm, peak, product, quantize, recurrent, rope, trellis_decode, trellis_search,
    triangle,
};

/// An instruction set for which kernels exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust, for any CPU.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C (Intel since 2013, AMD since 2015).
    Avx2,
    /// x86-64 with AVX2 and AVX-VNNI (Intel laptops and desktops since 2021, AMD since Zen 5).
    AvxVnni,
    /// x86-64 with AVX-512 and VNNI (Intel servers since 2019).
    Avx512Vnni,
    /// The same with VBMI and GFNI, which decode trellis-coded weights (Intel since 2019, servers since
    /// 2021; AMD since Zen 4).
    Avx512Vbmi,
    /// The same with AMX int8, a matrix unit (Intel servers since 2023). Linux only.
    Amx,
}

impl Isa {
    /// All instruction sets, slowest first.
    pub const ALL: [Isa; 6] =
        [Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512Vnni, Isa::Avx512Vbmi, Isa::Amx];

    /// The name, as accepted by `NANOINFER_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Avx512Vbmi => "avx512vbmi",
            Isa::Amx => "amx",
        }
    }
}

/// The string does not name an instruction set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownIsa(pub String);

impl std::fmt::Display for UnknownIsa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = Isa::ALL.map(Isa::name).join(", ");
        write!(f, "unknown instruction set `{}`; use one of {names}", self.0)
    }
}

impl std::error::Error for UnknownIsa {}

impl std::str::FromStr for Isa {
    type Err = UnknownIsa;
    fn from_str(name: &str) -> Result<Self, UnknownIsa> {
        Isa::ALL.into_iter().find(|i| i.name() == name).ok_or_else(|| UnknownIsa(name.into()))
    }
}

/// The list of kernels (visibility, name, arguments, generic function), passed to `$callback`.
macro_rules! with_kernels {
    ($callback:ident $($prefix:tt)*) => {
        $callback! { [$($prefix)*]
            /// Multiplies int8 panels by quantized inputs.
            pub gemm_q8(Gemm) = product::gemm_q8;
            /// Multiplies trellis-coded panels by few quantized inputs.
            pub(crate) gemm_coded(GemmTrellis) = gemm_trellis::gemm_coded;
            /// Decodes a trellis-coded panel.
            pub(crate) decode_panel(DecodePanel) = trellis_decode::decode_panel;
            /// Multiplies f32 panels by f32 inputs.
            pub gemm_f32(GemmF32) = gemm::gemm_f32;
            /// Normalizes and packs a tile of tokens.
            pub norm_pack(NormPack) = norm::norm_pack;
            /// Normalizes one vector.
            pub norm_row(NormRow) = norm::norm_row;
            /// Packs tokens into a tile.
            pub pack(Pack) = inputs::pack;
            /// Applies the Walsh-Hadamard transform in place.
            pub rotate(Rotate) = quantize::rotate;
            /// Applies the activation of the feed-forward network.
            pub activate(Activate) = activation::activate;
            /// Scales and soft-caps values.
            pub soft_cap(SoftCap) = activation::soft_cap;
            /// Computes unnormalized probabilities from logits.
            pub exp_weights(ExpWeights) = activation::exp_weights;
            /// Copies a row of logits, and checks that they are finite.
            pub copy_row(CopyRow) = logits::copy_row;
            /// Selects a token's experts and their weights.
            pub route(Route) = experts::route;
            /// Multiplies rows by the weights of their tokens.
            pub weigh(Weigh) = experts::weigh;
            /// Adds an expert's weighted outputs to the rows of its tokens.
            pub add_weighted(AddWeighted) = experts::add_weighted;
            /// Convolves sixteen channels of a recurrent layer.
            pub short_conv(ShortConv) = conv::short_conv;
            /// Passes tokens through sixteen columns of a recurrent state.
            pub recur(Recur) = recurrent::recur;
            /// Computes how much recurrent states take in, or keep.
            pub state_steps(StateSteps) = recurrent::state_steps;
            /// Multiplies values by gates.
            pub apply_gate(ApplyGate) = recurrent::apply_gate;
            /// Applies RoPE to one head.
            pub rope(Rope) = rope::rope;
            /// Stores one position in the cache.
            pub store_kv(StoreKv) = kv::store_kv;
            /// Packs one query for attention.
            pub pack_query(PackQuery) = kv::pack_query;
            /// Computes the attention of a tile of queries to one block of the cache.
            pub attend(AttendBlock) = attention::attend;
            /// Merges two attention states.
            pub merge_spans(MergeSpans) = attention::merge;
            /// Computes the attention output from the final state.
            pub finish_head(FinishHead) = attention::finish;
            /// Chooses the codes of trellis-coded panels.
            pub search_trellis(SearchTrellis) = trellis_search::search_trellis;
            /// Adds outer products to rows of a symmetric matrix.
            pub add_outer(AddOuter) = triangle::add_outer;
            /// Adds outer products of different vectors to rows of a matrix.
            pub add_products(AddProducts) = triangle::add_products;
            /// Corrects rows for inputs that differ.
            pub correct_rows(CorrectRows) = correction::correct_rows;
            /// Computes the next rows of a triangular factor.
            pub factor_rows(FactorRows) = triangle::factor_rows;
            /// Reads memory as fast as this instruction set can.
            pub(crate) read_lines(ReadLines) = peak::read_lines;
            /// Multiplies bytes as fast as this instruction set can.
            pub(crate) peak_dots(PeakDots) = product::peak_dots;
        }
    };
}

/// Declares the struct and its safe methods.
macro_rules! declare {
    ([] $($(#[$doc:meta])* $vis:vis $name:ident($args:ident) = $generic:path;)*) => {
        /// The kernels of one instruction set. Every ISA computes the same bits.
        #[derive(Clone, Copy)]
        pub struct Kernels {
            isa: Isa,
            at_once: usize,
            tile: usize,
            decode_first: usize,
            $($name: unsafe fn($args<'_>),)*
        }

        impl Kernels {
            $($(#[$doc])*
            ///
            /// # Panics
            /// If the slices do not have the documented sizes.
            $vis fn $name(&self, args: $args<'_>) {
                args.check();
                // SAFETY: a table exists only if its CPU features were detected.
                unsafe { (self.$name)(args) }
            })*
        }
    };
}

/// Builds the table of one ISA from the list of its CPU features.
macro_rules! table {
    ([$isa:ident $token:ident $features:tt]
     $($(#[$doc:meta])* $vis:vis $name:ident($args:ident) = $generic:path;)*) => {
        mod $isa {
            use super::*;
            $(entry! { $features $token $name $args $generic })*
            pub(super) fn table() -> Option<Kernels> {
                detected!($features).then_some(Kernels {
                    isa: Isa::$token,
                    at_once: <$token as Product>::AT_ONCE,
                    tile: <$token as Simd>::QUERIES,
                    decode_first: <$token as Codes>::DECODE_FIRST,
                    $($name,)*
                })
            }
        }
    };
}

macro_rules! entry {
    ([$($feature:tt)*] $token:ident $name:ident $args:ident $generic:path) => {
        $(#[target_feature(enable = $feature)])*
        fn $name(args: $args<'_>) {
            // SAFETY: this function requires the CPU features, so the caller has proved them.
            $generic(unsafe { $token::assume() }, args)
        }
    };
}

macro_rules! detected {
    ([]) => { true };
    ([$($feature:tt)*]) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
}

with_kernels!(declare);
with_kernels!(table scalar Scalar []);
#[cfg(target_arch = "x86_64")]
with_kernels!(table avx2 Avx2 ["avx2" "fma" "f16c"]);
#[cfg(target_arch = "x86_64")]
with_kernels!(table avxvnni AvxVnni ["avx2" "fma" "f16c" "avxvnni"]);
#[cfg(target_arch = "x86_64")]
with_kernels!(table avx512vnni Avx512Vnni
    ["avx512f" "avx512bw" "avx512vl" "avx512dq" "avx512vnni" "fma" "f16c"]);
#[cfg(target_arch = "x86_64")]
with_kernels!(table avx512vbmi Avx512Vbmi
    ["avx512f" "avx512bw" "avx512vl" "avx512dq" "avx512vnni" "avx512vbmi" "gfni" "fma" "f16c"]);
// AMX features have no stable names; `amx::enable` detects them.
#[cfg(target_arch = "x86_64")]
with_kernels!(table matrix Amx
    ["avx512f" "avx512bw" "avx512vl" "avx512dq" "avx512vnni" "avx512vbmi" "gfni" "fma" "f16c"]);

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels").field("isa", &self.isa).finish_non_exhaustive()
    }
}

impl Kernels {
    /// The kernels of `isa`, or `None` if this CPU does not support it.
    pub fn new(isa: Isa) -> Option<Self> {
        match isa {
            Isa::Scalar => scalar::table(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::table(),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => avxvnni::table(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => avx512vnni::table(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vbmi => avx512vbmi::table(),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => amx::enable().then(matrix::table)?,
            #[cfg(not(target_arch = "x86_64"))]
            _ => None,
        }
    }

    /// The kernels of the fastest instruction set this CPU supports.
    pub fn best() -> Self {
        Isa::ALL.into_iter().rev().find_map(Self::new).expect("scalar runs everywhere")
    }

    /// The instruction set of these kernels.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// See [`Codes::DECODE_FIRST`].
    pub(crate) fn decode_first(&self) -> usize {
        self.decode_first
    }

    /// Number of tokens that matrix products take at once, a divisor of [`TOKENS`](crate::TOKENS): batches of a
    /// multiple of it are the most efficient.
    pub fn at_once(&self) -> usize {
        self.at_once
    }

    /// Queries per attention tile, at most [`crate::MAX_TILE`].
    pub fn tile(&self) -> usize {
        self.tile
    }
}
