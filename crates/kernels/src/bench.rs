//! Loops that measure the limits of a machine: for benchmarks only, without a stability promise.
//!
//! They set the roof under which a benchmark shows its results (Williams et al., "Roofline", 2009).

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
