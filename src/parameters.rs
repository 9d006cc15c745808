//! Number of parameters of a model.

use nanoinfer_format::{Encoding, NanoFile};

/// Number of logical weights in a file, excluding padding and derived tables.
pub(crate) fn parameters(file: &NanoFile) -> u64 {
    let weights = file.tensors().iter().filter(|t| t.spec.encoding != Encoding::U64);
    weights.map(|t| t.spec.logical.iter().map(|&d| u64::from(d)).product::<u64>()).sum()
}
