//! Multiplies one panel by sixteen tokens with AVX-512 VNNI: the inner loop of prefill.
//!
//! Written in assembly because it needs all 32 registers: compiled code spills and copies some of them
//! in every step and is a third slower. `zmm0`–`zmm15` hold the dots of the tokens, `zmm16` the weight
//! line, `zmm17`–`zmm31` the sums of the first 15 tokens (those of the last stay in memory). The dot
//! instruction itself broadcasts an input quad, so a group of 64 inputs takes 272 loads, 256
//! dots and 32 scaling steps: the two multiplier ports spend 89 % of their time on dots.
#![allow(unsafe_code)]

use std::arch::asm;

use crate::isa::tile_loop::Tile;
use crate::layout::{GROUP, GROUP_BYTES, LANES, LINE, Lanes, TOKENS};

// Hard-coded in the assembly.
const _: () =
    assert!(TOKENS == 16 && LANES == 16 && GROUP == 64 && LINE == 64 && GROUP_BYTES == 1024);

/// Expands `$f!(token, register of its sums)` for each token whose sums are kept in a register.
macro_rules! in_registers {
    ($f:ident) => {
        concat!(
            $f!(0, 17),
            $f!(1, 18),
            $f!(2, 19),
            $f!(3, 20),
            $f!(4, 21),
            $f!(5, 22),
            $f!(6, 23),
            $f!(7, 24),
            $f!(8, 25),
            $f!(9, 26),
            $f!(10, 27),
            $f!(11, 28),
            $f!(12, 29),
            $f!(13, 30),
            $f!(14, 31)
        )
    };
}
macro_rules! load {
    ($m:literal, $c:literal) => { concat!("vmovups zmm", $c, ", [r9 + 64*", $m, "]\n") };
}
macro_rules! store {
    ($m:literal, $c:literal) => { concat!("vmovups [r9 + 64*", $m, "], zmm", $c, "\n") };
}
macro_rules! seed {
    ($m:literal, $c:literal) => { concat!("vpbroadcastd zmm", $m, ", [rcx + 4*", $m, "]\n") };
}
/// `\j` is the line number, substituted by the assembler.
macro_rules! dot {
    ($m:literal, $c:literal) => {
        concat!("vpdpbusd zmm", $m, ", zmm16, dword ptr [rsi + 64*", $m, " + 4*\\j]{{1to16}}\n")
    };
}
macro_rules! scale {
    ($m:literal, $c:literal) => {
        concat!(
            "vcvtdq2ps zmm", $m, ", zmm", $m, "\n",
            "vfmadd231ps zmm", $c, ", zmm", $m, ", dword ptr [rdx + 4*", $m, "]{{1to16}}\n"
        )
    };
}

/// Dots and scaling of one group, with an optional extra instruction per line.
macro_rules! group {
    ($($also:literal)?) => {
        concat!(
            in_registers!(seed), seed!(15, 0),
            ".irp j, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n",
            $($also, "\n",)?
            "vmovdqu64 zmm16, [rdi + 64*\\j]\n",
            in_registers!(dot), dot!(15, 0),
            ".endr\n",
            in_registers!(scale),
            "vcvtdq2ps zmm15, zmm15\n",
            "vbroadcastss zmm16, [rdx + 4*15]\n",
            "vfmadd213ps zmm15, zmm16, [r9 + 64*15]\n",
            "vmovups [r9 + 64*15], zmm15\n",
            "add rdi, 1024\n",
            "add rsi, 1024\n",
            "add rdx, 64\n",
            "add rcx, 64\n",
        )
    };
}

/// One panel times 16 tokens, see [`TileLoop::tile`](crate::isa::tile_loop::TileLoop::tile).
///
/// # Safety
/// The CPU must have AVX-512 F and VNNI.
#[inline(always)]
pub(crate) unsafe fn tile(tile: Tile<'_>, sums: &mut [Lanes; TOKENS]) {
    let Tile { w, x, scales, seeds, prefetch } = tile;
    let groups = w.len();
    assert!(x.len() == groups && scales.len() == groups && seeds.len() == groups);
    assert!(prefetch.len() <= groups);
    // SAFETY: each iteration reads one element of each of the four slices, which have `groups` elements
    // as asserted; the two loops together run `groups` times, the first `prefetch.len()` times.
    // `sums` is accessed within its bounds. All registers written are declared.
    unsafe {
        asm!(
            in_registers!(load),
            "test r8, r8",
            "jz 3f",
            "2:",
            group!("prefetcht0 [r10 + 64*\\j]"),
            "add r10, 1024",
            "dec r8",
            "jnz 2b",
            "3:",
            "test r11, r11",
            "jz 5f",
            "4:",
            group!(),
            "dec r11",
            "jnz 4b",
            "5:",
            in_registers!(store),
            inout("rdi") w.as_ptr() => _,
            inout("rsi") x.as_ptr() => _,
            inout("rdx") scales.as_ptr() => _,
            inout("rcx") seeds.as_ptr() => _,
            inout("r8") prefetch.len() => _,
            inout("r11") groups - prefetch.len() => _,
            inout("r10") prefetch.as_ptr() => _,
            in("r9") sums,
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _,
            out("zmm5") _, out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _,
            out("zmm10") _, out("zmm11") _, out("zmm12") _, out("zmm13") _, out("zmm14") _,
            out("zmm15") _, out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
            out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _, out("zmm24") _,
            out("zmm25") _, out("zmm26") _, out("zmm27") _, out("zmm28") _, out("zmm29") _,
            out("zmm30") _, out("zmm31") _,
            options(nostack)
        );
    }
}

/// 64-byte dot products per iteration of [`peak`].
pub(crate) const PEAK_DOTS: usize = 16;

/// Computes `iterations` × [`PEAK_DOTS`] dot products in registers and stores one of the sums.
///
/// # Safety
/// The CPU must have AVX-512 F and VNNI.
#[inline(always)]
pub(crate) unsafe fn peak(iterations: usize, out: &mut Lanes) {
    // SAFETY: writes only `out`; all registers written are declared.
    unsafe {
        asm!(
            ".irp m, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16",
            "vpxord zmm\\m, zmm\\m, zmm\\m",
            ".endr",
            "test {iterations}, {iterations}",
            "jz 3f",
            "2:",
            ".irp m, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "vpdpbusd zmm\\m, zmm16, zmm16",
            ".endr",
            "dec {iterations}",
            "jnz 2b",
            "3:",
            "vcvtdq2ps zmm0, zmm0",
            "vmovups [{out}], zmm0",
            iterations = inout(reg) iterations => _,
            out = in(reg) out,
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _,
            out("zmm5") _, out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _,
            out("zmm10") _, out("zmm11") _, out("zmm12") _, out("zmm13") _, out("zmm14") _,
            out("zmm15") _, out("zmm16") _,
            options(nostack)
        );
    }
}
