//! Every buffer of a forward pass, allocated once.
//!
//! Activations are panel-major, `[width/16][m][16]`: sixteen outputs of one token are one cache
//! line, which is what a GEMM tile produces and what the next norm reads.

use nanoinfer_format::{Config, GROUP, LANES, Quant};
use nanoinfer_kernels::AttendBlock;

use crate::pool::{Pool, Shared};

/// Most tokens in one pass: prefill streams the weights once per this many.
pub(crate) const MAX_TOKENS: usize = 256;
/// Most tokens of one pass whose logits can be asked for.
pub(crate) const MAX_LOGITS: usize = 16;

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
    pub logits: Shared<f32>,    // [vocab/16][rows][16]
}

/// Buffers of one worker.
pub(crate) struct Local {
    pub row: Vec<f32>,     // one token, the widest matrix input
    pub gate_up: Vec<f32>, // one group of d_ff: [8 panels][m][16]
    pub act: Vec<f32>,     // [4 panels][m][16]
    pub state: Vec<f32>,   // one query's attention state
    pub span: Vec<f32>,    // the same, of the span in progress
    pub cancelled: bool,   // how the last pass ended
}

impl Scratch {
    pub(crate) fn new(pool: &Pool, c: &Config) -> Self {
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
            final_acts: ActBuffers::new(pool, quant, MAX_LOGITS, d),
            logits: pool.shared(MAX_LOGITS * c.vocab_padded()),
        }
    }

    pub(crate) fn local(c: &Config) -> Local {
        let state = AttendBlock::state_len(c.head_padded());
        Local {
            row: vec![0.0; c.d_model_padded().max(c.attn_out_inputs())],
            gate_up: vec![0.0; 2 * GROUP * MAX_TOKENS],
            act: vec![0.0; GROUP * MAX_TOKENS],
            state: vec![0.0; state],
            span: vec![0.0; state],
            cancelled: false,
        }
    }

    /// Bytes of all buffers, for the check against available memory.
    pub(crate) fn bytes(c: &Config, workers: usize) -> u64 {
        let (d, ff, heads) = (c.d_model_padded(), c.d_ff_padded(), c.attn_out_inputs());
        let per_token = d + c.head_dim as usize + d.max(heads) + ff + c.qkv_rows() + 2 * heads;
        let logits = MAX_LOGITS * (c.vocab_padded() + d);
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
