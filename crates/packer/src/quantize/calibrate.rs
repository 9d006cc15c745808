//! What a conversion asks of calibration.

use std::collections::BTreeMap;
use std::ops::Range;

use nanoinfer_format::{Role, TensorSpec};

use super::hessian::Factor;

/// A matrix: its layer and its role. Q, K and V are parts of one matrix, as are gate and up; the output
/// matrix has the role `Output` even if it is also that of the embeddings.
pub type Matrix = (Option<u32>, Role);

/// The factors of matrices.
pub type Factors = BTreeMap<Matrix, Factor>;

/// The reason why calibration failed.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Provides the factors of a model's matrices. A matrix without a factor is quantized uncalibrated.
pub trait Calibrate {
    /// The factor of the output matrix.
    ///
    /// # Errors
    /// The calibration fails.
    fn output(&mut self) -> Result<Option<Factor>, Failure>;

    /// The factors of the next layers, at least one, from the first layer to the last.
    ///
    /// # Errors
    /// The calibration fails.
    fn next_layers(&mut self) -> Result<(Range<usize>, Factors), Failure>;

    /// Sees what was stored of a layer, before the factors of layers behind it are requested: consecutive
    /// parts of its tensors, in file order.
    fn stored(&mut self, spec: &TensorSpec, bytes: &[u8]) {
        let _ = (spec, bytes);
    }
}
