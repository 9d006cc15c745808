//! The authoritative list of the tensors in a model.
//!
//! The packer writes the tensors listed here, the engine looks them up, and size estimates add them up.
//! A new tensor needs a [`Role`], a line here, and a step of the forward pass that reads it. The encoding
//! of a matrix is not part of the schema: each file specifies it for every part.

use crate::attention::{AttentionShape, Latent};
use crate::config::Config;
use crate::encoding::{ActType, Encoding};
use crate::experts::Experts;
use crate::norm::Norm;
use crate::recurrent::{Recurrent, RecurrentKind};
use crate::role::Role;
use crate::spec::{Part, TensorSpec};
use crate::units::{GROUP, LANES, pad};

/// The permitted encodings of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Plain f32, one row.
    Vector,
    /// Plain f32, several rows.
    Rows,
    /// Plain u64: RoPE frequencies.
    Turns,
    /// Panels in any encoding; for experts, a stack of such matrices.
    Matrix,
    /// f32 panels in every file, as routing depends on small differences.
    Router,
}

/// A part of a fused tensor, see [`Part`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartShape {
    /// Role of the part.
    pub role: Role,
    /// Logical rows over all units.
    pub n: u32,
    /// Blocks of this part per unit.
    pub count: u32,
    /// Logical rows per block.
    pub rows: u32,
}

/// A tensor of a model. The fields are explained in [`TensorSpec`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Role of the tensor.
    pub role: Role,
    /// Layer, or `None` for a tensor of the whole model.
    pub layer: Option<u32>,
    /// Permitted encodings.
    pub kind: Kind,
    /// Logical `[experts, rows, inputs]`.
    pub logical: [u32; 3],
    /// Stored `[experts, rows, inputs]`.
    pub stored: [u32; 3],
    /// Number of repetitions of the unit of parts.
    pub repeat: u32,
    /// Blocks of inputs, logical and stored; `(0, 0)` = contiguous.
    pub k_unit: (u32, u32),
    /// The tensors fused into this one.
    pub parts: Vec<PartShape>,
    /// Hadamard block applied to the inputs.
    rotation: u32,
    /// Whether the inputs are rotated in every encoding.
    input_is_rotated: bool,
    /// Role of the optional bias, which directly follows the tensor in the file.
    pub bias: Option<Role>,
}

/// The tensors of a model in file order. All are required except biases.
pub fn schema(c: &Config) -> impl Iterator<Item = Entry> {
    let s = Schema { c, layer: None };
    let output = (!c.tied_embeddings).then(|| s.matrix(Role::Output, c.vocab_size, c.d_model));
    let output = output.map(|output| Entry { bias: Some(Role::OutputBias), ..output });
    [s.matrix(Role::TokenEmbd, c.vocab_size, c.d_model), s.turns()]
        .into_iter()
        .chain(s.layer_embeddings())
        .chain((0..c.n_layers).flat_map(|layer| layer_schema(c, layer)))
        .chain([s.norm(Role::OutputNorm, Role::OutputNormBias)])
        .chain(output)
}

/// The tensors of one layer.
pub fn layer_schema(c: &Config, layer: u32) -> Vec<Entry> {
    let s = Schema { c, layer: Some(layer) };
    let pre = |role, bias| c.pre_norms(layer as usize).then(|| s.norm(role, bias));
    let post = |role| c.post_norms(layer as usize).then(|| s.vector(role));
    let mut all = Vec::new();
    let index = layer as usize;
    if c.has_mixer(index) {
        all.extend(pre(Role::AttnNorm, Role::AttnNormBias));
    }
    if c.attends(index) {
        let shape = c.attention_of(index);
        if let Some(latent) = &c.latent {
            all.extend(s.latent(latent));
        } else {
            all.push(s.qkv(&shape));
        }
        all.extend(s.heads_norm(Role::AttnQNorm, &shape, shape.n_heads));
        if c.caches(index) {
            all.extend(s.heads_norm(Role::AttnKNorm, &shape, shape.n_kv_heads));
        }
        if c.attention_sinks {
            all.push(s.values(Role::AttnSinks, c.n_heads as usize));
        }
        all.push(s.attn_output(&shape));
    }
    all.extend(c.recurrent_of(index).map(|r| s.recurrent(r)).unwrap_or_default());
    if c.has_mixer(index) {
        all.extend(post(Role::AttnPostNorm));
    }
    if !c.has_ffn(index) {
        return all;
    }
    if !c.parallel {
        all.extend(pre(Role::FfnNorm, Role::FfnNormBias));
    }
    let apart = c.experts_of(index).is_some_and(|e| e.separate_norms);
    if apart {
        all.extend([s.vector(Role::FfnRouterNorm), s.vector(Role::FfnExpertsNorm)]);
    }
    if let Some(e) = c.experts_of(index) {
        all.extend(s.experts(e));
        all.extend(e.shared.as_ref().filter(|shared| shared.gate).map(|_| s.shared_gate()));
    }
    let d_ff = c.d_ff_of(index);
    if d_ff > 0 {
        all.extend(s.dense(d_ff));
    }
    if apart {
        all.extend([s.vector(Role::FfnSharedPostNorm), s.vector(Role::FfnExpertsPostNorm)]);
    }
    all.extend(post(Role::FfnPostNorm));
    if c.layer_embedding > 0 {
        all.push(s.matrix(Role::LayerGate, c.layer_embedding, c.d_model));
        all.push(s.matrix(Role::LayerOut, c.d_model, c.layer_embedding));
        all.push(s.vector(Role::LayerPostNorm));
    }
    all.extend(c.layer_scale.then(|| s.values(Role::LayerScale, 1)));
    all
}

impl Config {
    /// Number of weights, without biases.
    pub fn parameters(&self) -> u64 {
        let weights = schema(self).filter(|entry| entry.kind != Kind::Turns);
        let product = |e: Entry| e.logical.iter().fold(1, |n: u64, &d| n.saturating_mul(d.into()));
        weights.map(product).fold(0, u64::saturating_add)
    }
}

impl Entry {
    /// The tensor as stored in a file. `encoding` returns the encoding of a part, or of a matrix without
    /// parts, from its role. Kinds other than [`Kind::Matrix`] have fixed encodings.
    pub fn spec(&self, encoding: impl Fn(Role) -> Encoding) -> TensorSpec {
        let encoding = |role| match self.kind {
            Kind::Vector | Kind::Rows => Encoding::F32,
            Kind::Turns => Encoding::U64,
            Kind::Matrix => encoding(role),
            Kind::Router => Encoding::F32Panel,
        };
        let part = |p: &PartShape| {
            let PartShape { role, n, count, rows } = *p;
            Part { role, n, count, rows, encoding: encoding(role) }
        };
        let parts: Vec<Part> = self.parts.iter().map(part).collect();
        let mut spec = TensorSpec {
            role: self.role,
            layer: self.layer,
            encoding: parts.first().map_or_else(|| encoding(self.role), |p| p.encoding),
            rotation: 1,
            act_group: 0,
            logical: self.logical,
            stored: self.stored,
            repeat: self.repeat,
            k_unit: self.k_unit,
            parts,
        };
        let int8 = spec.takes(ActType::Int8);
        if int8 || self.input_is_rotated {
            spec.rotation = self.rotation;
        }
        spec.act_group = if int8 { GROUP as u32 } else { 0 };
        spec
    }

    /// The bias, if the tensor may have one: one value per weight of a norm or row of a matrix, of all experts.
    pub fn bias_spec(&self) -> Option<TensorSpec> {
        let values = if matches!(self.kind, Kind::Vector | Kind::Rows) { 2 } else { 1 };
        let of = |shape: [u32; 3]| shape[0] as usize * shape[values] as usize;
        let (n, stored) = (of(self.logical), of(self.stored));
        Some(TensorSpec::vector(self.bias?, self.layer, n, stored))
    }
}

struct Schema<'a> {
    c: &'a Config,
    layer: Option<u32>,
}

impl Schema<'_> {
    fn entry(&self, role: Role, kind: Kind, logical: [usize; 3], stored: [usize; 3]) -> Entry {
        Entry {
            role,
            layer: self.layer,
            kind,
            logical: logical.map(|x| x as u32),
            stored: stored.map(|x| x as u32),
            repeat: 1,
            k_unit: (0, 0),
            parts: Vec::new(),
            rotation: GROUP as u32,
            input_is_rotated: false,
            bias: None,
        }
    }

    fn turns(&self) -> Entry {
        let shape = [1, self.c.rope_rows(), self.c.rotary_dim as usize / 2];
        self.entry(Role::RopeTurns, Kind::Turns, shape, shape)
    }

    /// A vector as wide as the residual stream.
    fn vector(&self, role: Role) -> Entry {
        let (logical, stored) = ([1, 1, self.c.d_model as usize], [1, 1, self.c.d_model_padded()]);
        self.entry(role, Kind::Vector, logical, stored)
    }

    /// A norm as wide as the residual stream; a LayerNorm may have a bias.
    fn norm(&self, role: Role, bias: Role) -> Entry {
        let bias = (self.c.norm == Norm::Layer).then_some(bias);
        Entry { bias, ..self.vector(role) }
    }

    /// The norm of queries or keys, with each head padded like the heads themselves.
    fn heads_norm(&self, role: Role, shape: &AttentionShape, n_heads: usize) -> Option<Entry> {
        let (head, padded) = (shape.head_dim, shape.head_padded());
        let heads = self.c.qk_norm_heads(n_heads);
        let entry = self.entry(role, Kind::Vector, [1, 1, heads * head], [1, 1, heads * padded]);
        (heads > 0).then_some(Entry { k_unit: (head as u32, padded as u32), ..entry })
    }

    /// `n` rows of `k` inputs, padded.
    fn matrix(&self, role: Role, n: u32, k: u32) -> Entry {
        let (n, k) = (n as usize, k as usize);
        self.entry(role, Kind::Matrix, [1, n, k], [1, pad(n, LANES), pad(k, GROUP)])
    }

    /// The parts in sequence, repeated `repeat` times; their inputs are the residual stream.
    fn fused(&self, role: Role, repeat: usize, parts: Vec<PartShape>) -> Entry {
        let n = parts.iter().map(|p| p.n).sum();
        let rows = |p: &PartShape| p.count as usize * pad(p.rows as usize, LANES);
        let stored = repeat * parts.iter().map(rows).sum::<usize>();
        let mut entry = self.matrix(role, n, self.c.d_model);
        entry.stored[1] = stored as u32;
        Entry { repeat: repeat as u32, parts, ..entry }
    }

    /// Query, key and value projections: for each KV head, its query group, their gates if attention is
    /// gated, its K and its V, if the layer has these.
    fn qkv(&self, shape: &AttentionShape) -> Entry {
        let (kv, group, rows) =
            (shape.n_kv_heads as u32, shape.group() as u32, shape.head_dim as u32);
        let part = |role, count| PartShape { role, n: kv * count * rows, count, rows };
        let mut parts = vec![part(Role::AttnQ, group)];
        parts.extend(shape.gated.then(|| part(Role::AttnGate, group)));
        let own = shape.cache_of.is_none();
        parts.extend(own.then(|| part(Role::AttnK, 1)));
        parts.extend((own && !shape.keys_as_values).then(|| part(Role::AttnV, 1)));
        let entry = self.fused(Role::AttnQkv, kv as usize, parts);
        Entry { bias: Some(Role::AttnQkvBias), ..entry }
    }

    /// The inputs are the heads' outputs, padded like the rows of V. Like V, they are in the Hadamard
    /// domain, rotated per head rather than in blocks of 64, unless gates are applied to them.
    fn attn_output(&self, shape: &AttentionShape) -> Entry {
        let c = self.c;
        let head = shape.output_dim as u32;
        let mut entry = self.matrix(Role::AttnOutput, c.d_model, c.n_heads * head);
        entry.stored[2] = shape.output_inputs() as u32;
        let rotated = !c.attention_gate && c.latent.is_none();
        Entry {
            rotation: if rotated { c.value_rotation } else { GROUP as u32 },
            input_is_rotated: rotated,
            k_unit: (head, pad(head as usize, LANES) as u32),
            bias: Some(Role::AttnOutputBias),
            ..entry
        }
    }

    /// What enters each layer beside the residual stream: embeddings and projections of all layers, one after
    /// the other.
    fn layer_embeddings(&self) -> Vec<Entry> {
        let c = self.c;
        let (width, all) = (c.layer_embedding as usize, c.layer_embedding * c.n_layers);
        if width == 0 {
            return Vec::new();
        }
        let norm = self.entry(Role::LayerProjNorm, Kind::Vector, [1, 1, width], [1, 1, width]);
        vec![
            self.matrix(Role::LayerEmbd, c.vocab_size, all),
            self.matrix(Role::LayerProj, all, c.d_model),
            norm,
        ]
    }

    /// Latent attention up to the latent space, and the projection out of it.
    fn latent(&self, latent: &Latent) -> Vec<Entry> {
        let c = self.c;
        let (heads, rope) = (c.n_heads, c.rotary_dim);
        let part = |(role, n)| PartShape { role, n, count: 1, rows: n };
        let parts = [
            (Role::AttnQA, latent.q_rank),
            (Role::AttnKRope, rope),
            (Role::AttnKvA, latent.kv_rank),
        ];
        let parts = parts.into_iter().filter(|part| part.1 > 0).map(part).collect();
        let input = self.fused(Role::AttnQkv, 1, parts);
        let mut all = vec![Entry { bias: Some(Role::AttnQkvBias), ..input }];
        if latent.q_rank > 0 {
            all.push(self.values(Role::AttnQNorm, latent.q_rank as usize));
        }
        all.push(self.values(Role::AttnKNorm, latent.kv_rank as usize));
        let part = |role, rows| PartShape { role, n: heads * rows, count: 1, rows };
        let parts = vec![part(Role::AttnQNope, latent.nope_dim), part(Role::AttnQRope, rope)];
        let queries = self.fused(Role::AttnQB, heads as usize, parts);
        let width = if latent.q_rank > 0 { latent.q_rank } else { c.d_model };
        let k = pad(width as usize, GROUP) as u32;
        all.push(Entry {
            logical: [1, queries.logical[1], width],
            stored: [1, queries.stored[1], k],
            ..queries
        });
        let stack = |entry: Entry| Entry {
            logical: [heads, entry.logical[1], entry.logical[2]],
            stored: [heads, entry.stored[1], entry.stored[2]],
            ..entry
        };
        all.push(stack(self.matrix(Role::AttnKB, latent.kv_rank, latent.nope_dim)));
        let values = stack(self.matrix(Role::AttnVB, latent.value_dim, latent.kv_rank));
        all.push(Entry { rotation: c.value_rotation, input_is_rotated: true, ..values });
        all
    }

    /// A vector of `n` values, padded to whole groups.
    fn values(&self, role: Role, n: usize) -> Entry {
        self.entry(role, Kind::Vector, [1, 1, n], [1, 1, pad(n, GROUP)])
    }

    /// The mixer of a recurrent layer.
    fn recurrent(&self, r: &Recurrent) -> Vec<Entry> {
        let part = |(role, n)| PartShape { role, n, count: 1, rows: n };
        let parts = r.parts().map(part).collect();
        let input = self.fused(Role::SsmIn, 1, parts);
        let (channels, heads) = (r.channels(), r.value_heads as usize);
        let shape = [1, r.kernel as usize, channels];
        let conv = self.entry(Role::SsmConv, Kind::Rows, shape, shape);
        let mut all = vec![
            Entry { bias: Some(Role::SsmInBias), ..input },
            Entry { bias: Some(Role::SsmConvBias), ..conv },
        ];
        if r.has_matrix() {
            all.extend([self.values(Role::SsmA, heads), self.values(Role::SsmDtBias, heads)]);
            if r.kind == RecurrentKind::Mamba2 {
                all.push(self.values(Role::SsmD, heads));
            }
            if r.norm_weights() > 0 {
                all.push(self.values(Role::SsmNorm, r.norm_weights()));
            }
        }
        let output = self.matrix(Role::SsmOut, self.c.d_model, r.inner() as u32);
        all.push(Entry { bias: Some(Role::SsmOutBias), ..output });
        all
    }

    /// Projections of the residual stream to `d_ff` hidden values each, in alternating panels.
    fn hidden(&self, role: Role, parts: &[Role], d_ff: u32) -> Entry {
        let part = |&role| PartShape { role, n: d_ff, count: 1, rows: LANES as u32 };
        let parts = parts.iter().map(part).collect();
        self.fused(role, pad(d_ff as usize, GROUP) / LANES, parts)
    }

    /// A feed-forward network.
    fn dense(&self, d_ff: u32) -> [Entry; 2] {
        let c = self.c;
        let both = [Role::FfnGate, Role::FfnUp];
        let parts = if c.gated { &both[..] } else { &both[1..] };
        let gate_up = self.hidden(Role::FfnGateUp, parts, d_ff);
        let down = self.matrix(Role::FfnDown, c.d_model, d_ff);
        [
            Entry { bias: Some(Role::FfnGateUpBias), ..gate_up },
            Entry { bias: Some(Role::FfnDownBias), ..down },
        ]
    }

    /// The router, then the stacked matrices of the experts, each laid out as in a model without experts.
    fn experts(&self, e: &Experts) -> Vec<Entry> {
        let d = self.c.d_model;
        let router = self.matrix(Role::FfnRouter, e.n_experts, d);
        let both = [Role::FfnGateExperts, Role::FfnUpExperts];
        let parts = if self.c.gated { &both[..] } else { &both[1..] };
        let gate_up = self.hidden(Role::FfnGateUpExperts, parts, e.d_ff);
        let down = self.matrix(Role::FfnDownExperts, d, e.d_ff);
        let stack = |mut entry: Entry| {
            (entry.logical[0], entry.stored[0]) = (e.n_experts, e.n_experts);
            entry
        };
        let router = Entry { kind: Kind::Router, bias: Some(Role::FfnRouterInputBias), ..router };
        let gate_up = Entry { bias: Some(Role::FfnGateUpExpertsBias), ..gate_up };
        let down = Entry { bias: Some(Role::FfnDownExpertsBias), ..down };
        let mut all = vec![router];
        if e.router_bias {
            all.push(self.values(Role::FfnRouterBias, e.n_experts as usize));
        }
        if e.scaled {
            all.push(self.values(Role::FfnExpertsScale, e.n_experts as usize));
        }
        all.extend([stack(gate_up), stack(down)]);
        all
    }

    /// A single row, of a panel.
    fn shared_gate(&self) -> Entry {
        Entry { kind: Kind::Router, ..self.matrix(Role::FfnSharedGate, 1, self.c.d_model) }
    }
}
