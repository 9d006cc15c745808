//! The first step of a pass: embed tokens, and compute the RoPE angles of their positions.

use nanoinfer_kernels::{GROUP, LANES, Rotate, Trellis, pack, rope_table, trellis_values};

use super::scratch::Local;
use super::{Pass, gather};
use crate::model::weights::Panels;
use crate::pool::{Columns, Worker};

impl Pass<'_> {
    /// Writes embeddings to the residual stream, and computes the angles of all tokens. An item is a
    /// token.
    pub(crate) fn embed(&self, w: &Worker<'_>, local: &mut Local) {
        let m = self.m();
        let s = self.scratch;
        let c = self.config;
        let half = c.rotary_dim as usize / 2;
        let x = s.x.split(w, m * LANES, LANES);
        let (cos, sin) = (s.cos.split(w, m * half, half), s.sin.split(w, m * half, half));
        let pinned = self.slid.then(|| {
            (s.pinned_cos.split(w, m * half, half), s.pinned_sin.split(w, m * half, half))
        });
        for item in w.items(m) {
            let slot = self.slots[item.index()];
            let row = &mut local.row[..self.width()];
            if let Some(resumed) = self.part.resumed {
                gather(resumed, m, item.index(), 0, row);
            } else {
                self.embedding(slot.token as usize, row);
                row[c.d_model as usize..].fill(0.0); // rounding noise of the rotated padding
                row.iter_mut().for_each(|x| *x *= c.embedding_scale as f32);
            }
            let mut columns = x.take(&item);
            for (panel, lanes) in row.chunks_exact(LANES).enumerate() {
                columns.row(panel).copy_from_slice(lanes);
            }
            self.angles(slot.position, cos.take(&item), sin.take(&item));
            if let Some((cos, sin)) = &pinned {
                let position = slot.position - slot.slid.evicted;
                self.angles(position, cos.take(&item), sin.take(&item));
            }
        }
    }

    /// Computes the angles of a position for every kind of RoPE in the model.
    fn angles(&self, position: usize, mut cos: Columns<'_, f32>, mut sin: Columns<'_, f32>) {
        for (kind, (rope, &row)) in self.config.ropes.iter().zip(self.ropes).enumerate() {
            let turns = self.weights.rope_turns(self.file, row);
            let (cos, sin) = (cos.row(kind), sin.row(kind));
            rope_table(position as u64, turns, rope.magnitude, cos, sin);
        }
    }

    fn embedding(&self, token: usize, row: &mut [f32]) {
        let (panel, r) = (token / LANES, token % LANES);
        for (_, panels) in self.weights.token_embd.runs(self.file, panel..panel + 1) {
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
