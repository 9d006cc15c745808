//! Every buffer of a forward pass, allocated once.
//!
//! Activations are panel-major, `[width/16][m][16]`: sixteen outputs of one token are one cache
//! line, which is what a GEMM tile produces and what the next norm reads.

use nanoinfer_format::{Config, GROUP, LANES};
use nanoinfer_kernels::{AttendBlock, Kernels, Queries, QueriesMut, SPAN};

use crate::cache::KvType;
use crate::experts::{ExpertScratch, Routing};
use crate::inputs::{OwnInputs, SharedInputs};
use crate::pool::{Pool, Shared, Worker};
use crate::profile::{PassStep, Profile};
use crate::sample::DrawScratch;

/// Most tokens in one pass: prefill streams the weights once per this many.
pub(crate) const MAX_TOKENS: usize = 256;
/// Most tokens in one pass whose attention is divided by spans: decoding and verifying.
pub(crate) const MAX_SPLIT: usize = 8;

/// Buffers all workers share.
pub(crate) struct Scratch {
    pub x: Shared<f32>,          // residual stream [d_model/16][m][16]
    pub delta: Shared<f32>,      // what is added to it, where that is normalised first
    pub cos: Shared<f32>,        // [ropes][m][rotary_dim/2]
    pub sin: Shared<f32>,        // [ropes][m][rotary_dim/2]
    pub pinned_cos: Shared<f32>, // the same for queries of pinned positions, once the context slid
    pub pinned_sin: Shared<f32>,
    pub inputs: SharedInputs, // of QKV, O, gate/up and the head, of more than 16 tokens
    pub hidden: SharedInputs, // of down
    pub experts: ExpertScratch,
    pub qkv: Shared<f32>,    // [kv heads][(group + 2)·head/16][m][16]
    pub attn: Shared<f32>,   // prefill: attention outputs [kv heads][m][group·head]
    pub spans: Shared<f32>,  // decode: attention states [kv heads][spans][queries][16 + head]
    pub logits: Shared<f32>, // [vocab/16][logits_rows][16]
}

/// Tokens of one attention item.
pub(crate) const ATTENTION_RUN: usize = 8;

/// Packed queries of one attention item (see `kernels::Queries`).
pub(crate) struct QueryBuffers {
    q: Vec<i8>,       // [head/16][queries][16], 8-bit caches
    scales: Vec<f32>, // [queries]
    sums: Vec<i32>,   // [queries]
    x: Vec<f32>,      // [head/16][queries][16], float caches
}

/// Buffers of one worker.
pub(crate) struct Local {
    pub row: Vec<f32>,     // one token, the widest matrix input
    pub gate_up: Vec<f32>, // one group of d_ff: [8 panels][m][16], or 4 without a gate
    pub act: Vec<f32>,     // [4 panels][m][16]
    pub states: Vec<f32>,  // attention states of a run of queries
    pub spans: Vec<f32>,   // the same, of the span in progress
    pub queries: QueryBuffers,
    pub pinned_queries: QueryBuffers, // the same queries, for pinned positions
    pub inputs: OwnInputs,            // of QKV, O, gate/up and the head, of up to 16 tokens
    pub routing: Routing,
    pub drawing: DrawScratch,
    pub profile: Profile,
    pub cancelled: bool, // how the last pass ended
}

impl Local {
    /// Ends a step: waits for the others and notes the time.
    pub(crate) fn step(&mut self, w: &mut Worker<'_>, step: PassStep) {
        w.barrier();
        self.profile.mark(step);
    }
}

impl QueryBuffers {
    /// All `n` queries.
    pub(crate) fn packed(&self, n: usize, head: usize) -> Queries<'_> {
        match self.x.is_empty() {
            true => Queries::Q8 {
                q: &self.q[..n * head],
                scales: &self.scales[..n],
                sums: &self.sums[..n],
            },
            false => Queries::F32(&self.x[..n * head]),
        }
    }

    /// The same, to be written.
    pub(crate) fn unpacked(&mut self, n: usize, head: usize) -> QueriesMut<'_> {
        match self.x.is_empty() {
            true => QueriesMut::Q8 {
                q: &mut self.q[..n * head],
                scales: &mut self.scales[..n],
                sums: &mut self.sums[..n],
            },
            false => QueriesMut::F32(&mut self.x[..n * head]),
        }
    }
}

impl Scratch {
    pub(crate) fn new(pool: &Pool, c: &Config, ctx: usize, logits_rows: usize) -> Self {
        let (m, d, quant) = (MAX_TOKENS, c.d_model_padded(), c.quant);
        Self {
            x: pool.shared(m * d),
            delta: pool.shared(if c.post_norms() { m * d } else { 0 }),
            cos: pool.shared(m * Self::angles(c)),
            sin: pool.shared(m * Self::angles(c)),
            pinned_cos: pool.shared(m * Self::angles(c)),
            pinned_sin: pool.shared(m * Self::angles(c)),
            inputs: SharedInputs::new(pool, quant, m, d.max(c.attn_out_inputs())),
            hidden: SharedInputs::new(pool, quant, m, c.d_ff_padded()),
            experts: ExpertScratch::new(pool, c),
            qkv: pool.shared(m * c.qkv_rows()),
            attn: pool.shared(m * c.n_kv_heads as usize * c.group() * c.head_padded()),
            spans: pool.shared(Self::span_values(c, ctx)),
            logits: pool.shared(logits_rows * c.vocab_padded()),
        }
    }

    /// Angles of one token.
    fn angles(c: &Config) -> usize {
        c.ropes.len() * c.rotary_dim as usize / 2
    }

    /// Values of `spans`: `r` sequences in `MAX_SPLIT` rows have at most `MAX_SPLIT - r + 1` rows
    /// each, and a column is as wide as the longest of them.
    fn span_values(c: &Config, ctx: usize) -> usize {
        let columns = (1..=MAX_SPLIT).map(|r| r * (MAX_SPLIT - r + 1)).max().unwrap_or(0);
        let heads = c.n_kv_heads as usize * c.group();
        columns * ctx.div_ceil(SPAN) * heads * AttendBlock::state_len(c.head_padded())
    }

    pub(crate) fn local(c: &Config, kv: KvType, kernels: Kernels) -> Local {
        let queries = ATTENTION_RUN.max(MAX_SPLIT) * c.group();
        let state = queries * AttendBlock::state_len(c.head_padded());
        let width = queries * c.head_padded();
        let eight_bit = kv == KvType::Q8;
        let buffers = || QueryBuffers {
            q: vec![0; if eight_bit { width } else { 0 }],
            scales: vec![0.0; queries],
            sums: vec![0; queries],
            x: vec![0.0; if eight_bit { 0 } else { width }],
        };
        Local {
            row: vec![0.0; c.d_model_padded().max(c.attn_out_inputs()).max(2 * c.head_padded())],
            gate_up: vec![0.0; 2 * GROUP * MAX_TOKENS],
            act: vec![0.0; GROUP * MAX_TOKENS],
            states: vec![0.0; state],
            spans: vec![0.0; state],
            queries: buffers(),
            pinned_queries: buffers(),
            inputs: OwnInputs::new(c.quant, c.d_model_padded().max(c.attn_out_inputs())),
            routing: Routing::new(c),
            drawing: DrawScratch::new(kernels, c.vocab_size as usize),
            profile: Profile::new(),
            cancelled: false,
        }
    }

    /// Bytes of all buffers, for the check against available memory.
    pub(crate) fn bytes(c: &Config, workers: usize, ctx: usize, logits_rows: usize) -> u64 {
        let (d, ff, heads) = (c.d_model_padded(), c.d_ff_padded(), c.attn_out_inputs());
        let stream = if c.post_norms() { 2 * d } else { d };
        let per_token = stream + 4 * Self::angles(c) + d.max(heads) + ff + c.qkv_rows() + heads;
        let logits = logits_rows * (c.vocab_padded() + d);
        let local = workers * (3 * GROUP * MAX_TOKENS + d.max(heads));
        let dense = 4 * (MAX_TOKENS * per_token + logits + local + Self::span_values(c, ctx));
        dense as u64
            + ExpertScratch::bytes(c, workers)
            + workers as u64 * DrawScratch::bytes(c.vocab_size as usize)
    }
}

/// Panels per item so that every worker gets several, and an item is worth claiming. Even, since
/// kernels take two at a time, and rounded down: with few items, one more than the others have is
/// what everybody waits for.
pub(crate) fn panels_per_item(panels: usize, workers: usize, k: usize) -> usize {
    const MIN_BYTES: usize = 16 * 1024;
    let fair = (panels / (workers * 4)) & !1;
    let worth = MIN_BYTES.div_ceil(LANES * k);
    fair.max(worth).next_multiple_of(2)
}
