//! Which source rows go where: the order of tensors in a file and of rows within each.
//!
//! ```text
//! token_embd  rope_turns
//! per layer:  attn_norm  attn_qkv  attn_q_norm  attn_k_norm  attn_output  attn_post_norm
//!             ffn_norm  ffn_gate_up  ffn_down  ffn_post_norm      (what the model has, + biases)
//!             or, with experts:  ffn_norm  ffn_gate_inp  ffn_gate_up_exps  ffn_down_exps
//! output_norm  output (unless tied)
//!
//! attn_qkv     per KV head:  [ Q head … Q head | K head | V head ]   each padded to 16 rows
//! ffn_gate_up  alternating:  [ 16 gate rows | 16 up rows ] …
//! ```
//!
//! What tensors there are and how their parts alternate, the format's [`schema`] says.
//!
//! A KV head with its queries is contiguous, so a thread that owns it streams one piece of memory
//! and owns its whole attention; a gate panel and its up panel meet in one thread's registers.

use nanoinfer_format::{Config, Encoding, Entry, Kind, LANES, Part, Role, TensorSpec, pad, schema};

use crate::source::TensorSource;
use crate::weights::{Weights, is_stacked};

/// A tensor of the file and where its rows come from.
pub(crate) struct Planned<'a> {
    pub(crate) spec: TensorSpec,
    pub(crate) body: Body<'a>,
}

pub(crate) enum Body<'a> {
    /// RoPE turns, computed already.
    Turns(&'a [u64]),
    /// Blocks of rows, one after the other.
    Rows { blocks: Vec<Block<'a>>, inputs: Inputs },
}

/// How the inputs of a row are laid out.
#[derive(Clone, Copy)]
pub(crate) struct Inputs {
    /// Values read per row.
    pub(crate) logical: usize,
    /// Values stored per row.
    pub(crate) stored: usize,
    /// Values come in blocks of `.0`, each stored as `.1` (the rest zeros).
    pub(crate) unit: (usize, usize),
}

/// Consecutive rows of one source tensor.
pub(crate) struct Block<'a> {
    /// `None`: zeros, for a bias that only its neighbours in the fused tensor have.
    pub(crate) source: Option<&'a dyn TensorSource>,
    pub(crate) first: usize,
    pub(crate) rows: usize,
    /// Rows stored; those beyond `rows` are zeros.
    pub(crate) padded: usize,
    /// Hadamard block over the rows (not the inputs); 1 = none.
    pub(crate) mix: usize,
    pub(crate) encoding: Encoding,
}

/// A part of a fused tensor, or a whole one, as blocks of `rows` rows padded to `padded`.
struct Source<'a> {
    tensor: Option<&'a dyn TensorSource>,
    /// Its first row of the tensor, which may be a stack of several.
    start: usize,
    rows: usize,
    padded: usize,
    mix: usize,
    encoding: Encoding,
}

impl<'a> Source<'a> {
    /// Block `i`; rows that the tensor does not have become padding.
    fn block(&self, i: usize, n: usize) -> Block<'a> {
        let first = (i * self.rows).min(n);
        let Self { tensor: source, padded, mix, encoding, .. } = *self;
        let rows = self.rows.min(n - first);
        Block { source, first: self.start + first, rows, padded, mix, encoding }
    }
}

/// Everything a file of this config holds, in order: what the schema lists as `spec` stores it, and
/// the biases that there are. `weights` have been checked against the config.
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
        let bias = entry.bias_spec().filter(|_| rows.have_bias()).map(|spec| Planned {
            body: Body::Rows { blocks: rows.bias(&spec), inputs: ONE },
            spec,
        });
        let body = match entry.kind {
            Kind::Turns => Body::Turns(turns),
            Kind::Vector => Body::Rows { blocks: rows.norm(), inputs: ONE },
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

/// Where the rows of one tensor, and of its bias, come from.
struct Rows<'a, 'c> {
    c: &'c Config,
    weights: &'a Weights,
    matrix: &'c TensorSpec,
}

impl<'a> Rows<'a, '_> {
    fn bias_of(&self, role: Role) -> Option<&'a dyn TensorSource> {
        self.weights.get(self.matrix.layer, role, true)
    }

    /// Whether there is a bias, of one of the parts at least.
    fn have_bias(&self) -> bool {
        let parts = self.matrix.parts.iter().map(|p| p.role);
        parts.chain([self.matrix.role]).any(|role| self.bias_of(role).is_some())
    }

    /// A whole vector: one block, or one for each head.
    fn vector(&self, tensor: Option<&'a dyn TensorSource>, spec: &TensorSpec) -> Vec<Block<'a>> {
        let Inputs { logical, stored, unit } = Inputs::of(spec);
        let padded = if spec.k_unit == (0, 0) { stored } else { unit.1 };
        let encoding = spec.encoding;
        let source = Source { tensor, start: 0, rows: unit.0, padded, mix: 1, encoding };
        (0..logical / unit.0).map(|i| source.block(i, logical)).collect()
    }

    fn norm(&self) -> Vec<Block<'a>> {
        let Self { weights, matrix, .. } = *self;
        self.vector(Some(weights.required(matrix.layer, matrix.role)), matrix)
    }

    /// A bias has the blocks of its matrix.
    fn bias(&self, spec: &TensorSpec) -> Vec<Block<'a>> {
        match self.matrix.parts.is_empty() {
            true => self.vector(self.bias_of(self.matrix.role), spec),
            false => self.fused(Some(spec.encoding), |role, _| (self.bias_of(role), 0)),
        }
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
            let source = Source { tensor, start, rows: LANES, padded: LANES, mix: 1, encoding };
            (0..n.div_ceil(LANES)).map(|i| source.block(i, n)).collect()
        };
        (0..experts).flat_map(of_expert).collect()
    }

    /// Where the matrix of `n` rows of an expert is, and its first row there.
    fn weight(&self, role: Role, expert: usize, n: usize) -> Found<'a> {
        let (weights, layer) = (self.weights, self.matrix.layer);
        let (tensor, start) = match is_stacked(role) {
            true => weights.of_expert(layer, role, expert, n),
            false => (weights.required(layer, role), 0),
        };
        (Some(tensor), start)
    }

    /// The blocks of all parts, unit after unit; of a part of `n` rows, what `find` gives. Stored
    /// as the parts are, unless another encoding is given.
    fn fused(
        &self,
        encoding: Option<Encoding>,
        find: impl Fn(Role, usize) -> Found<'a>,
    ) -> Vec<Block<'a>> {
        let source = |p: &Part| {
            let (tensor, start) = find(p.role, p.n as usize);
            let (rows, encoding) = (p.rows as usize, encoding.unwrap_or(p.encoding));
            let mix = if p.role == Role::AttnV { self.c.value_rotation as usize } else { 1 };
            Source { tensor, start, rows, padded: pad(rows, LANES), mix, encoding }
        };
        let sources: Vec<_> = self.matrix.parts.iter().map(|p| (p, source(p))).collect();
        let mut blocks = Vec::new();
        for unit in 0..self.matrix.repeat as usize {
            for (part, source) in &sources {
                let (count, n) = (part.count as usize, part.n as usize);
                blocks.extend((0..count).map(|i| source.block(unit * count + i, n)));
            }
        }
        blocks
    }
}

/// A source, zeros if there is none, and the first row in it.
type Found<'a> = (Option<&'a dyn TensorSource>, usize);
