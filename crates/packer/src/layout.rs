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
//! A KV head with its queries is contiguous, so a thread that owns it streams one piece of memory
//! and owns its whole attention; a gate panel and its up panel meet in one thread's registers.

use nanoinfer_format::{
    Config, Encoding, Experts, GROUP, LANES, Part, Quant, Role, TensorSpec, pad,
};

use crate::source::TensorSource;
use crate::weights::Weights;

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
}

/// A part of a fused tensor, as blocks of `rows` rows padded to `padded`.
struct Source<'a> {
    tensor: Option<&'a dyn TensorSource>,
    /// Its first row of the tensor, which may be a stack of several.
    start: usize,
    rows: usize,
    padded: usize,
    mix: usize,
}

impl<'a> Source<'a> {
    /// Block `i`; rows that the tensor does not have become padding.
    fn block(&self, i: usize, n: usize) -> Block<'a> {
        let first = (i * self.rows).min(n);
        let rows = self.rows.min(n - first);
        let first = self.start + first;
        Block { source: self.tensor, first, rows, padded: self.padded, mix: self.mix }
    }
}

/// Everything a file of this config holds, in order. `weights` have been checked against it.
pub(crate) fn plan<'a>(c: &Config, weights: &'a Weights, turns: &'a [u64]) -> Vec<Planned<'a>> {
    let p = Planner { c, weights };
    let mut out = vec![p.matrix(None, Role::TokenEmbd, c.vocab_size, c.d_model)];
    let half = c.rotary_dim as usize / 2;
    let mut spec = TensorSpec::vector(Role::RopeTurns, None, half, half);
    spec.encoding = Encoding::U64;
    (spec.logical[1], spec.stored[1]) = (c.rope_rows() as u32, c.rope_rows() as u32);
    out.push(Planned { spec, body: Body::Turns(turns) });
    for layer in (0..c.n_layers).map(Some) {
        out.extend(p.norm(layer, Role::AttnNorm, Role::AttnNormBias));
        out.extend(p.qkv(layer));
        out.extend(p.heads_norm(layer, Role::AttnQNorm, c.n_heads));
        out.extend(p.heads_norm(layer, Role::AttnKNorm, c.n_kv_heads));
        out.push(p.attn_output(layer));
        out.extend(p.bias(layer, Role::AttnOutput, Role::AttnOutputBias));
        out.extend(p.vector(layer, Role::AttnPostNorm, Role::AttnPostNorm, false));
        out.extend(p.norm(layer, Role::FfnNorm, Role::FfnNormBias));
        match layer.and_then(|layer| c.experts_of(layer as usize)) {
            None => {
                out.extend(p.gate_up(layer));
                out.push(p.matrix(layer, Role::FfnDown, c.d_model, c.d_ff));
                out.extend(p.bias(layer, Role::FfnDown, Role::FfnDownBias));
            }
            Some(e) => out.extend(p.experts(layer, e)),
        }
        out.extend(p.vector(layer, Role::FfnPostNorm, Role::FfnPostNorm, false));
    }
    out.extend(p.norm(None, Role::OutputNorm, Role::OutputNormBias));
    if !c.tied_embeddings {
        out.push(p.matrix(None, Role::Output, c.vocab_size, c.d_model));
    }
    out
}

struct Planner<'a, 'c> {
    c: &'c Config,
    weights: &'a Weights,
}

/// A bias or norm is a matrix of one input.
const ONE: Inputs = Inputs { logical: 1, stored: 1, unit: (1, 1) };

impl<'a> Planner<'a, '_> {
    fn encoding(&self) -> Encoding {
        match self.c.quant {
            Quant::F32 => Encoding::F32Panel,
            Quant::Q8 => Encoding::Q8Panel,
        }
    }

    /// A matrix stored as it is, padded.
    fn matrix(&self, layer: Option<u32>, role: Role, n: u32, k: u32) -> Planned<'a> {
        let (n, k) = (n as usize, k as usize);
        let spec = TensorSpec::matrix(role, layer, self.encoding(), n, k);
        let source = Some(self.weights.required(layer, role));
        let inputs = Inputs { logical: k, stored: pad(k, GROUP), unit: (k, k) };
        Planned { spec, body: Body::Rows { blocks: plain_blocks(source, 0, n), inputs } }
    }

    /// A norm and its bias, if the model has them.
    fn norm(&self, layer: Option<u32>, role: Role, bias: Role) -> Vec<Planned<'a>> {
        let both = [self.vector(layer, role, role, false), self.vector(layer, role, bias, true)];
        both.into_iter().flatten().collect()
    }

    /// What the weights have for `of`, as a vector as wide as the residual stream.
    fn vector(&self, layer: Option<u32>, of: Role, role: Role, bias: bool) -> Option<Planned<'a>> {
        let source = Some(self.weights.get(layer, of, bias)?);
        let (d, padded) = (self.c.d_model as usize, self.c.d_model_padded());
        let block = Block { source, first: 0, rows: d, padded, mix: 1 };
        Some(Planned {
            spec: TensorSpec::vector(role, layer, d, padded),
            body: Body::Rows { blocks: vec![block], inputs: ONE },
        })
    }

    /// The norm of queries or keys, each head padded as the heads themselves are.
    fn heads_norm(&self, layer: Option<u32>, role: Role, n_heads: u32) -> Option<Planned<'a>> {
        let source = Some(self.weights.get(layer, role, false)?);
        let (heads, rows) = (self.c.qk_norm_heads(n_heads), self.c.head_dim as usize);
        let padded = self.c.head_padded();
        let block = |i| Block { source, first: i * rows, rows, padded, mix: 1 };
        let mut spec = TensorSpec::vector(role, layer, heads * rows, heads * padded);
        spec.k_unit = (rows as u32, padded as u32);
        let blocks = (0..heads).map(block).collect();
        Some(Planned { spec, body: Body::Rows { blocks, inputs: ONE } })
    }

    /// The bias of a matrix of `d_model` rows, if the model has it.
    fn bias(&self, layer: Option<u32>, of: Role, role: Role) -> Option<Planned<'a>> {
        let source = Some(self.weights.get(layer, of, true)?);
        let (d, padded) = (self.c.d_model as usize, pad(self.c.d_model as usize, LANES));
        let block = Block { source, first: 0, rows: d, padded, mix: 1 };
        let spec = TensorSpec::vector(role, layer, d, padded);
        Some(Planned { spec, body: Body::Rows { blocks: vec![block], inputs: ONE } })
    }

    /// Query, key and value projections by KV head, and their bias if any of them has one.
    fn qkv(&self, layer: Option<u32>) -> Vec<Planned<'a>> {
        let c = self.c;
        let (head, padded, kv) = (c.head_dim as usize, c.head_padded(), c.n_kv_heads as usize);
        let part = |role, count: usize| Part {
            role,
            n: (kv * count * head) as u32,
            count: count as u32,
            rows: c.head_dim,
        };
        let parts = vec![part(Role::AttnQ, c.group()), part(Role::AttnK, 1), part(Role::AttnV, 1)];
        let mixes = [1, 1, c.value_rotation as usize];
        let fused =
            Fused { layer, role: Role::AttnQkv, bias: Role::AttnQkvBias, repeat: kv, parts };
        self.fused(&fused, padded, &mixes)
    }

    fn gate_up(&self, layer: Option<u32>) -> Vec<Planned<'a>> {
        let part = |role| Part { role, n: self.c.d_ff, count: 1, rows: LANES as u32 };
        let gate = self.c.gated.then_some(Role::FfnGate);
        let parts: Vec<_> = gate.into_iter().chain([Role::FfnUp]).map(part).collect();
        let repeat = self.c.d_ff_padded() / LANES;
        let (role, bias) = (Role::FfnGateUp, Role::FfnGateUpBias);
        self.fused(&Fused { layer, role, bias, repeat, parts }, LANES, &[1, 1])
    }

    /// The router, in f32 whatever the file's encoding, then the experts' matrices, expert after
    /// expert, each as the matrix of a model without experts.
    fn experts(&self, layer: Option<u32>, e: &Experts) -> [Planned<'a>; 3] {
        let (d, n) = (self.c.d_model as usize, e.n_experts as usize);
        let (ff, units) = (e.d_ff as usize, e.d_ff_padded() / LANES);
        let tensor = |spec, blocks, k| {
            let inputs = Inputs { logical: k, stored: pad(k, GROUP), unit: (k, k) };
            Planned { spec, body: Body::Rows { blocks, inputs } }
        };
        let stack = |role, rows: usize, k: usize| {
            let mut spec = TensorSpec::matrix(role, layer, self.encoding(), rows, k);
            (spec.logical[0], spec.stored[0]) = (e.n_experts, e.n_experts);
            spec
        };
        let router = TensorSpec::matrix(Role::FfnRouter, layer, Encoding::F32Panel, n, d);
        let scores = Some(self.weights.required(layer, Role::FfnRouter));

        let gate_and_up = [Role::FfnGateExperts, Role::FfnUpExperts];
        let mut gate_up = stack(Role::FfnGateUpExperts, 2 * ff, d);
        (gate_up.stored[1], gate_up.repeat) = ((2 * units * LANES) as u32, units as u32);
        let part = |role| Part { role, n: e.d_ff, count: 1, rows: LANES as u32 };
        gate_up.parts = gate_and_up.map(part).into();
        let alternating = (0..n).flat_map(|expert| {
            let sources = gate_and_up.map(|role| {
                let (tensor, start) = self.weights.of_expert(layer, role, expert, ff);
                Source { tensor: Some(tensor), start, rows: LANES, padded: LANES, mix: 1 }
            });
            (0..2 * units).map(move |i| sources[i % 2].block(i / 2, ff))
        });
        let down = (0..n).flat_map(|expert| {
            let (tensor, start) = self.weights.of_expert(layer, Role::FfnDownExperts, expert, d);
            plain_blocks(Some(tensor), start, d)
        });
        [
            tensor(router, plain_blocks(scores, 0, n), d),
            tensor(gate_up, alternating.collect(), d),
            tensor(stack(Role::FfnDownExperts, d, ff), down.collect(), ff),
        ]
    }

    /// Parts interleaved by unit, every block padded to `padded` rows; all of `d_model` inputs.
    fn fused(&self, f: &Fused, padded: usize, mixes: &[usize]) -> Vec<Planned<'a>> {
        let n: usize = f.parts.iter().map(|p| p.n as usize).sum();
        let per_unit: usize = f.parts.iter().map(|p| p.count as usize).sum();
        let stored = f.repeat * per_unit * padded;
        let blocks = |bias: bool| {
            let mut blocks = Vec::with_capacity(f.repeat * per_unit);
            for unit in 0..f.repeat {
                for (part, &mix) in f.parts.iter().zip(mixes) {
                    let tensor = self.weights.get(f.layer, part.role, bias);
                    let rows = part.rows as usize;
                    let source = Source { tensor, start: 0, rows, padded, mix };
                    let count = part.count as usize;
                    blocks.extend(
                        (0..count).map(|i| source.block(unit * count + i, part.n as usize)),
                    );
                }
            }
            blocks
        };
        let k = self.c.d_model as usize;
        let mut spec = TensorSpec::matrix(f.role, f.layer, self.encoding(), n, k);
        spec.stored[1] = stored as u32;
        spec.repeat = f.repeat as u32;
        spec.parts.clone_from(&f.parts);
        let inputs = Inputs { logical: k, stored: pad(k, GROUP), unit: (k, k) };
        let mut out = vec![Planned { spec, body: Body::Rows { blocks: blocks(false), inputs } }];
        if f.parts.iter().any(|p| self.weights.get(f.layer, p.role, true).is_some()) {
            let spec = TensorSpec::vector(f.bias, f.layer, n, stored);
            out.push(Planned { spec, body: Body::Rows { blocks: blocks(true), inputs: ONE } });
        }
        out
    }

    /// Its inputs are the heads' outputs, padded as V's rows are. Attention leaves them in the
    /// Hadamard domain (through V), so they are rotated per head and not in blocks of 64.
    fn attn_output(&self, layer: Option<u32>) -> Planned<'a> {
        let c = self.c;
        let (d, head) = (c.d_model as usize, c.head_dim as usize);
        let k = c.n_heads as usize * head;
        let stored = c.attn_out_inputs();
        let mut spec = TensorSpec::matrix(Role::AttnOutput, layer, self.encoding(), d, k);
        spec.stored[2] = stored as u32;
        spec.rotation = c.value_rotation;
        spec.k_unit = (c.head_dim, c.head_padded() as u32);
        let source = Some(self.weights.required(layer, Role::AttnOutput));
        let inputs = Inputs { logical: k, stored, unit: (head, c.head_padded()) };
        Planned { spec, body: Body::Rows { blocks: plain_blocks(source, 0, d), inputs } }
    }
}

struct Fused {
    layer: Option<u32>,
    role: Role,
    bias: Role,
    repeat: usize,
    parts: Vec<Part>,
}

fn plain_blocks(tensor: Option<&dyn TensorSource>, start: usize, n: usize) -> Vec<Block<'_>> {
    let source = Source { tensor, start, rows: LANES, padded: LANES, mix: 1 };
    (0..n.div_ceil(LANES)).map(|i| source.block(i, n)).collect()
}
