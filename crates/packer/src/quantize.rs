//! Quantization by trellis: from rotated rows to codes and row scales, with or without calibration.
//!
//! ```text
//! inputs of a layer ─► Hessian ─► Factor ─┐
//!                                         ├─► RowQuantizer ─► codes, scales ─► panels
//! rotated rows of its matrices ───────────┘
//! ```
//!
//! A matrix is quantized so that its outputs change as little as possible for inputs like those seen in
//! calibration; without calibration, so that its weights do. Inputs come as data: this crate runs no
//! model. The result has the same bytes for any number of threads and on any machine: all arithmetic is
//! that of the kernels or plain loops, and every sum has one order.

mod calibrate;
mod hessian;
mod rows;
mod threads;

pub use calibrate::{Calibrate, Factors, Matrix};
pub use hessian::{Factor, Hessian, strand_column};
pub use nanoinfer_kernels::{Isa, Kernels, Trellis};
pub use rows::{QuantizedRows, RowQuantizer};
