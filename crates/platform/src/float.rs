//! The floating-point environment of a thread. One of the project's few modules with `unsafe`: neither a
//! library nor safe code can access the control register.
#![allow(unsafe_code)]

/// Resets this thread to round-to-nearest without flushing subnormals, as Rust assumes. A host program
/// may have changed these settings, and results must not depend on them.
///
/// Sets MXCSR on x86-64 and FPCR on aarch64; does nothing on other architectures.
pub fn reset() {
    #[cfg(target_arch = "x86_64")]
    {
        let default: u32 = 0x1f80;
        // SAFETY: loads the documented power-on value of MXCSR, which Rust assumes.
        unsafe {
            std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const default, options(nostack, readonly))
        };
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: Rust assumes FPCR to be all zeros: round to nearest, no flushing, no traps. The register
    // belongs to the thread and can be written without privileges.
    unsafe {
        std::arch::asm!("msr fpcr, xzr", options(nostack, nomem))
    };
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;
    use std::hint::black_box;

    /// Flushes subnormals and rounds up, as a host program might.
    #[cfg(target_arch = "x86_64")]
    fn disturb() {
        let other: u32 = 0x1f80 | 1 << 15 | 1 << 6 | 0b10 << 13;
        // SAFETY: a valid value for MXCSR with all exceptions masked; reset before the test ends.
        unsafe {
            std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const other, options(nostack, readonly))
        };
    }

    #[cfg(target_arch = "aarch64")]
    fn disturb() {
        // SAFETY: a valid value for FPCR without traps; reset before the test ends.
        unsafe {
            std::arch::asm!("msr fpcr, {:x}", in(reg) 1u64 << 24 | 0b01 << 22, options(nostack, nomem))
        };
    }

    /// A subnormal product and an inexact sum.
    fn results() -> (f32, f32) {
        let halved = black_box(f32::MIN_POSITIVE) * black_box(0.5);
        (black_box(halved), black_box(black_box(1.0f32) + black_box(1e-10)))
    }

    #[test]
    fn reset_restores_the_environment_rust_assumes() {
        disturb();
        let disturbed = results();
        reset();
        let (halved, sum) = results();
        assert_eq!(disturbed.0.to_bits(), 0, "the environment was not changed");
        assert!(disturbed.1 > 1.0, "the environment was not changed");
        assert_eq!(halved.to_bits(), 0x0040_0000);
        assert_eq!(sum.to_bits(), 1.0f32.to_bits());
    }
}
