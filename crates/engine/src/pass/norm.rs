//! The steps that normalize: the residual stream before a product, the output of a product before it is
//! added to the stream, and queries and keys over all heads.

use std::ops::Range;

use nanoinfer_format::{self as format, AttentionShape, NanoFile, pad};
use nanoinfer_kernels::{GROUP, Kernels, LANES, NormKind, NormPack, NormParams, NormRow, Pack};

use super::inputs::{Needs, Rows, Tile};
use super::scratch::Local;
use super::{Pass, gather};
use crate::model::weights::{Attention, ExpertNorms, Norm, Vector};
use crate::pool::{Columns, Shared, Worker};

impl Pass<'_> {
    /// Packs the residual stream, normalized if there is a norm, as the next product's input.
    pub(crate) fn pack_norm(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        norm: Option<&Norm>,
        needs: Needs,
    ) {
        self.pack_stream(w, local, &self.scratch.x, (norm, needs));
    }

    /// Packs activations as wide as the residual stream, likewise.
    pub(crate) fn pack_stream(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        from: &Shared<f32>,
        (norm, needs): (Option<&Norm>, Needs),
    ) {
        let x = from.read(w);
        let rows = Rows { m: self.m(), k: self.width(), needs };
        self.pack_rows(w, &mut local.inputs, rows, |rows, tile| {
            self.norm_tile(x, norm, rows, (tile, 0));
        });
    }

    /// Normalizes the rows that request logits, and packs them as the output layer's input.
    pub(crate) fn pack_requested(&self, w: &Worker<'_>, local: &mut Local) {
        let x = self.scratch.x.read(w);
        let norm = Some(&self.weights.output_norm);
        let needs = Needs::of(&self.weights.output);
        let rows = Rows { m: self.requested.len(), k: self.width(), needs };
        self.pack_rows(w, &mut local.inputs, rows, |rows, tile| {
            for (row, &at) in self.requested[rows].iter().enumerate() {
                self.norm_tile(x, norm, at..at + 1, (tile, row));
            }
        });
    }

    /// Packs tokens `rows` of the residual stream into a tile, starting at `row`.
    fn norm_tile(
        &self,
        x: &[f32],
        norm: Option<&Norm>,
        rows: Range<usize>,
        (tile, row): (&mut Tile<'_>, usize),
    ) {
        let m = self.m();
        let at = rows.start;
        let n = rows.len();
        let x = &x[..m * self.width()];
        for to in tile.forms(row) {
            match norm {
                Some(norm) => {
                    let norm = self.norm_of(norm);
                    self.kernels.norm_pack(NormPack { x, m, at, n, norm, to });
                }
                None => self.kernels.pack(Pack { x, m, at, n, rotation: GROUP, to }),
            }
        }
    }

    /// Parameters of a norm over the whole width.
    fn norm_of(&self, norm: &Norm) -> NormParams<'_> {
        norm_params(self.file, norm)
    }

    /// Normalizes the product in `delta`, adds it to the residual stream, and multiplies the sum by `scale`. An
    /// item is a token.
    pub(crate) fn add_normed(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        norm: &Norm,
        scale: Option<&Vector>,
    ) {
        let (m, s) = (self.m(), self.scratch);
        let (delta, x) = (s.delta.read(w), s.x.split(w, m * LANES, LANES));
        let row = &mut local.row[..self.width()];
        for item in w.items(m) {
            norm_token(self.kernels, (self.file, norm), (delta, m, item.index()), row);
            self.add_row(row, &mut x.take(&item), scale);
        }
    }

    /// Normalizes the output of experts and that of the network beside them, which is in `delta`, then their sum,
    /// and adds it to the residual stream as above.
    pub(crate) fn add_normed_experts(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        (norms, norm): (&ExpertNorms, &Norm),
        scale: Option<&Vector>,
    ) {
        let (m, s) = (self.m(), self.scratch);
        let (delta, sum, x) =
            (s.delta.read(w), s.experts.sum.read(w), s.x.split(w, m * LANES, LANES));
        let (row, other) = (&mut local.row[..self.width()], &mut local.gates[..self.width()]);
        for item in w.items(m) {
            let at = item.index();
            norm_token(self.kernels, (self.file, &norms.shared_output), (delta, m, at), row);
            norm_token(self.kernels, (self.file, &norms.output), (sum, m, at), other);
            row.iter_mut().zip(&*other).for_each(|(x, y)| *x += y);
            self.kernels.norm_row(NormRow { x: row, norm: self.norm_of(norm) });
            self.add_row(row, &mut x.take(&item), scale);
        }
    }

    /// Adds a row to a token of the residual stream, and multiplies the sum by `scale`.
    fn add_row(&self, row: &[f32], to: &mut Columns<'_, f32>, scale: Option<&Vector>) {
        let scale = scale.map_or(1.0, |scale| scale.values(self.file)[0]);
        for (panel, lanes) in row.chunks_exact(LANES).enumerate() {
            to.row(panel).iter_mut().zip(lanes).for_each(|(x, y)| *x = (*x + y) * scale);
        }
    }

    /// Normalizes queries and keys of each token over all heads. An item is a token.
    pub(crate) fn norm_all_heads(
        &self,
        w: &Worker<'_>,
        local: &mut Local,
        (attention, layer): (&Attention, usize),
    ) {
        let (m, shape) = (self.m(), self.config.attention_of(layer));
        let (group, key) = (shape.group(), shape.key_at());
        let qkv = self.scratch.qkv.split(w, m * LANES, LANES);
        let row = &mut local.row;
        for item in w.items(m) {
            let mut token = qkv.take(&item);
            self.norm_heads(row, (&mut token, &shape), 0..group, attention.q_norm.as_ref());
            if shape.cache_of.is_none() {
                let norm = attention.k_norm.as_ref();
                self.norm_heads(row, (&mut token, &shape), key..key + 1, norm);
            }
        }
    }

    /// Applies one norm over `heads` of every KV head's unit.
    fn norm_heads(
        &self,
        row: &mut [f32],
        (token, shape): (&mut Columns<'_, f32>, &AttentionShape),
        heads: Range<usize>,
        norm: Option<&Norm>,
    ) {
        let panels = shape.head_padded() / LANES;
        let (kv_heads, unit) = (shape.n_kv_heads, shape.unit_heads());
        let panel = |kv: usize, i: usize| (kv * unit + heads.start) * panels + i;
        let each = (0..kv_heads).flat_map(|kv| (0..heads.len() * panels).map(move |i| (kv, i)));
        let row = &mut row[..kv_heads * heads.len() * panels * LANES];
        for ((kv, i), lanes) in each.clone().zip(row.chunks_exact_mut(LANES)) {
            lanes.copy_from_slice(token.row(panel(kv, i)));
        }
        self.norm_row(row, kv_heads * heads.len() * shape.head_dim, norm);
        for ((kv, i), lanes) in each.zip(row.chunks_exact(LANES)) {
            token.row(panel(kv, i)).copy_from_slice(lanes);
        }
    }

    /// RMSNorm over the `d` values in `x`, which may be padded; no-op without a norm.
    pub(crate) fn norm_row(&self, x: &mut [f32], d: usize, norm: Option<&Norm>) {
        let Some(norm) = norm else { return };
        let (weight, bias) = (norm.weight(self.file), norm.bias(self.file));
        let eps = self.config.norm_eps as f32;
        let norm = NormParams { kind: NormKind::Rms, weight, bias, d, eps };
        self.kernels.norm_row(NormRow { x, norm });
    }

    /// LayerNorm over the `d` values in `x`, which may be padded, with the weights of head `index`; no-op
    /// without a norm.
    pub(crate) fn norm_head(&self, x: &mut [f32], (index, d): (usize, usize), norm: Option<&Norm>) {
        let Some(norm) = norm else { return };
        let weight = &norm.weight(self.file)[index * x.len()..][..x.len()];
        let eps = self.config.norm_eps as f32;
        let norm = NormParams { kind: NormKind::Layer, weight, bias: &[], d, eps };
        self.kernels.norm_row(NormRow { x, norm });
    }
}

/// Parameters of a norm over the whole width.
fn norm_params<'f>(file: &'f NanoFile, norm: &Norm) -> NormParams<'f> {
    let config = file.config();
    let kind = match config.norm {
        format::Norm::Rms => NormKind::Rms,
        format::Norm::Layer => NormKind::Layer,
    };
    let (weight, bias) = (norm.weight(file), norm.bias(file));
    let (d, eps) = (config.d_model as usize, config.norm_eps as f32);
    NormParams { kind, weight, bias, d, eps }
}

/// Writes token `row` of the `m` tokens in the residual stream `x` to `to`, both padded, after a norm.
pub(crate) fn norm_token(
    kernels: &Kernels,
    (file, norm): (&NanoFile, &Norm),
    (x, m, row): (&[f32], usize, usize),
    to: &mut [f32],
) {
    let written = pad(file.config().d_model as usize, LANES);
    gather(x, m, row, 0, &mut to[..written]);
    to[written..].fill(0.0);
    kernels.norm_row(NormRow { x: to, norm: norm_params(file, norm) });
}
