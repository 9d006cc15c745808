//! Fused multiply-add for targets whose baseline lacks the instruction.
//!
//! There, `f32::mul_add` calls the C library, and not every C library rounds only once (mingw's result
//! is incorrect for a third of all inputs). A product of two f32 is exact in f64, but adding `c` in f64 and
//! rounding to f32 would round twice: a sum just off the midpoint of two f32 values first lands on
//! the midpoint, and the tie is then broken by parity alone. Rounding the first sum *to odd* avoids this
//! (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using
//! rounding to odd", IEEE Transactions on Computers, 2008): an inexact sum is truncated and its
//! last bit set, so it stays on its side of every tie in the narrower format. The result is correctly
//! rounded because f64 has at least two more bits than f32 wherever f32 rounds, including subnormals, and
//! because no product or sum of f32 values overflows or underflows in f64.

/// a·b + c, rounded once, on every target. The bits of a NaN result are unspecified.
///
/// Uses the FMA instruction if the build's baseline has it, otherwise branch-free f64 arithmetic that the
/// compiler can vectorize.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        a.mul_add(b, c)
    } else {
        fma_by_rounding_to_odd(a, b, c)
    }
}

#[inline(always)]
fn fma_by_rounding_to_odd(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    // Rounding error of the sum (2Sum: Knuth, TAOCP 2, 4.2.2, theorem B); NaN if anything is infinite.
    let rest = sum - product;
    let lost = (product - (sum - rest)) + (c - rest);
    let inexact = u64::from(lost.abs() > 0.0);
    // An error of opposite sign means the sum was rounded away from zero: step back to truncate it.
    let away = (sum.to_bits() ^ lost.to_bits()) >> 63 & inexact;
    f64::from_bits((sum.to_bits() - away) | inexact) as f32
}

#[cfg(test)]
mod tests {
    #![allow(unsafe_code)] // the hardware instruction, for comparison

    use super::{fma, fma_by_rounding_to_odd};

    /// Asserts that every implementation returns `want`, bit for bit; all NaNs count as equal.
    fn assert_is(a: f32, b: f32, c: f32, want: f32) {
        let instruction = hardware().map_or(want, |hardware| hardware(a, b, c));
        for got in [fma(a, b, c), fma_by_rounding_to_odd(a, b, c), instruction] {
            let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
            assert!(same, "{a:e} · {b:e} + {c:e}: {got:e}, expected {want:e}");
        }
    }

    #[test]
    fn known_cases() {
        let power = |n: i32| f32::from_bits(((127 + n) as u32) << 23);
        let (tiny, up) = (f32::from_bits(1), 1.0 + f32::EPSILON);
        // 1 + 2⁻²⁴ is the midpoint of 1 and the next float; the slightest deviation decides.
        assert_is(1.0, power(-24), 1.0, 1.0);
        assert_is(up, power(-24), 1.0, up);
        assert_is(1.0 - f32::EPSILON / 2.0, power(-24), 1.0, 1.0);
        assert_is(power(-24), 1.0, up, up + f32::EPSILON); // a tie, to even
        assert_is(power(-75), power(-75), 1.0 + power(-23), up);
        // The square of 1 + 2⁻²³ keeps its last term.
        assert_is(up, up, -1.0, power(-22) + power(-46));
        assert_is(up, up, -(1.0 + power(-22)), power(-46));
        assert_is(-up, up, 1.0 + power(-22), -power(-46));
        let bits = f32::from_bits;
        // Known failures of software implementations: compiler-builtins issue 1262, openlibm issue
        // 160, and the Windows C library (cpp-docs pull request 3526).
        assert_is(bits(0x9700_0800), bits(0x1cff_f001), bits(0x0001_0002), bits(0x0001_0001));
        assert_is(0.9474001, 4.639901e-7, -0.24325085, bits(0xbe79_16a3));
        assert_is(-1.9369631e13, 2.1513551e-7, -1.7354427e-24, -4.167_095_8e6);
        // Half the smallest subnormal, and values just above and below.
        assert_is(tiny, 0.5, 0.0, 0.0);
        assert_is(tiny, 0.5, tiny, bits(2));
        assert_is(tiny, 0.5f32.next_up(), 0.0, tiny);
        assert_is(tiny, -0.5, tiny, 0.0);
        assert_is(tiny, -tiny, tiny, tiny);
        assert_is(tiny, -tiny, power(-126), power(-126));
        assert_is(power(-126), 0.5, tiny, bits(0x0040_0001));
        // The edge of overflow: half a step above the largest float rounds to infinity.
        assert_is(f32::MAX, 1.0, power(102), f32::MAX);
        assert_is(f32::MAX, 1.0, power(103), f32::INFINITY);
        assert_is(f32::MAX, 1.0, power(103).next_down(), f32::MAX);
        assert_is(f32::MAX, 2.0, -f32::MAX, f32::MAX);
        assert_is(f32::MAX, f32::MAX, -f32::MAX, f32::INFINITY);
        // Signs of zero.
        assert_is(1.0, -1.0, 1.0, 0.0);
        assert_is(0.0, -1.0, -0.0, -0.0);
        assert_is(0.0, -1.0, 0.0, 0.0);
        assert_is(tiny, -tiny, -0.0, -0.0);
        assert_is(-0.0, -0.0, -0.0, 0.0);
        // Infinities and NaN.
        assert_is(f32::INFINITY, 2.0, 1.0, f32::INFINITY);
        assert_is(f32::INFINITY, -2.0, f32::MAX, f32::NEG_INFINITY);
        assert_is(1.0, 1.0, f32::NEG_INFINITY, f32::NEG_INFINITY);
        assert_is(f32::INFINITY, 1.0, f32::NEG_INFINITY, f32::NAN);
        assert_is(f32::INFINITY, 0.0, 1.0, f32::NAN);
        assert_is(f32::NAN, 0.0, 1.0, f32::NAN);
        assert_is(1.0, f32::NAN, 1.0, f32::NAN);
        assert_is(1.0, 1.0, f32::NAN, f32::NAN);
    }

    /// The hardware instruction, if the CPU has it.
    fn hardware() -> Option<fn(f32, f32, f32) -> f32> {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_mm_cvtss_f32, _mm_fmadd_ss, _mm_set_ss};
            #[target_feature(enable = "fma")]
            fn instruction(a: f32, b: f32, c: f32) -> f32 {
                _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)))
            }
            // SAFETY: returned only if the CPU has the instruction.
            let call = |a, b, c| unsafe { instruction(a, b, c) };
            is_x86_feature_detected!("fma").then_some(call)
        }
        #[cfg(target_arch = "aarch64")]
        {
            Some(f32::mul_add)
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            None
        }
    }

    #[test]
    fn matches_the_instruction_on_random_bits() {
        let Some(hardware) = hardware() else {
            println!("skipped: this CPU has no FMA instruction");
            return;
        };
        let mut state = 0x0139_408d_cbbf_7a44_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u32
        };
        // One of the 2^`bits` exponents starting at `low`.
        let scaled = |x: u32, low: u32, bits: u32| {
            (x & 0x807f_ffff) | (low + (x >> 23 & ((1 << bits) - 1))) << 23
        };
        let (any, near_one) = (|x: u32| x, |x| scaled(x, 112, 5));
        let small = |x| scaled(x, 20, 6); // products are (nearly) subnormal
        let subnormal = |x: u32| x & 0x80ff_ffff;
        let few_bits = |x: u32| x & 0xff80_0fff; // sums are often ties
        let few_near_one = |x| few_bits(near_one(x));
        let kinds: [[&dyn Fn(u32) -> u32; 3]; 6] = [
            [&any; 3],
            [&near_one; 3],
            [&small, &small, &subnormal],
            [&subnormal, &near_one, &subnormal],
            [&few_bits; 3],
            [&few_near_one; 3],
        ];
        for kind in kinds {
            for _ in 0..5_000_000 {
                let [a, b, c] = kind.map(|number| f32::from_bits(number(next())));
                assert_is(a, b, c, hardware(a, b, c));
            }
        }
    }
}
