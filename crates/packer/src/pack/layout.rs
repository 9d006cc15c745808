//! The order of tensors in a file and of rows within each tensor.
//!
//! ```text
//! token_embd  rope_turns
//! per layer:  attn_norm  attn_qkv  attn_q_norm  attn_k_norm  attn_output  attn_post_norm
//!             ffn_norm  ffn_gate_up  ffn_down  ffn_post_norm      (those the model has, and biases)
//!             or, with experts:  ffn_norm  ffn_gate_inp  ffn_gate_up_exps  ffn_down_exps
//! output_norm  output (unless tied)
//!
//! attn_qkv     per KV head:  [ Q head … Q head | K head | V head ]   each padded to 16 rows
//! ffn_gate_up  alternating:  [ 16 gate rows | 16 up rows ] …
//! ```
//!
//! The list of tensors, and how their parts alternate, comes from the format's [`schema`].
//!
//! A KV head and its query heads are contiguous, so the thread that owns them streams one range of
//! memory and computes their whole attention. A gate panel and its up panel are combined in one
//! thread's registers.

use nanoinfer_format::{Config, Encoding, Entry, Kind, LANES, Part, Role, TensorSpec, pad, schema};

use crate::source::TensorSource;
use crate::weights::Weights;
use crate::weights::order::is_stacked;

/// A tensor of the file and the source of its rows.
pub(crate) struct Planned<'a> {
    pub(crate) spec: TensorSpec,
    pub(crate) body: Body<'a>,
}

pub(crate) enum Body<'a> {
    /// RoPE turns, already computed.
    Turns(&'a [u64]),
    /// Blocks of rows, one after the other.
    Rows { blocks: Vec<Block<'a>>, inputs: Inputs },
}

/// The layout of the inputs of a row.
#[derive(Clone, Copy)]
pub(crate) struct Inputs {
    /// Values read per row.
    pub(crate) logical: usize,
    /// Values stored per row.
    pub(crate) stored: usize,
    /// Each block of `.0` values is padded with zeros to `.1`.
    pub(crate) unit: (usize, usize),
}

/// Consecutive rows of one source tensor.
pub(crate) struct Block<'a> {
    /// `None` means zeros: only other parts of the fused tensor have a bias.
    pub(crate) source: Option<&'a dyn TensorSource>,
    pub(crate) first: usize,
    pub(crate) rows: usize,
    /// Number of stored rows; those after the first `rows` are zeros.
    pub(crate) padded: usize,
    /// Block size of the Hadamard transform across rows (not inputs); 1 = none.
    pub(crate) row_hadamard: usize,
    pub(crate) encoding: Encoding,
}

/// A source matrix, split into blocks of `rows` rows that are padded to `padded`.
struct Blocks<'a> {
    tensor: Option<&'a dyn TensorSource>,
    /// The matrix's first row in `tensor`, which may stack several matrices.
    start: usize,
    rows: usize,
    padded: usize,
    row_hadamard: usize,
    encoding: Encoding,
}

impl<'a> Blocks<'a> {
    /// Block `i` of a matrix of `n` rows; rows beyond `n` become padding.
    fn get(&self, i: usize, n: usize) -> Block<'a> {
        let first = (i * self.rows).min(n);
        let Self { tensor: source, padded, row_hadamard, encoding, .. } = *self;
        let rows = self.rows.min(n - first);
        Block { source, first: self.start + first, rows, padded, row_hadamard, encoding }
    }
}

/// All tensors of a file with this config, in order: the tensors of the schema, stored as `spec`
/// determines, and any biases. `weights` must have been checked with [`Weights::check`].
pub(crate) fn plan<'a>(
    c: &Config,
    weights: &'a Weights,
    turns: &'a [u64],
    spec: impl Fn(&Entry) -> TensorSpec,
) -> Vec<Planned<'a>> {
    let mut out = Vec::new();
    for entry in schema(c) {
        let spec = spec(&entry);
        let rows = Rows { c, weights, matrix: &spec };
        let bias = entry.bias_spec().filter(|_| rows.has_bias()).map(|spec| Planned {
            body: Body::Rows { blocks: rows.bias(&spec), inputs: ONE },
            spec,
        });
        let body = match entry.kind {
            Kind::Turns => Body::Turns(turns),
            Kind::Vector => Body::Rows { blocks: rows.norm(), inputs: ONE },
            Kind::Rows => Body::Rows { blocks: rows.plain(), inputs: Inputs::of(&spec) },
            Kind::Matrix | Kind::Router => {
                Body::Rows { blocks: rows.matrix(), inputs: Inputs::of(&spec) }
            }
        };
        out.push(Planned { spec, body });
        out.extend(bias);
    }
    out
}

/// A bias or norm is a matrix of one input.
const ONE: Inputs = Inputs { logical: 1, stored: 1, unit: (1, 1) };

impl Inputs {
    fn of(spec: &TensorSpec) -> Self {
        let (logical, stored) = (spec.logical[2] as usize, spec.stored[2] as usize);
        let unit = match spec.k_unit {
            (0, 0) => (logical, logical),
            (from, to) => (from as usize, to as usize),
        };
        Self { logical, stored, unit }
    }
}

/// Finds the rows of a tensor and of its bias.
struct Rows<'a, 'c> {
    c: &'c Config,
    weights: &'a Weights,
    matrix: &'c TensorSpec,
}

impl<'a> Rows<'a, '_> {
    fn bias_of(&self, role: Role) -> Option<&'a dyn TensorSource> {
        self.weights.get(self.matrix.layer, role, true)
    }

    /// Whether the tensor, or at least one of its parts, has a bias.
    fn has_bias(&self) -> bool {
        let parts = self.matrix.parts.iter().map(|p| p.role);
        parts.chain([self.matrix.role]).any(|role| self.bias_of(role).is_some())
    }

    /// A vector: one block, or one per head.
    fn vector(&self, tensor: Option<&'a dyn TensorSource>, spec: &TensorSpec) -> Vec<Block<'a>> {
        let Inputs { logical, stored, unit } = Inputs::of(spec);
        let padded = if spec.k_unit == (0, 0) { stored } else { unit.1 };
        let encoding = spec.encoding;
        let blocks = Blocks { tensor, start: 0, rows: unit.0, padded, row_hadamard: 1, encoding };
        (0..logical / unit.0).map(|i| blocks.get(i, logical)).collect()
    }

    fn norm(&self) -> Vec<Block<'a>> {
        let Self { weights, matrix, .. } = *self;
        self.vector(Some(weights.required(matrix.layer, matrix.role)), matrix)
    }

    /// A matrix that is stored row by row.
    fn plain(&self) -> Vec<Block<'a>> {
        let Self { weights, matrix, .. } = *self;
        let tensor = Some(weights.required(matrix.layer, matrix.role));
        let (n, encoding) = (matrix.logical[1] as usize, matrix.encoding);
        let all = Blocks { tensor, start: 0, rows: n, padded: n, row_hadamard: 1, encoding };
        vec![all.get(0, n)]
    }

    /// A bias is split into the same blocks as its matrix, expert by expert.
    fn bias(&self, spec: &TensorSpec) -> Vec<Block<'a>> {
        let [experts, n, _] = self.matrix.logical.map(|x| x as usize);
        let (encoding, tensor) = (spec.encoding, self.bias_of(self.matrix.role));
        let of_expert = |expert| {
            if !self.matrix.parts.is_empty() {
                return self.fused(Some(encoding), |role, n| (self.bias_of(role), expert * n));
            }
            if experts == 1 {
                return self.vector(tensor, spec);
            }
            let (start, padded) = (expert * n, self.matrix.stored[1] as usize);
            let blocks = Blocks { tensor, start, rows: n, padded, row_hadamard: 1, encoding };
            vec![blocks.get(0, n)]
        };
        (0..experts).flat_map(of_expert).collect()
    }

    /// The matrices of all experts, one after the other.
    fn matrix(&self) -> Vec<Block<'a>> {
        let [experts, n, _] = self.matrix.logical.map(|x| x as usize);
        let of_expert = |expert| {
            let find = |role, n| self.weight(role, expert, n);
            if !self.matrix.parts.is_empty() {
                return self.fused(None, find);
            }
            let (tensor, start) = find(self.matrix.role, n);
            let encoding = self.matrix.encoding;
            let blocks =
                Blocks { tensor, start, rows: LANES, padded: LANES, row_hadamard: 1, encoding };
            (0..n.div_ceil(LANES)).map(|i| blocks.get(i, n)).collect()
        };
        (0..experts).flat_map(of_expert).collect()
    }

    /// The tensor that contains the `n`-row matrix of an expert, and the matrix's first row in it.
    fn weight(&self, role: Role, expert: usize, n: usize) -> Located<'a> {
        let (weights, layer) = (self.weights, self.matrix.layer);
        let (tensor, start) = if is_stacked(role) {
            weights.of_expert(layer, role, expert, n)
        } else {
            (weights.required(layer, role), 0)
        };
        (Some(tensor), start)
    }

    /// The blocks of all parts, unit after unit. `find` locates a part of `n` rows; `encoding` overrides
    /// the encoding of the parts.
    fn fused(
        &self,
        encoding: Option<Encoding>,
        find: impl Fn(Role, usize) -> Located<'a>,
    ) -> Vec<Block<'a>> {
        let blocks_of = |p: &Part| {
            let (tensor, start) = find(p.role, p.n as usize);
            let (rows, encoding) = (p.rows as usize, encoding.unwrap_or(p.encoding));
            let row_hadamard =
                if p.role == Role::AttnV { self.c.value_rotation as usize } else { 1 };
            Blocks { tensor, start, rows, padded: pad(rows, LANES), row_hadamard, encoding }
        };
        let parts: Vec<_> = self.matrix.parts.iter().map(|p| (p, blocks_of(p))).collect();
        let mut blocks = Vec::new();
        for unit in 0..self.matrix.repeat as usize {
            for (part, source) in &parts {
                let (count, n) = (part.count as usize, part.n as usize);
                blocks.extend((0..count).map(|i| source.get(unit * count + i, n)));
            }
        }
        blocks
    }
}

/// A tensor (`None`: zeros) and a first row in it.
type Located<'a> = (Option<&'a dyn TensorSource>, usize);
