//! Loops that measure the limits of a machine. For benchmarks only; the API is not stable.
//!
//! They determine the roofline that benchmark results are compared with (Williams et al., "Roofline",
//! 2009).

pub use crate::peak::{PeakDots, ReadLines};
use crate::table::Kernels;

/// Reads memory as fast as the instruction set of `kernels` can.
///
/// # Panics
/// If the slices do not have the documented sizes.
pub fn read_lines(kernels: &Kernels, args: ReadLines<'_>) {
    kernels.read_lines(args);
}

/// Multiplies bytes as fast as the instruction set of `kernels` can.
pub fn peak_dots(kernels: &Kernels, args: PeakDots<'_>) {
    kernels.peak_dots(args);
}
