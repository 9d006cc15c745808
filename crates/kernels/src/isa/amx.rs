//! AMX int8: a matrix unit beside AVX-512 (Intel servers since 2023).
//!
//! Eight tile registers of 16 rows × 64 bytes; `tdpbssd` multiplies two of them into 16 × 16 sums.
//! Rust's intrinsics for it are not stable yet, so the few instructions are written as assembly.
//! The compiler itself never uses tile registers.
#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

use crate::matrix::Dots;

/// Palette 1, every tile register 16 rows of 64 bytes (Intel SDM, "Tile Configuration").
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: TileConfig = TileConfig {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Whether CPU and system have it, and the system lets this process use it. Asks for it: Linux
/// gives the 8 KiB of tile state only to processes that want them.
pub(crate) fn enable() -> bool {
    const TILE_AND_INT8: u32 = 1 << 24 | 1 << 25;
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    let has_leaf = |leaf| __cpuid(0).eax >= leaf;
    if !has_leaf(0x1d) || __cpuid_count(7, 0).edx & TILE_AND_INT8 != TILE_AND_INT8 {
        return false;
    }
    // OSXSAVE: XGETBV may be used.
    if __cpuid(1).ecx & 1 << 27 == 0 {
        return false;
    }
    #[target_feature(enable = "xsave")]
    fn enabled_states() -> u64 {
        // SAFETY: register 0 always exists.
        unsafe { _xgetbv(0) }
    }
    // SAFETY: the system uses XSAVE, see above.
    if unsafe { enabled_states() } & TILE_STATE != TILE_STATE {
        return false;
    }
    cfg!(target_os = "linux") && request_permission()
}

/// arch_prctl(ARCH_REQ_XCOMP_PERM, tile data), for all threads of the process.
fn request_permission() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let result: i64;
    // SAFETY: the call takes two numbers and touches no memory of ours.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") REQUEST,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack)
        );
    }
    result == 0
}

/// Sets the tile registers up.
///
/// # Safety
/// [`enable`] must have returned true.
#[inline(always)]
pub(crate) unsafe fn open() {
    // SAFETY: reads 64 bytes of a valid configuration.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly)) };
}

/// Gives the tile registers back, which makes context switches cheap again.
///
/// # Safety
/// [`enable`] must have returned true.
#[inline(always)]
pub(crate) unsafe fn close() {
    // SAFETY: changes tile registers only.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// out[m][r] = Σᵢ x[m][i] · w[i/4][4r + i%4], exact.
///
/// # Safety
/// Between [`open`] and [`close`].
#[inline(always)]
pub(crate) unsafe fn dots(x: &[[i8; 64]; 16], w: &[[i8; 64]; 16], out: &mut Dots) {
    // SAFETY: each operand is 16 rows of 64 bytes, 64 apart: exactly the arrays. Activations are
    // read past the L1 cache (`t1`), where the panel should stay.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tileloaddt1 tmm1, [{x} + {stride}*1]",
            "tileloadd tmm2, [{w} + {stride}*1]",
            "tdpbssd tmm0, tmm1, tmm2",
            "tilestored [{out} + {stride}*1], tmm0",
            x = in(reg) x,
            w = in(reg) w,
            out = in(reg) out,
            stride = in(reg) 64usize,
            options(nostack)
        );
    }
}

/// Turns of [`peak`] do this many products of 16 × 64 by 64 × 16 bytes.
pub(crate) const PEAK_PRODUCTS: usize = 4;

/// Multiplies two tiles that stay in registers, `turns` times [`PEAK_PRODUCTS`]; one of the sums.
///
/// # Safety
/// Between [`open`] and [`close`].
#[inline(always)]
pub(crate) unsafe fn peak(x: &[[i8; 64]; 16], w: &[[i8; 64]; 16], turns: usize, out: &mut Dots) {
    // SAFETY: each operand is 16 rows of 64 bytes, 64 apart: exactly the arrays.
    unsafe {
        asm!(
            "tileloadd tmm4, [{x} + {stride}*1]",
            "tileloadd tmm5, [{w} + {stride}*1]",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "test {turns}, {turns}",
            "jz 3f",
            "2:",
            "tdpbssd tmm0, tmm4, tmm5",
            "tdpbssd tmm1, tmm4, tmm5",
            "tdpbssd tmm2, tmm4, tmm5",
            "tdpbssd tmm3, tmm4, tmm5",
            "dec {turns}",
            "jnz 2b",
            "3:",
            "tilestored [{out} + {stride}*1], tmm0",
            x = in(reg) x,
            w = in(reg) w,
            out = in(reg) out,
            stride = in(reg) 64usize,
            turns = inout(reg) turns => _,
            options(nostack)
        );
    }
}
