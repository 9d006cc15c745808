//! Choosing an instruction set at run time.
//!
//! Two lists, each stated once: `with_kernels!` names the kernels, the `table!` lines name the CPU
//! features of each ISA. Macros make of them the [`Kernels`] struct, the detection and the
//! `#[target_feature]` entry points, so that none of these can drift apart.
#![allow(unsafe_code)]

use crate::attention::{FinishHead, MergeSpans};
use crate::isa::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use crate::isa::{
    amx,
    avx2::{Avx2, AvxVnni},
    avx512::{Amx, Avx512Vnni},
};
use crate::peak::{PeakDots, ReadLines};
use crate::{
    Activate, AddWeighted, AttendBlock, ExpWeights, Gemm, GemmF32, NormPack, NormRow, Pack,
};
use crate::{PackQuery, Rope, Rotate, Route, SoftCap, StoreKv};
use crate::{
    activation, attention, experts, gemm, inputs, isa::Simd, kv, norm, peak, product, quantize,
    rope,
};

/// An instruction set with kernels of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust, any CPU.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C (Intel since 2013, AMD since 2015).
    Avx2,
    /// x86-64 with AVX2 and AVX-VNNI (Intel laptops and desktops since 2021, AMD since Zen 5).
    AvxVnni,
    /// x86-64 with AVX-512 and VNNI (Intel servers since 2019, AMD since Zen 4).
    Avx512Vnni,
    /// The same beside AMX int8, a matrix unit (Intel servers since 2023). Linux.
    Amx,
}

impl Isa {
    /// All of them, slowest first.
    pub const ALL: [Isa; 5] = [Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512Vnni, Isa::Amx];

    /// Its name, as `NANOINFER_ISA` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Amx => "amx",
        }
    }
}

/// Not the name of an instruction set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownIsa(pub String);

impl std::fmt::Display for UnknownIsa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unknown instruction set `{}`, known are ", self.0)?;
        let names: Vec<_> = Isa::ALL.map(Isa::name).into();
        f.write_str(&names.join(", "))
    }
}

impl std::error::Error for UnknownIsa {}

impl std::str::FromStr for Isa {
    type Err = UnknownIsa;
    fn from_str(name: &str) -> Result<Self, UnknownIsa> {
        Isa::ALL.into_iter().find(|i| i.name() == name).ok_or_else(|| UnknownIsa(name.into()))
    }
}

/// The kernels: name, arguments, generic function. Hands the list to `$callback`.
macro_rules! with_kernels {
    ($callback:ident $($prefix:tt)*) => {
        $callback! { [$($prefix)*]
            /// Int8 panels times quantized activations.
            pub gemm_q8(Gemm) = product::gemm_q8;
            /// f32 panels times f32 activations.
            pub gemm_f32(GemmF32) = gemm::gemm_f32;
            /// The norm of a tile of tokens, packed.
            pub norm_pack(NormPack) = norm::norm_pack;
            /// The norm of one vector.
            pub norm_row(NormRow) = norm::norm_row;
            /// Tokens into a tile.
            pub pack(Pack) = inputs::pack;
            /// Walsh-Hadamard transform in place.
            pub rotate(Rotate) = quantize::rotate;
            /// The activation of the feed-forward part.
            pub activate(Activate) = activation::activate;
            /// Scales and caps numbers.
            pub soft_cap(SoftCap) = activation::soft_cap;
            /// Unnormalised probabilities of logits.
            pub exp_weights(ExpWeights) = activation::exp_weights;
            /// A token's experts and their weights.
            pub route(Route) = experts::route;
            /// An expert's outputs, weighted, added to those of its tokens.
            pub add_weighted(AddWeighted) = experts::add_weighted;
            /// RoPE on one head.
            pub rope(Rope) = rope::rope;
            /// One position into the cache.
            pub store_kv(StoreKv) = kv::store_kv;
            /// One query as attention reads it.
            pub pack_query(PackQuery) = kv::pack_query;
            /// A tile of queries against one block of the cache.
            pub attend(AttendBlock) = attention::attend;
            /// Joins two attention states.
            pub merge_spans(MergeSpans) = attention::merge;
            /// Attention output from its state.
            pub finish_head(FinishHead) = attention::finish;
            /// Reads memory, as fast as this instruction set can.
            pub(crate) read_lines(ReadLines) = peak::read_lines;
            /// Multiplies bytes, as fast as this instruction set can.
            pub(crate) peak_dots(PeakDots) = product::peak_dots;
        }
    };
}

/// The struct and its safe methods.
macro_rules! declare {
    ([] $($(#[$doc:meta])* $vis:vis $name:ident($args:ident) = $generic:path;)*) => {
        /// The kernels of one instruction set. Every ISA computes the same bits.
        #[derive(Clone, Copy)]
        pub struct Kernels {
            isa: Isa,
            tile: usize,
            $($name: unsafe fn($args<'_>),)*
        }

        impl Kernels {
            $($(#[$doc])*
            ///
            /// # Panics
            /// If the slices do not have the sizes the arguments' documentation gives.
            $vis fn $name(&self, args: $args<'_>) {
                args.check();
                // SAFETY: a table is only handed out after its CPU features were detected.
                unsafe { (self.$name)(args) }
            })*
        }
    };
}

/// One ISA's table, from the list of its CPU features.
macro_rules! table {
    ([$isa:ident $token:ident $features:tt]
     $($(#[$doc:meta])* $vis:vis $name:ident($args:ident) = $generic:path;)*) => {
        mod $isa {
            use super::*;
            $(entry! { $features $token $name $args $generic })*
            pub(super) fn table() -> Option<Kernels> {
                detected!($features).then_some(Kernels {
                    isa: Isa::$token,
                    tile: <$token as Simd>::QUERIES,
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
            // SAFETY: this function has the CPU features, so its caller proved them.
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
// The features of AMX have no stable names; `amx::enable` looks for them.
#[cfg(target_arch = "x86_64")]
with_kernels!(table matrix Amx
    ["avx512f" "avx512bw" "avx512vl" "avx512dq" "avx512vnni" "fma" "f16c"]);

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels").field("isa", &self.isa).finish_non_exhaustive()
    }
}

impl Kernels {
    /// The kernels of `isa`, or `None` if this CPU lacks it.
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
            Isa::Amx => amx::enable().then(matrix::table)?,
            #[cfg(not(target_arch = "x86_64"))]
            _ => None,
        }
    }

    /// The fastest this CPU has.
    pub fn best() -> Self {
        Isa::ALL.into_iter().rev().find_map(Self::new).expect("scalar runs everywhere")
    }

    /// Which instruction set this is.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Queries per tile of attention, at most [`crate::MAX_TILE`].
    pub fn tile(&self) -> usize {
        self.tile
    }
}
