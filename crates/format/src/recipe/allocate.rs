//! The best encodings for a number of bits per weight.
//!
//! Each bit that a matrix loses multiplies its share of the error by four (6 dB), so the first bits are
//! worth most. Starting from 2 bits everywhere, the step that saves the most error per byte is taken until
//! no other fits. What a step saves was measured: the KL divergence of a model of 30 million parameters
//! in which one role has 4 bits and all others 8, per share of the weights in layers.

use std::collections::BTreeMap;

use super::{Bits, MatrixShape, Recipe, RecipeError, Size, label, matrices};
use crate::config::{Config, Quant};
use crate::encoding::Encoding;
use crate::role::Role;

/// The encodings of a matrix, with the bits that count for its error.
const STEPS: [(Encoding, i32); 5] = [
    (Encoding::Q2Panel, 2),
    (Encoding::Q3Panel, 3),
    (Encoding::Q4Panel, 4),
    (Encoding::Q5Panel, 5),
    (Encoding::Q8Panel, 8),
];

/// Matrices that get the same encoding.
struct Group {
    matrices: Vec<MatrixShape>,
    /// Error at 4 bits, up to a common factor.
    error: f64,
}

/// A more precise encoding of a group.
struct Step {
    group: usize,
    /// Index of the encoding in [`STEPS`].
    to: usize,
    /// Error saved per byte.
    gain: f64,
    /// Additional bytes that a pass reads.
    bytes: u128,
}

impl Recipe {
    /// The recipe with the smallest expected error among those that have at most `bits` bits per weight,
    /// counting everything that a pass over one token reads ([`BitsPerWeight::read`](super::BitsPerWeight)).
    ///
    /// # Errors
    /// The model cannot have so few bits or so many.
    pub fn with_bits(bits: Bits, c: &Config) -> Result<Self, RecipeError> {
        let (groups, kept, tables) = groups(c);
        let total = |step: usize| {
            let mut size = Size::default();
            kept.iter().for_each(|m| size.add(Size::read(c, m, Encoding::F32Panel)));
            groups.iter().for_each(|g| size.add(g.size(c, step)));
            size
        };
        let fewest = total(0);
        let least = Bits::at_least(fewest.bits());
        let most = Bits::at_least(total(STEPS.len() - 1).bits());
        if bits < least || bits > most {
            return Err(RecipeError::Range { asked: bits, least, most });
        }
        let room = bits.bytes(fewest.weights).saturating_sub(fewest.bytes);
        let chosen = choose(c, &groups, room);
        let mut encodings = BTreeMap::new();
        for (group, step) in groups.iter().zip(chosen) {
            encodings.extend(group.matrices.iter().map(|m| ((m.layer, m.role), STEPS[step].0)));
        }
        encodings.extend(kept.iter().map(|m| ((m.layer, m.role), Encoding::F32Panel)));
        let quant = label(c, &encodings);
        encodings.extend(tables.iter().map(|m| ((m.layer, m.role), quant.own_encoding())));
        Ok(Self { quant, encodings })
    }
}

/// The step of every group, for at most `room` bytes more than the least. More room never means fewer
/// bytes: at the first difference, the larger room takes a step that exceeds the smaller room.
fn choose(c: &Config, groups: &[Group], mut room: u128) -> Vec<usize> {
    let mut steps: Vec<Step> = Vec::new();
    for (i, group) in groups.iter().enumerate() {
        steps.extend((1..STEPS.len()).map(|to| {
            let bytes = group.size(c, to).bytes - group.size(c, to - 1).bytes;
            let gain = (group.error(to - 1) - group.error(to)) / bytes.max(1) as f64;
            Step { group: i, to, gain, bytes }
        }));
    }
    // Stable, so that among equal steps the first layers come first.
    steps.sort_by(|a, b| b.gain.total_cmp(&a.gain));
    let mut chosen = vec![0; groups.len()];
    for step in steps {
        if chosen[step.group] + 1 == step.to && step.bytes <= room {
            room -= step.bytes;
            chosen[step.group] = step.to;
        }
    }
    chosen
}

impl Group {
    /// What a pass reads of it.
    fn size(&self, c: &Config, step: usize) -> Size {
        let mut size = Size::default();
        self.matrices.iter().for_each(|m| size.add(Size::read(c, m, STEPS[step].0)));
        size
    }

    fn error(&self, step: usize) -> f64 {
        self.error * 4f64.powi(4 - STEPS[step].1)
    }
}

/// The matrices by layer, those that stay f32, and tables of which a pass reads single rows, so that their size does not
/// matter here. Gate and up go together, because their panels alternate, and so do embeddings and output matrix.
fn groups(c: &Config) -> (Vec<Group>, Vec<MatrixShape>, Vec<MatrixShape>) {
    let mut groups = BTreeMap::new();
    let (kept, others): (Vec<_>, Vec<_>) = matrices(c).partition(|m| Quant::KEPT.contains(&m.role));
    let (tables, others): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|m| m.role == Role::LayerEmbd);
    for m in others {
        let role = match m.role {
            Role::TokenEmbd => Role::Output,
            Role::FfnGate => Role::FfnUp,
            Role::FfnGateExperts => Role::FfnUpExperts,
            role => role,
        };
        let group =
            groups.entry((m.layer, role)).or_insert(Group { matrices: Vec::new(), error: 0.0 });
        // The first layer's errors pass through all others.
        let first = if m.layer == Some(0) { 2.0 } else { 1.0 };
        let weights = Size::read(c, &m, Encoding::Q8Panel).weights as f64;
        group.error += first * sensitivity(m.role) * weights;
        group.matrices.push(m);
    }
    (groups.into_values().collect(), kept, tables)
}

/// KL divergence at 4 bits, if all weights in layers were of this role.
fn sensitivity(role: Role) -> f64 {
    match role {
        Role::AttnV => 0.25,
        Role::AttnK => 0.11,
        Role::TokenEmbd | Role::Output => 0.071,
        Role::FfnDown | Role::FfnDownExperts => 0.068,
        Role::FfnGate | Role::FfnGateExperts => 0.061,
        Role::AttnOutput => 0.057,
        Role::FfnUp | Role::FfnUpExperts => 0.044,
        Role::AttnQ => 0.02,
        _ => 0.06,
    }
}
