//! AMX int8: a matrix unit in addition to AVX-512 (Intel servers since 2023).
//!
//! Eight tile registers of 16 rows × 64 bytes; `tdpbssd` multiplies two of them into 16 × 16 sums.
//! Rust's intrinsics for it are not stable yet, so the few instructions needed are written in assembly.
//! The compiler itself never uses tile registers.
#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::cell::Cell;
use std::marker::PhantomData;

use crate::isa::matrix_unit::{Dots, Products, SignedLines, TokenLines};
use crate::layout::{GROUP, LANES, LINE, TOKENS};

// Hard-coded in the configuration and the assembly.
const _: () = assert!(TOKENS == 16 && LANES == 16 && GROUP == 64 && LINE == 64);

/// Palette 1, with 16 rows of 64 bytes in each tile register (Intel SDM, "Tile Configuration").
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

/// Enables AMX for this process. Returns false if the CPU or the system does not support it or the
/// system denies permission. Linux grants the 8 KiB of tile state only on request.
pub(crate) fn enable() -> bool {
    const TILE_AND_INT8: u32 = 1 << 24 | 1 << 25;
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    let has_leaf = |leaf| __cpuid(0).eax >= leaf;
    if !has_leaf(0x1d) || __cpuid_count(7, 0).edx & TILE_AND_INT8 != TILE_AND_INT8 {
        return false;
    }
    // OSXSAVE: XGETBV is available.
    if __cpuid(1).ecx & 1 << 27 == 0 {
        return false;
    }
    #[target_feature(enable = "xsave")]
    fn enabled_states() -> u64 {
        // SAFETY: register 0 always exists.
        unsafe { _xgetbv(0) }
    }
    // SAFETY: OSXSAVE is set, see above.
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
    // SAFETY: the call has two integer arguments and does not access our memory.
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

thread_local! {
    /// Whether this thread has a [`TileGuard`].
    static IS_CONFIGURED: Cell<bool> = const { Cell::new(false) };
}

/// The tile registers of this thread, configured as in [`CONFIG`]. Dropping the guard releases them,
/// which makes context switches cheap again.
///
/// The guard proves that tile instructions may be used, so it is `!Send` and unique per thread: if a
/// thread had two guards, dropping either would release the registers that both rely on.
pub(crate) struct TileGuard(PhantomData<*const ()>);

impl TileGuard {
    /// # Panics
    /// If this thread already has a guard.
    ///
    /// # Safety
    /// [`enable`] must have returned true.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        assert!(!IS_CONFIGURED.replace(true), "the matrix unit is already configured");
        // SAFETY: reads 64 bytes of a valid configuration.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly)) };
        Self(PhantomData)
    }
}

impl Drop for TileGuard {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: changes only tile registers, which nothing else on this thread uses.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
        IS_CONFIGURED.set(false);
    }
}

/// Products of 16 × 64 by 64 × 16 bytes per iteration of [`Products::peak`].
const PEAK_PRODUCTS: usize = 4;

impl Products for TileGuard {
    #[inline(always)]
    fn dots(&mut self, x: &TokenLines, w: &SignedLines, out: &mut Dots) {
        // SAFETY: `self` proves that tile registers are configured. Each operand has 16 rows of 64
        // bytes with a stride of 64, exactly the size of its array. Inputs bypass the L1 cache (`t1`) to
        // leave it to the panel.
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
                stride = in(reg) LINE,
                options(nostack)
            );
        }
    }

    #[inline(always)]
    fn peak(&mut self, x: &TokenLines, w: &SignedLines, products: usize, out: &mut Dots) {
        // SAFETY: as above; the loop accesses no memory.
        unsafe {
            asm!(
                "tileloadd tmm4, [{x} + {stride}*1]",
                "tileloadd tmm5, [{w} + {stride}*1]",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "test {iterations}, {iterations}",
                "jz 3f",
                "2:",
                "tdpbssd tmm0, tmm4, tmm5",
                "tdpbssd tmm1, tmm4, tmm5",
                "tdpbssd tmm2, tmm4, tmm5",
                "tdpbssd tmm3, tmm4, tmm5",
                "dec {iterations}",
                "jnz 2b",
                "3:",
                "tilestored [{out} + {stride}*1], tmm0",
                x = in(reg) x,
                w = in(reg) w,
                out = in(reg) out,
                stride = in(reg) LINE,
                iterations = inout(reg) products.div_ceil(PEAK_PRODUCTS) => _,
                options(nostack)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_cannot_hold_two_guards() {
        if !enable() {
            println!("skipped: this machine has no AMX");
            return;
        }
        // SAFETY: AMX is enabled.
        let open = || unsafe { TileGuard::new() };
        let first = open();
        assert!(std::panic::catch_unwind(open).is_err());
        drop(first);
        drop(open());
    }
}
