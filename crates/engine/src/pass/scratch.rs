//! Every buffer of a forward pass, allocated once.
//!
//! Activations are panel-major, `[width/16][m][16]`: sixteen outputs of one token form a cache line,
//! the unit that a GEMM tile writes and the next norm reads.

use nanoinfer_format::{Config, Experts, QkNorm, Quant, Recurrent, pad};
use nanoinfer_kernels::{
    AttendBlock, GROUP, LANES, Queries, QueriesMut, SPAN, decoded_panel_bytes,
};
use nanoinfer_platform::pages;

use super::inputs::{Needs, OwnInputs, SharedInputs, lines};
use super::limits::{ATTENTION_ROWS, DEEP_ROWS, MANY_ROWS, MAX_TOKENS};
use super::profile::{Profile, Stage};
use super::recurrent_scratch::RecurrentScratch;
use super::routing::{ExpertScratch, Routing};
use crate::memory::KvType;
use crate::model::weights::{Ffn, Matrix, Weights};
use crate::pool::{Buffers, Shared, Worker};
use crate::sample::DrawScratch;

/// What a model's matrices require: the forms of packed activations that they read, and the space to
/// decode their panels.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InputNeeds {
    stream: Needs, // of the residual stream and of attention
    heads: Needs,  // of single heads of latent attention
    hidden: Needs, // of the hidden layer
    expert_stream: Needs,
    expert_hidden: Needs,
    /// Inputs of the widest trellis-coded matrix, 0 if there is none.
    coded: usize,
}

impl InputNeeds {
    /// The needs of a model.
    pub(crate) fn of(weights: &Weights) -> Self {
        let mut all = Self { stream: Needs::of(&weights.output), ..Self::default() };
        let mut coded = coded_inputs(&weights.output);
        let mut add = |to: &mut Needs, matrix| {
            *to = to.or(Needs::of(matrix));
            coded = coded.max(coded_inputs(matrix));
        };
        if let Some(entering) = &weights.layer_embeddings {
            add(&mut all.stream, &entering.projection);
        }
        for layer in &weights.layers {
            for latent in layer.attention.iter().filter_map(|a| a.latent.as_ref()) {
                add(&mut all.stream, &latent.queries);
                add(&mut all.heads, &latent.keys);
                add(&mut all.heads, &latent.values);
            }
            if let Some(entering) = &layer.embedding {
                add(&mut all.stream, &entering.gate);
                add(&mut all.stream, &entering.output);
            }
            layer.projections().flatten().for_each(|matrix| add(&mut all.stream, matrix));
            let dense = match &layer.ffn {
                None => None,
                Some(Ffn::Dense(dense)) => Some(dense),
                Some(Ffn::Experts(e)) => {
                    add(&mut all.stream, &e.router);
                    e.shared_gate
                        .as_deref()
                        .into_iter()
                        .for_each(|gate| add(&mut all.stream, gate));
                    add(&mut all.stream, &e.gate_up);
                    add(&mut all.expert_stream, &e.gate_up);
                    add(&mut all.expert_hidden, &e.down);
                    e.shared.as_deref()
                }
            };
            if let Some(dense) = dense {
                add(&mut all.stream, &dense.gate_up);
                add(&mut all.hidden, &dense.down);
            }
        }
        Self { coded, ..all }
    }

    /// Whether any matrix is multiplied in 8 bits.
    pub(crate) fn int8(&self) -> bool {
        [self.stream, self.hidden, self.expert_stream, self.expert_hidden].iter().any(|n| n.int8)
    }

    /// The needs of a model known only by its config, encoded as `convert` does.
    pub(crate) fn uniform(c: &Config) -> Self {
        let int8 = c.quant != Quant::F32;
        let needs = Needs { int8, f32: !int8 };
        let steps = c.recurrent.as_ref().is_some_and(Recurrent::has_matrix);
        let router = Needs { int8: false, f32: c.experts.is_some() || steps };
        let hidden = if c.widest_d_ff_padded() > 0 { needs } else { Needs::default() };
        let experts = if c.experts.is_some() { needs } else { Needs::default() };
        let experts_d_ff = c.experts.as_ref().map_or(0, Experts::d_ff_padded);
        let hidden_inputs = experts_d_ff.max(c.widest_d_ff_padded());
        let widest = stream_width(c).max(hidden_inputs);
        let coded = if int8 && c.quant != Quant::Q8 { widest } else { 0 };
        Self {
            stream: needs.or(router),
            heads: needs,
            hidden,
            expert_stream: experts,
            expert_hidden: experts,
            coded,
        }
    }
}

/// Width of the widest input of a product that is packed with those of the residual stream: that itself,
/// the output of attention, that of a recurrent layer, or what enters a layer.
fn stream_width(c: &Config) -> usize {
    let recurrent = c.recurrent.as_ref().map_or(0, |r| pad(r.inner(), GROUP));
    let entering = pad(c.layer_embedding as usize, GROUP);
    let queries = c.latent.as_ref().map_or(0, |l| pad(l.q_rank as usize, GROUP));
    let others = recurrent.max(entering).max(queries).max(head_width(c));
    c.d_model_padded().max(c.attn_out_inputs()).max(others)
}

/// Width of the widest input of a single head of latent attention; 0 without it.
fn head_width(c: &Config) -> usize {
    c.latent.as_ref().map_or(0, |l| pad(l.nope_dim.max(l.kv_rank) as usize, GROUP))
}

/// Width of the widest head, padded to whole panels.
fn widest_head(c: &Config) -> usize {
    c.attention_shapes().map(|shape| shape.head_padded()).max().unwrap_or(0)
}

fn coded_inputs(matrix: &Matrix) -> usize {
    if matrix.is_coded() { matrix.k } else { 0 }
}

/// Buffers shared by all workers.
pub(crate) struct Scratch {
    pub x: Shared<f32>,          // residual stream [d_model/16][m][16]
    pub delta: Shared<f32>,      // the next term to add to it, if normalized first
    pub cos: Shared<f32>,        // [ropes][m][rotary_dim/2]
    pub sin: Shared<f32>,        // [ropes][m][rotary_dim/2]
    pub pinned_cos: Shared<f32>, // the same, for attending to pinned positions after a slide
    pub pinned_sin: Shared<f32>,
    pub inputs: SharedInputs, // of QKV, O, gate/up and the head, for more than 16 tokens
    pub hidden: SharedInputs, // of down
    pub experts: ExpertScratch,
    pub layer_embedded: Shared<f32>, // [layers·layer embedding/16][m][16]
    pub layer_projected: Shared<f32>, // the same, projected from the embeddings of tokens
    pub layer_gates: Shared<f32>,    // [layer embedding/16][m][16]
    pub latent_queries: Shared<f32>, // [heads][(nope + rope)/16][m][16]
    pub absorbed: Shared<f32>,       // [heads][latent/16][m][16]
    pub head_values: Shared<f32>,    // [heads][value/16][m][16]
    pub qkv: Shared<f32>,            // [kv heads][(group + 2)·head/16][m][16]
    pub projected: Shared<f32>,      // [rows/16][m][16], of a recurrent layer
    pub mixed: Shared<f32>,          // [channels/16 + steps][m][16], of a recurrent layer
    pub heads: Shared<f32>,          // [inner/16][m][16], what is read from its states
    /// [kv heads][units][longest unit·group·(16 + head)]: outputs [rows][group·head], or states of a span
    /// [rows][group][16 + head]
    pub attention: Shared<f32>,
    pub logits: Shared<f32>, // [vocab/16][logits_rows][16]
    logits_in_large_pages: bool,
}

/// Packed queries of an attention item (see `kernels::Queries`).
pub(crate) struct QueryBuffers {
    q: Vec<i8>,       // [head/16][queries][16], 8-bit and 4-bit caches
    scales: Vec<f32>, // [queries]
    sums: Vec<i32>,   // [queries]
    x: Vec<f32>,      // [head/16][queries][16], float caches
}

/// Buffers of one worker.
pub(crate) struct Local {
    pub row: Vec<f32>,     // one token, as wide as the widest matrix input
    pub gates: Vec<f32>,   // the same, for what it is multiplied by
    pub gate_up: Vec<f32>, // one group of d_ff: [8 panels][m][16], or 4 panels without a gate
    pub act: Vec<f32>,     // [4 panels][m][16]
    pub ones: Vec<f32>,    // as wide as a head, if there are norms of heads without weights
    pub states: Vec<f32>,  // attention states of a run of queries
    pub spans: Vec<f32>,   // the same, for the span in progress
    pub queries: QueryBuffers,
    pub pinned_queries: QueryBuffers, // the same queries, for pinned positions
    pub decoded: Vec<u8>,             // a trellis-coded panel, see `kernels::GemmTrellis`
    pub inputs: OwnInputs,            // of QKV, O, gate/up and the head, for up to 16 tokens
    pub head_inputs: OwnInputs,       // of one head of latent attention
    pub routing: Routing,
    pub recurrent: RecurrentScratch,
    pub drawing: DrawScratch,
    pub profile: Profile,
    pub cancelled: bool, // whether the last pass was cancelled
}

impl Local {
    /// Ends a stage: waits at the barrier, then records the time.
    pub(crate) fn end(&mut self, w: &mut Worker<'_>, stage: Stage) {
        w.barrier();
        self.profile.mark(stage);
    }
}

impl QueryBuffers {
    fn new(b: &mut Buffers<'_>, kv: KvType, n: usize, head: usize) -> Self {
        let (int8, float) = if kv.int8_queries() { (n, 0) } else { (0, n) };
        Self {
            q: b.own(int8 * head),
            scales: b.own(int8),
            sums: b.own(int8),
            x: b.own(float * head),
        }
    }

    /// All `n` queries.
    pub(crate) fn packed(&self, n: usize, head: usize) -> Queries<'_> {
        if !self.x.is_empty() {
            return Queries::F32(&self.x[..n * head]);
        }
        let q = &self.q[..n * head];
        let scales = &self.scales[..n];
        let sums = &self.sums[..n];
        Queries::Q8 { q, scales, sums }
    }

    /// The same, for writing.
    pub(crate) fn packed_mut(&mut self, n: usize, head: usize) -> QueriesMut<'_> {
        if !self.x.is_empty() {
            return QueriesMut::F32(&mut self.x[..n * head]);
        }
        let (scales, sums) = (&mut self.scales[..n], &mut self.sums[..n]);
        QueriesMut::Q8 { q: &mut self.q[..n * head], scales, sums }
    }
}

/// Determines the sizes of all buffers.
#[derive(Clone, Copy)]
pub(crate) struct ScratchSizes<'a> {
    pub config: &'a Config,
    pub needs: InputNeeds,
    pub kv: KvType,
    /// Positions for which attention has span buffers.
    pub ctx: usize,
    pub logits_rows: usize,
}

impl ScratchSizes<'_> {
    /// Bytes of all buffers, to be compared with the available memory.
    pub(crate) fn bytes(&self, workers: usize) -> u64 {
        let (mut shared, mut local) = (Buffers::tally(), Buffers::tally());
        Scratch::new(&mut shared, self);
        Local::new(&mut local, self);
        shared.bytes().saturating_add(local.bytes().saturating_mul(workers as u64))
    }

    /// Number of angles per token.
    fn angles(&self) -> usize {
        self.config.ropes.len() * self.config.rotary_dim as usize / 2
    }

    /// Number of rows for whose attention there is space: those of a whole pass, or some divided by spans.
    pub(crate) fn attention_rows(&self) -> usize {
        DEEP_ROWS.saturating_mul(self.ctx.div_ceil(SPAN)).saturating_add(MAX_TOKENS)
    }

    /// Length of `attention`.
    fn attention_values(&self) -> usize {
        let c = self.config;
        let row = c.n_heads as usize * AttendBlock::state_len(widest_head(c));
        self.attention_rows().saturating_mul(row)
    }
}

impl Scratch {
    pub(crate) fn new(b: &mut Buffers<'_>, sizes: &ScratchSizes<'_>) -> Self {
        let ScratchSizes { config: c, needs, .. } = *sizes;
        let m = MAX_TOKENS;
        let d = c.d_model_padded();
        let (angles, recurrent) = (MAX_TOKENS * sizes.angles(), c.recurrent.as_ref());
        let matrix = recurrent.filter(|r| r.has_matrix());
        let (heads, latent) = (c.n_heads as usize, c.latent.as_ref());
        let post_norms = (0..c.n_layers as usize).any(|layer| c.post_norms(layer));
        Self {
            x: b.shared(m * d),
            delta: b.shared(if post_norms { m * d } else { 0 }),
            cos: b.shared(angles),
            sin: b.shared(angles),
            pinned_cos: b.shared(angles),
            pinned_sin: b.shared(angles),
            inputs: SharedInputs::new(b, needs.stream, m, stream_width(c)),
            hidden: SharedInputs::new(b, needs.hidden, m, c.widest_d_ff_padded()),
            experts: ExpertScratch::new(b, c, needs.expert_hidden),
            layer_embedded: b.shared(m * c.layer_embeddings()),
            layer_projected: b.shared(m * c.layer_embeddings()),
            layer_gates: b.shared(m * c.layer_embedding as usize),
            latent_queries: b.shared(m * heads * c.latent_query_rows()),
            absorbed: b.shared(m * heads * latent.map_or(0, |l| l.kv_rank as usize)),
            head_values: b
                .shared(m * heads * latent.map_or(0, |l| pad(l.value_dim as usize, LANES))),
            qkv: b.shared(m * c.qkv_rows()),
            projected: b.shared(m * recurrent.map_or(0, Recurrent::projected)),
            mixed: b.shared(m * recurrent.map_or(0, Recurrent::mixed)),
            heads: b.shared(m * matrix.map_or(0, Recurrent::inner)),
            attention: b.shared(sizes.attention_values()),
            logits: b.shared(sizes.logits_rows * c.vocab_padded()),
            logits_in_large_pages: false,
        }
    }

    /// Moves the logits to large pages of memory once there are many rows: the parts of a row lie so far apart then
    /// that translating their addresses would take longer than reading them.
    pub(crate) fn suit_pages(&mut self, c: &Config, rows: usize) {
        if rows < MANY_ROWS || self.logits_in_large_pages {
            return;
        }
        self.logits_in_large_pages = true;
        pages::make_large(self.logits.get_mut(), 0..rows * c.vocab_padded());
    }
}

impl Local {
    pub(crate) fn new(b: &mut Buffers<'_>, sizes: &ScratchSizes<'_>) -> Self {
        let ScratchSizes { config: c, needs, kv, .. } = *sizes;
        let (head, width) = (widest_head(c), stream_width(c));
        let queries = ATTENTION_ROWS * c.attention_shapes().map(|s| s.group()).max().unwrap_or(1);
        let states = queries * AttendBlock::state_len(head);
        let plain = c.value_norm || c.qk_norm == QkNorm::Unit;
        let mut ones = b.own(if plain { head } else { 0 });
        ones.fill(1.0);
        let experts = needs.expert_stream.or(needs.expert_hidden);
        Self {
            row: b.own(width.max(2 * head).max(pad(c.layer_embeddings(), GROUP))),
            gates: b.own(width),
            gate_up: b.own(2 * GROUP * MAX_TOKENS),
            act: b.own(GROUP * MAX_TOKENS),
            ones,
            states: b.own(states),
            spans: b.own(states),
            queries: QueryBuffers::new(b, kv, queries, head),
            pinned_queries: QueryBuffers::new(b, kv, queries, head),
            decoded: b.own(if needs.coded > 0 { decoded_panel_bytes(needs.coded) } else { 0 }),
            inputs: OwnInputs::new(b, needs.stream, width),
            head_inputs: OwnInputs::with_lines(b, needs.heads, lines(MAX_TOKENS, head_width(c))),
            routing: Routing::new(b, c, experts),
            recurrent: RecurrentScratch::new(b, c.recurrent.as_ref(), MAX_TOKENS),
            drawing: DrawScratch::new(b, c.vocab_size as usize),
            profile: Profile::new(),
            cancelled: false,
        }
    }
}
