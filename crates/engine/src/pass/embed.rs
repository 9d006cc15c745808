//! The first step of a pass: embed tokens, and compute the RoPE angles of their positions. Also what enters
//! later layers of a token's embeddings.

use nanoinfer_format::pad;
use nanoinfer_kernels::{
    Activate, GROUP, LANES, Pack, Rotate, Trellis, pack, rope_table, trellis_values,
};

use super::inputs::{Needs, Rows};
use super::scratch::Local;
use super::{Pass, gather};
use crate::model::weights::{Matrix, Panels};
use crate::pool::{Columns, Shared, Worker};

impl Pass<'_> {
    /// Writes embeddings to the residual stream, and computes the angles of all tokens. An item is a
    /// token.
    pub(crate) fn embed<'p>(&'p self, w: &'p Worker<'_>, local: &mut Local) {
        let m = self.m();
        let s = self.scratch;
        let c = self.config;
        let half = c.rotary_dim as usize / 2;
        let x = s.x.split(w, m * LANES, LANES);
        let (cos, sin) = (s.cos.split(w, m * half, half), s.sin.split(w, m * half, half));
        let pinned = self.slid.then(|| {
            (s.pinned_cos.split(w, m * half, half), s.pinned_sin.split(w, m * half, half))
        });
        // Their projections read the embeddings from `delta`, as the stream may be that of a later layer.
        let entering = self.weights.layer_embeddings.as_ref().map(|e| {
            let split = |to: &'p Shared<f32>| to.split(w, m * LANES, LANES);
            (&e.table, split(&s.layer_embedded), split(&s.delta))
        });
        for item in w.items(m) {
            let slot = self.slots[item.index()];
            let row = &mut local.row[..self.width()];
            if self.part.resumed.is_none() || entering.is_some() {
                self.embedding(&self.weights.token_embd, slot.token as usize, row);
                row[c.d_model as usize..].fill(0.0); // rounding noise of the rotated padding
                row.iter_mut().for_each(|x| *x *= c.embedding_scale as f32);
            }
            if let Some((_, _, delta)) = &entering {
                write_row(delta.take(&item), row);
            }
            if let Some(resumed) = self.part.resumed {
                gather(resumed, m, item.index(), 0, row);
            }
            write_row(x.take(&item), row);
            if let Some((table, embedded, _)) = &entering {
                let row = &mut local.row[..table.k];
                self.embedding(table, slot.token as usize, row);
                write_row(embedded.take(&item), &row[..c.layer_embeddings()]);
            }
            self.angles(slot.position, cos.take(&item), sin.take(&item));
            if let Some((cos, sin)) = &pinned {
                let position = slot.position - slot.slid.evicted;
                self.angles(position, cos.take(&item), sin.take(&item));
            }
        }
    }

    /// Packs what enters a layer: the token's embedding and its normalized projection, times the activation of
    /// the gates.
    pub(crate) fn pack_entering(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        layer: usize,
        needs: Needs,
    ) {
        let Some(entering) = &self.weights.layer_embeddings else { return };
        let (m, s, width) = (self.m(), self.scratch, self.config.layer_embedding as usize);
        let rows = Rows { m, k: pad(width, GROUP), needs };
        let (embedded, projected) = (s.layer_embedded.read(w), s.layer_projected.read(w));
        let gates = s.layer_gates.read(w);
        let Local { row, gates: other, gate_up: pairs, inputs, .. } = local;
        let (x, other, pairs) = (&mut row[..rows.k], &mut other[..width], &mut pairs[..2 * width]);
        x.fill(0.0);
        self.pack_rows(w, inputs, rows, |tokens, tile| {
            for (row, token) in tokens.enumerate() {
                gather(embedded, m, token, layer * width, other);
                gather(projected, m, token, layer * width, &mut x[..width]);
                self.norm_row(&mut x[..width], width, Some(&entering.norm));
                x.iter_mut().zip(&*other).for_each(|(x, y)| *x += y);
                gather(gates, m, token, 0, other);
                let lanes = other.as_chunks::<LANES>().0.iter().zip(x.as_chunks::<LANES>().0);
                for (pair, (gate, x)) in pairs.chunks_exact_mut(2 * LANES).zip(lanes) {
                    pair[..LANES].copy_from_slice(gate);
                    pair[LANES..].copy_from_slice(x);
                }
                let (activation, out) = (self.activation(layer), &mut x[..width]);
                self.kernels.activate(Activate { activation, gated: true, x: &*pairs, m: 1, out });
                for to in tile.forms(row) {
                    self.kernels.pack(Pack { x, m: 1, at: 0, n: 1, rotation: GROUP, to });
                }
            }
        });
    }

    /// Computes the angles of a position for every kind of RoPE in the model.
    fn angles(&self, position: usize, mut cos: Columns<'_, f32>, mut sin: Columns<'_, f32>) {
        for (kind, (rope, &row)) in self.config.ropes.iter().zip(self.ropes).enumerate() {
            let turns = self.weights.rope_turns(self.file, row);
            let (cos, sin) = (cos.row(kind), sin.row(kind));
            rope_table(position as u64, turns, rope.magnitude, cos, sin);
        }
    }

    /// The row of a token in a table.
    fn embedding(&self, table: &Matrix, token: usize, row: &mut [f32]) {
        let (panel, r) = (token / LANES, token % LANES);
        for (_, panels) in table.runs(self.file, panel..panel + 1) {
            match panels {
                Panels::Q8(bytes) => {
                    pack::q8_row(bytes, r, row);
                    self.kernels.rotate(Rotate { x: row, block: GROUP }); // its own inverse
                }
                Panels::Trellis(bits, bytes) => {
                    trellis_values(Trellis::of(bits), bytes, r, row);
                    self.kernels.rotate(Rotate { x: row, block: GROUP });
                }
                Panels::F32(values) => pack::f32_row(values, r, row),
            }
        }
    }
}

/// Writes a token's row to its column of panel-major activations.
fn write_row(mut to: Columns<'_, f32>, row: &[f32]) {
    for (panel, lanes) in row.chunks_exact(LANES).enumerate() {
        to.row(panel).copy_from_slice(lanes);
    }
}
