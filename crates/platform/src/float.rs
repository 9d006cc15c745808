//! The floating-point environment of a thread. One of the project's few places with `unsafe`:
//! no library and no safe code reaches the register that holds it.
#![allow(unsafe_code)]

/// Sets this thread's rounding to nearest and turns the flushing of denormals off, as Rust assumes:
/// a host program may have set something else, and bits must agree whatever it set.
///
/// MXCSR on x86-64, FPCR on aarch64. On other architectures nothing is set.
pub fn reset() {
    #[cfg(target_arch = "x86_64")]
    {
        let default: u32 = 0x1f80;
        // SAFETY: loads the documented power-on value of MXCSR, the one Rust assumes.
        unsafe {
            std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const default, options(nostack, readonly))
        };
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: all zeros is the value of FPCR that Rust assumes: round to nearest, no flushing, no
    // traps. The register is the thread's own and can be written without privileges.
    unsafe {
        std::arch::asm!("msr fpcr, xzr", options(nostack, nomem))
    };
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;
    use std::hint::black_box;

    /// Flushes denormals and rounds up, as a host program might.
    #[cfg(target_arch = "x86_64")]
    fn disturb() {
        let other: u32 = 0x1f80 | 1 << 15 | 1 << 6 | 0b10 << 13;
        // SAFETY: a valid value of MXCSR with all exceptions masked; reset before the test ends.
        unsafe {
            std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const other, options(nostack, readonly))
        };
    }

    #[cfg(target_arch = "aarch64")]
    fn disturb() {
        // SAFETY: a valid value of FPCR without traps; reset before the test ends.
        unsafe {
            std::arch::asm!("msr fpcr, {:x}", in(reg) 1u64 << 24 | 0b01 << 22, options(nostack, nomem))
        };
    }

    /// A product that is denormal, and a sum that is not exact.
    fn results() -> (f32, f32) {
        let halved = black_box(f32::MIN_POSITIVE) * black_box(0.5);
        (black_box(halved), black_box(black_box(1.0f32) + black_box(1e-10)))
    }

    #[test]
    fn results_are_again_as_rust_assumes() {
        disturb();
        let disturbed = results();
        reset();
        let (halved, sum) = results();
        assert_eq!(disturbed.0.to_bits(), 0, "the test disturbs nothing");
        assert!(disturbed.1 > 1.0, "the test disturbs nothing");
        assert_eq!(halved.to_bits(), 0x0040_0000);
        assert_eq!(sum.to_bits(), 1.0f32.to_bits());
    }
}
