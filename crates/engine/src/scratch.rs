//! Every buffer of a forward pass, allocated once.
//!
//! Activations are panel-major, `[width/16][m][16]`: sixteen outputs of one token are one cache
//! line, which is what a GEMM tile produces and what the next norm reads.

use nanoinfer_format::{Config, GROUP, LANES, Quant};
use nanoinfer_kernels::{AttendBlock, Queries, QueriesMut};

use crate::cache::KvType;
use crate::pool::{Pool, Shared, Worker};
use crate::profile::{PassStep, Profile};

/// Most tokens in one pass: prefill streams the weights once per this many.
pub(crate) const MAX_TOKENS: usize = 256;
/// Packed inputs of a matrix product, for up to `m` tokens (see `kernels::Acts`).
pub(crate) struct ActBuffers {
    pub q: Shared<i8>,       // [k/64][tiles][16][tile][4], q8 models
    pub scales: Shared<f32>, // [k/64][m]
    pub sums: Shared<i32>,   // [k/64][m]
    pub x: Shared<f32>,      // [k/64][tiles][64][tile], f32 models
}

impl ActBuffers {
    fn new(pool: &Pool, quant: Quant, m: usize, k: usize) -> Self {
        let (q, f) = if quant == Quant::Q8 { (1, 0) } else { (0, 1) };
        let groups = m * (k / GROUP);
        Self {
            q: pool.shared(q * m * k),
            scales: pool.shared(q * groups),
            sums: pool.shared(q * groups),
            x: pool.shared(f * m * k),
        }
    }
}

/// Buffers all workers share.
pub(crate) struct Scratch {
    pub x: Shared<f32>,         // residual stream [d_model/16][m][16]
    pub cos: Shared<f32>,       // [m][head_dim/2]
    pub sin: Shared<f32>,       // [m][head_dim/2]
    pub acts: ActBuffers,       // input of QKV, O and gate/up
    pub hidden: ActBuffers,     // input of down
    pub qkv: Shared<f32>,       // [kv heads][(group + 2)·head/16][m][16]
    pub q: Shared<f32>,         // rotated queries [kv heads][m][group·head]
    pub attn: Shared<f32>,      // attention output [kv heads][m][group·head]
    pub final_acts: ActBuffers, // input of the output layer
    pub logits: Shared<f32>,    // [vocab/16][logits_rows][16]
}

/// Tokens of one attention item.
pub(crate) const ATTENTION_RUN: usize = 8;

/// Packed queries of one attention item (see `kernels::Queries`).
pub(crate) struct QueryBuffers {
    pub q: Vec<i8>,       // tiles of [head/4][tile][4], 8-bit caches
    pub scales: Vec<f32>, // [queries]
    pub sums: Vec<i32>,   // [queries]
    pub x: Vec<f32>,      // tiles of [head][tile], float caches
}

/// Buffers of one worker.
pub(crate) struct Local {
    pub row: Vec<f32>,     // one token, the widest matrix input
    pub gate_up: Vec<f32>, // one group of d_ff: [8 panels][m][16]
    pub act: Vec<f32>,     // [4 panels][m][16]
    pub states: Vec<f32>,  // attention states of a run of queries
    pub spans: Vec<f32>,   // the same, of the span in progress
    pub queries: QueryBuffers,
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
    /// The tile of `n` queries that begins with query `from`.
    pub(crate) fn tile(&self, from: usize, n: usize, head: usize) -> Queries<'_> {
        let (values, each) = (from * head..(from + n) * head, from..from + n);
        match self.x.is_empty() {
            true => Queries::Q8 {
                q: &self.q[values],
                scales: &self.scales[each.clone()],
                sums: &self.sums[each],
            },
            false => Queries::F32(&self.x[values]),
        }
    }

    /// The same, to be packed for a cache of this type.
    pub(crate) fn tile_mut(
        &mut self,
        kv: KvType,
        from: usize,
        n: usize,
        head: usize,
    ) -> QueriesMut<'_> {
        let (values, each) = (from * head..(from + n) * head, from..from + n);
        match kv {
            KvType::Q8 => QueriesMut::Q8 {
                q: &mut self.q[values],
                scales: &mut self.scales[each.clone()],
                sums: &mut self.sums[each],
            },
            KvType::F16 | KvType::F32 => QueriesMut::F32(&mut self.x[values]),
        }
    }
}

impl Scratch {
    pub(crate) fn new(pool: &Pool, c: &Config, logits_rows: usize) -> Self {
        let (m, d, quant) = (MAX_TOKENS, c.d_model_padded(), c.quant);
        let (kv, unit) = (c.n_kv_heads as usize, c.group() * c.head_padded());
        let widest = d.max(c.attn_out_inputs());
        Self {
            x: pool.shared(m * d),
            cos: pool.shared(m * c.head_dim as usize / 2),
            sin: pool.shared(m * c.head_dim as usize / 2),
            acts: ActBuffers::new(pool, quant, m, widest),
            hidden: ActBuffers::new(pool, quant, m, c.d_ff_padded()),
            qkv: pool.shared(m * c.qkv_rows()),
            q: pool.shared(m * kv * unit),
            attn: pool.shared(m * kv * unit),
            final_acts: ActBuffers::new(pool, quant, logits_rows, d),
            logits: pool.shared(logits_rows * c.vocab_padded()),
        }
    }

    pub(crate) fn local(c: &Config, kv: KvType) -> Local {
        let queries = ATTENTION_RUN * c.group();
        let state = queries * AttendBlock::state_len(c.head_padded());
        let width = queries * c.head_padded();
        let eight_bit = kv == KvType::Q8;
        Local {
            row: vec![0.0; c.d_model_padded().max(c.attn_out_inputs()).max(2 * c.head_padded())],
            gate_up: vec![0.0; 2 * GROUP * MAX_TOKENS],
            act: vec![0.0; GROUP * MAX_TOKENS],
            states: vec![0.0; state],
            spans: vec![0.0; state],
            queries: QueryBuffers {
                q: vec![0; if eight_bit { width } else { 0 }],
                scales: vec![0.0; queries],
                sums: vec![0; queries],
                x: vec![0.0; if eight_bit { 0 } else { width }],
            },
            profile: Profile::new(),
            cancelled: false,
        }
    }

    /// Bytes of all buffers, for the check against available memory.
    pub(crate) fn bytes(c: &Config, workers: usize, logits_rows: usize) -> u64 {
        let (d, ff, heads) = (c.d_model_padded(), c.d_ff_padded(), c.attn_out_inputs());
        let per_token = d + c.head_dim as usize + d.max(heads) + ff + c.qkv_rows() + 2 * heads;
        let logits = logits_rows * (c.vocab_padded() + d);
        let local = workers * (3 * GROUP * MAX_TOKENS + d.max(heads));
        4 * (MAX_TOKENS * per_token + logits + local) as u64
    }
}

/// Panels per item so that every worker gets several, and an item is worth claiming.
pub(crate) fn panels_per_item(panels: usize, workers: usize, k: usize) -> usize {
    const MIN_BYTES: usize = 16 * 1024;
    let fair = panels.div_ceil(workers * 8);
    let worth = MIN_BYTES.div_ceil(LANES * k);
    fair.max(worth).next_multiple_of(2)
}
