//! Latent attention within a pass (DeepSeek-AI, "DeepSeek-V2", 2024).
//!
//! A token's keys and values in all heads are projections of one latent vector, which alone is cached, with a part
//! of the key that RoPE rotates. It is never expanded: a query is projected to the space of latent vectors instead,
//! and the weighted sum of latent vectors to a value. Attention is thus that of many queries to one key and value:
//!
//! ```text
//! input     query vector, rotated part of the key, latent vector        item = a run of panels
//! queries   of all heads, from the normalized query vector              item = a run of panels
//! absorb    each head's query, to the latent space                      item = a head
//! attend    see attend.rs
//! values    each head's output, from the latent space                   item = a head
//! ```

use nanoinfer_format::{Latent, pad};
use nanoinfer_kernels::{GROUP, LANES, NormKind, NormParams, NormRow, Pack, Rotate, TOKENS};

use super::inputs::{Input, Needs, OwnInputs, Rows};
use super::scratch::Local;
use super::{Pass, gather};
use crate::model::weights::{Matrix, Norm};
use crate::pool::Worker;

impl Pass<'_> {
    /// RMSNorm over the `d` values in `x`, which may be padded, with the ε of latent attention.
    fn norm_latent(&self, x: &mut [f32], d: u32, norm: Option<&Norm>, latent: &Latent) {
        let Some(norm) = norm else { return };
        let weight = &norm.weight(self.file)[..x.len()];
        let (d, eps) = (d as usize, latent.norm_eps as f32);
        let norm = NormParams { kind: NormKind::Rms, weight, bias: &[], d, eps };
        self.kernels.norm_row(NormRow { x, norm });
    }

    /// Packs the normalized vectors from which queries are projected.
    pub(crate) fn pack_query_vectors(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        latent: &Latent,
        (norm, needs): (Option<&Norm>, Needs),
    ) {
        let (m, width) = (self.m(), pad(latent.q_rank as usize, LANES));
        let rows = Rows { m, k: pad(width, GROUP), needs };
        let qkv = self.scratch.qkv.read(w);
        let Local { row, inputs, .. } = local;
        let x = &mut row[..rows.k];
        x.fill(0.0);
        self.pack_rows(w, inputs, rows, |tokens, tile| {
            for (row, token) in tokens.enumerate() {
                gather(qkv, m, token, 0, &mut x[..width]);
                self.norm_latent(&mut x[..width], latent.q_rank, norm, latent);
                for to in tile.forms(row) {
                    self.kernels.pack(Pack { x, m: 1, at: 0, n: 1, rotation: GROUP, to });
                }
            }
        });
    }

    /// Projects the part of each head's queries without RoPE to the latent space. An item is a head.
    pub(crate) fn absorb_queries(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        latent: &Latent,
        keys: &Matrix,
    ) {
        let (m, heads) = (self.m(), self.config.n_heads as usize);
        let (rows, panels) = (Rows { m, k: keys.k, needs: Needs::of(keys) }, keys.panels / heads);
        let (head, width) = (self.config.latent_query_rows(), pad(latent.nope_dim as usize, LANES));
        let queries = self.scratch.latent_queries.read(w);
        let (all, each) = (keys.panels * m * LANES, panels * m * LANES);
        let split = self.scratch.absorbed.split(w, all, each);
        let Local { row, head_inputs, decoded, .. } = local;
        for item in w.items(heads) {
            let index = item.index();
            self.pack_head(row, head_inputs, (rows, GROUP), |token, x| {
                gather(queries, m, token, index * head, &mut x[..width]);
            });
            let from = Input::own(m, head_inputs).packed(w, rows.k, rows.needs);
            let (range, out) = (index * panels..(index + 1) * panels, split.take(&item).run());
            self.product(keys, range, &from, false, out, decoded);
        }
    }

    /// Packs one head's inputs of all tokens, which `fill` writes, in `rows`.
    fn pack_head(
        &self,
        row: &mut [f32],
        inputs: &mut OwnInputs,
        (rows, rotation): (Rows, usize),
        mut fill: impl FnMut(usize, &mut [f32]),
    ) {
        let x = &mut row[..rows.k];
        x.fill(0.0);
        for at in (0..rows.m).step_by(TOKENS) {
            let mut tile = inputs.tile_at(rows, at / TOKENS);
            for token in at..rows.m.min(at + TOKENS) {
                fill(token, x);
                for to in tile.forms(token - at) {
                    self.kernels.pack(Pack { x, m: 1, at: 0, n: 1, rotation, to });
                }
            }
        }
    }

    /// The query of a head before RoPE: its rotated part, then what it looks for in latent vectors.
    pub(crate) fn latent_query(
        &self,
        w: &Worker<'_>,
        latent: &Latent,
        (token, head): (usize, usize),
        x: &mut [f32],
    ) {
        let (m, rope) = (self.m(), self.config.rotary_dim as usize);
        let at = head * self.config.latent_query_rows() + pad(latent.nope_dim as usize, LANES);
        gather(self.scratch.latent_queries.read(w), m, token, at, &mut x[..rope]);
        let at = head * latent.kv_rank as usize;
        gather(self.scratch.absorbed.read(w), m, token, at, &mut x[rope..]);
    }

    /// The key of a token before RoPE, and its value: both contain the normalized latent vector.
    pub(crate) fn latent_key(
        &self,
        w: &Worker<'_>,
        latent: &Latent,
        (token, norm): (usize, Option<&Norm>),
        (key, value): (&mut [f32], &mut [f32]),
    ) {
        let (m, rope) = (self.m(), self.config.rotary_dim as usize);
        let at = pad(latent.q_rank as usize, LANES);
        gather(self.scratch.qkv.read(w), m, token, at, key);
        self.norm_latent(&mut key[rope..], latent.kv_rank, norm, latent);
        value.copy_from_slice(&key[rope..]);
        self.kernels.rotate(Rotate { x: value, block: self.config.value_rotation as usize });
    }

    /// Projects the weighted sums of latent vectors to the outputs of heads. An item is a head.
    pub(crate) fn project_values(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        layer: usize,
        values: &Matrix,
    ) {
        let (m, heads) = (self.m(), self.config.n_heads as usize);
        let shape = self.config.attention_of(layer);
        let rows = Rows { m, k: values.k, needs: Needs::of(values) };
        let (panels, width) = (values.panels / heads, shape.value_padded());
        let (all, each) = (values.panels * m * LANES, panels * m * LANES);
        let split = self.scratch.head_values.split(w, all, each);
        let Local { row, states, head_inputs, decoded, .. } = local;
        for item in w.items(heads) {
            let index = item.index();
            // They are rotated like the cached values.
            self.pack_head(row, head_inputs, (rows, 1), |token, x| {
                let (kv, g) = (index / shape.group(), index % shape.group());
                let at = (layer, token, kv);
                self.head_outputs(w, states, (&shape, at), g..g + 1, &mut x[..width]);
            });
            let from = Input::own(m, head_inputs).packed(w, rows.k, rows.needs);
            let (range, out) = (index * panels..(index + 1) * panels, split.take(&item).run());
            self.product(values, range, &from, false, out, decoded);
        }
    }

    /// Packs the outputs of all heads as inputs of the output projection.
    pub(crate) fn pack_head_values(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        layer: usize,
        needs: Needs,
    ) {
        let (m, shape) = (self.m(), self.config.attention_of(layer));
        let rows = Rows { m, k: shape.output_inputs(), needs };
        let width = shape.n_heads * pad(shape.output_dim, LANES);
        let values = self.scratch.head_values.read(w);
        let Local { row, inputs, .. } = local;
        let x = &mut row[..rows.k];
        x.fill(0.0);
        self.pack_rows(w, inputs, rows, |tokens, tile| {
            for (row, token) in tokens.enumerate() {
                gather(values, m, token, 0, &mut x[..width]);
                for to in tile.forms(row) {
                    self.kernels.pack(Pack { x, m: 1, at: 0, n: 1, rotation: GROUP, to });
                }
            }
        });
    }
}
