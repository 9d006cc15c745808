//! Buffers of the steps of recurrent layers.

use nanoinfer_format::Recurrent;
use nanoinfer_kernels::LANES;

use crate::pool::Buffers;

/// Buffers of one worker; empty without recurrent layers.
pub(crate) struct RecurrentScratch {
    pub window: Vec<f32>,  // [kernel - 1 + tokens][16], inputs of a convolution
    pub out: Vec<f32>,     // [tokens][16]
    pub queries: Vec<f32>, // [tokens][key], of one head
    pub keys: Vec<f32>,    // the same
    pub values: Vec<f32>,  // [tokens][16]
    pub beta: Vec<f32>,    // [tokens]
    pub decay: Vec<f32>,   // [tokens]
    pub state: Vec<f32>,   // [key][16]
    /// The norm's weights of queries and of keys, all the same, `[2][key]`.
    pub units: Vec<f32>,
}

impl RecurrentScratch {
    pub(crate) fn new(b: &mut Buffers<'_>, r: Option<&Recurrent>, tokens: usize) -> Self {
        let own = |b: &mut Buffers<'_>, len: fn(&Recurrent, usize) -> usize| {
            b.own(r.map_or(0, |r| len(r, tokens)))
        };
        Self {
            window: own(b, |r, m| (r.kernel as usize - 1 + m) * LANES),
            out: own(b, |_, m| m * LANES),
            queries: own(b, |r, m| m * r.key_dim as usize),
            keys: own(b, |r, m| m * r.key_dim as usize),
            values: own(b, |r, m| if r.has_matrix() { m * LANES } else { 0 }),
            beta: own(b, |r, m| if r.has_matrix() { m } else { 0 }),
            decay: own(b, |r, m| if r.has_matrix() { m } else { 0 }),
            state: own(b, |r, _| r.key_dim as usize * LANES),
            units: own(b, |r, _| 2 * r.key_dim as usize),
        }
    }
}
