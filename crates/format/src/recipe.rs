//! The encoding of every matrix of a model: a recipe.
//!
//! ```text
//! q4            named: by role and layer                         Quant::encoding_in
//! 4.25          the best choice of that size                     allocate
//! PATTERN q5    exceptions, by name                              pattern
//! a file        the encodings that its tensor table states       NanoFile::recipe
//! ```

mod allocate;
mod pattern;

use std::collections::BTreeMap;

use crate::bits::Bits;
use crate::config::{Config, Quant};
use crate::encoding::Encoding;
use crate::file::NanoFile;
use crate::role::Role;
use crate::schema::{Entry, Kind, schema};
use crate::units::{LANES, pad};

/// The encoding of every matrix of a model, by layer and role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    quant: Quant,
    encodings: BTreeMap<(Option<u32>, Role), Encoding>,
}

/// Why a model cannot be stored in the encodings that were asked for.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The number of bits is out of range.
    #[error(
        "{asked} bits per weight: this model can have {least} to {most}; choose a number in this range"
    )]
    Range {
        /// The number asked for.
        asked: Bits,
        /// The smallest number that this model can have.
        least: Bits,
        /// The largest number that a coded model can have: all matrices in 8 bits.
        most: Bits,
    },
    /// A line of exceptions cannot be applied.
    #[error("line {line}: {what}")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong, and what to write instead.
        what: String,
    },
}

/// Bits per weight, scales and padding included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BitsPerWeight {
    /// Of the matrices in layers.
    pub layers: f64,
    /// Of all matrices that a pass over one token reads: those in layers and the output matrix. Of
    /// experts, only the chosen ones are read, and of embeddings that are not the output matrix, one row.
    pub read: f64,
}

/// A matrix: a tensor, or a part of a fused tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixShape {
    /// Layer, or `None` for embeddings and output.
    pub layer: Option<u32>,
    /// Role of the matrix.
    pub role: Role,
    /// Role of the tensor that contains it.
    pub tensor: Role,
    /// Number of weights, without padding, in all experts.
    pub weights: u64,
    /// Number of panels, in all experts.
    pub panels: u64,
    /// Stored inputs.
    pub k: usize,
}

impl MatrixShape {
    /// Stored size in bytes.
    pub fn bytes(&self, encoding: Encoding) -> u64 {
        encoding.panel_bytes(self.k).map_or(0, |bytes| self.panels.saturating_mul(bytes as u64))
    }
}

/// The matrices of a model that a recipe gives an encoding, in file order.
pub fn matrices(c: &Config) -> impl Iterator<Item = MatrixShape> {
    schema(c).filter(|entry| entry.kind == Kind::Matrix).flat_map(|entry| parts(&entry))
}

fn parts(entry: &Entry) -> Vec<MatrixShape> {
    let [experts, n, k] = entry.logical.map(u64::from);
    let shape = |role, n: u64, stored: u64| MatrixShape {
        layer: entry.layer,
        role,
        tensor: entry.role,
        weights: experts * n * k,
        panels: experts * stored / LANES as u64,
        k: entry.stored[2] as usize,
    };
    if entry.parts.is_empty() {
        return vec![shape(entry.role, n, entry.stored[1].into())];
    }
    let stored =
        |count: u32, rows: u32| u64::from(entry.repeat * count) * pad(rows as usize, LANES) as u64;
    entry.parts.iter().map(|p| shape(p.role, p.n.into(), stored(p.count, p.rows))).collect()
}

impl Recipe {
    /// The recipe with this name.
    pub fn of(quant: Quant, c: &Config) -> Self {
        let encoding = |m: &MatrixShape| quant.encoding_in(m.role, m.layer, c.n_layers);
        let encodings = matrices(c).map(|m| ((m.layer, m.role), encoding(&m))).collect();
        Self { quant, encodings }
    }

    /// The recipe that stores every matrix as `encoding` returns.
    pub fn new(c: &Config, encoding: impl Fn(&MatrixShape) -> Encoding) -> Self {
        let encodings = matrices(c).map(|m| ((m.layer, m.role), encoding(&m))).collect();
        Self { quant: label(c, &encodings), encodings }
    }

    /// The encoding of a matrix, or of a part of a fused one; q8 for a matrix that is not listed.
    pub fn encoding(&self, layer: Option<u32>, role: Role) -> Encoding {
        self.encodings.get(&(layer, role)).copied().unwrap_or(Encoding::Q8Panel)
    }

    /// The name of the recipe, or else of the encoding that most weights in layers have: the label that
    /// a file states. It is f32 only if all matrices are f32.
    pub fn quant(&self) -> Quant {
        self.quant
    }

    /// The label, followed by the bits per weight that a pass reads if the encodings are not those that the label
    /// names: `q4`, or `q4 · 4.48 bits`.
    pub fn summary(&self, c: &Config) -> String {
        let name = self.quant.name();
        match *self == Self::of(self.quant, c) {
            true => name.to_owned(),
            false => format!("{name} · {:.2} bits", self.bits(c).read),
        }
    }

    /// Whether any matrix is trellis-coded, and therefore better if calibrated.
    pub fn is_coded(&self) -> bool {
        self.encodings.values().any(|e| e.trellis_bits().is_some())
    }

    /// Size in bytes of all matrices.
    pub fn bytes(&self, c: &Config) -> u64 {
        let bytes = |m: MatrixShape| m.bytes(self.encoding(m.layer, m.role));
        matrices(c).map(bytes).fold(0, u64::saturating_add)
    }

    /// Bits per weight.
    pub fn bits(&self, c: &Config) -> BitsPerWeight {
        let (mut layers, mut read) = (Size::default(), Size::default());
        for m in matrices(c) {
            let size = Size::read(c, &m, self.encoding(m.layer, m.role));
            read.add(size);
            if m.layer.is_some() {
                layers.add(size);
            }
        }
        BitsPerWeight { layers: layers.bits(), read: read.bits() }
    }
}

/// The matrices that a pass reads.
#[derive(Clone, Copy, Default)]
struct Size {
    weights: u128,
    bytes: u128,
}

impl Size {
    /// What a pass over one token reads of a matrix.
    fn read(c: &Config, m: &MatrixShape, encoding: Encoding) -> Self {
        let read = |all| u128::from(c.read_bytes(m.tensor, all, 1));
        Self { weights: read(m.weights), bytes: read(m.bytes(encoding)) }
    }

    fn add(&mut self, other: Self) {
        self.weights += other.weights;
        self.bytes += other.bytes;
    }

    fn bits(self) -> f64 {
        8.0 * self.bytes as f64 / self.weights.max(1) as f64
    }
}

/// The name for these encodings: see [`Recipe::quant`].
fn label(c: &Config, encodings: &BTreeMap<(Option<u32>, Role), Encoding>) -> Quant {
    let mut weights = [0u128; Quant::ALL.len()];
    for m in matrices(c).filter(|m| m.layer.is_some()) {
        let quant = encodings.get(&(m.layer, m.role)).and_then(|&e| Quant::of_encoding(e));
        let at = Quant::ALL.iter().position(|&q| Some(q) == quant);
        weights[at.unwrap_or(0)] += u128::from(m.weights);
    }
    if encodings.values().all(|&e| e == Encoding::F32Panel) {
        return Quant::F32;
    }
    let rotated = Quant::ALL.into_iter().zip(weights).skip(1).rev(); // the last maximum wins
    rotated.max_by_key(|&(_, weights)| weights).map_or(Quant::Q8, |(quant, _)| quant)
}

impl Quant {
    /// The encoding with the same name.
    pub fn own_encoding(self) -> Encoding {
        match self {
            Self::F32 => Encoding::F32Panel,
            Self::Q8 => Encoding::Q8Panel,
            Self::Q5 => Encoding::Q5Panel,
            Self::Q4 => Encoding::Q4Panel,
            Self::Q3 => Encoding::Q3Panel,
            Self::Q2 => Encoding::Q2Panel,
        }
    }

    /// The name of a panel encoding.
    pub fn of_encoding(encoding: Encoding) -> Option<Self> {
        Self::ALL.into_iter().find(|quant| quant.own_encoding() == encoding)
    }
}

impl NanoFile {
    /// The encodings of the file's matrices.
    pub fn recipe(&self) -> Recipe {
        let stored = |m: &MatrixShape| {
            let spec = &self.tensor(m.tensor, m.layer)?.spec;
            Some(spec.encoding_of(m.role))
        };
        let recipe = Recipe::new(self.config(), |m| stored(m).unwrap_or(Encoding::Q8Panel));
        Recipe { quant: self.config().quant, ..recipe }
    }
}
