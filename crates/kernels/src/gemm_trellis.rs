//! The product of trellis-coded panels (see `trellis.rs`) and quantized inputs.
//!
//! Decoding yields lines of a Q8 panel, so the sums are those of `gemm.rs`, bit for bit. A few tokens
//! use each line as it is decoded, without storing it. A matrix unit takes groups as they are decoded, for
//! 16 tokens at once. Without it, `decoded.rs` decodes whole panels for many tokens.

use crate::gemm::{Epilogue, Gemm, check_inputs, check_shapes, scales_line, with_tile};
use crate::inputs::{QuantizedInputs, locate_token};
use crate::isa::codes::Codes;
use crate::layout::{
    GROUP, GROUP_LINES, LANES, LINE, Lanes, QUAD, TOKENS, TokenLine, WeightLine, q8_panel_bytes,
};
use crate::product::Product;
use crate::trellis::{BLOCK_INPUTS, BLOCK_LINES, trellis_panel_bytes};
use crate::trellis_decode::{Block, LEVELS, each_line};

/// Arguments of `gemm_trellis`, which multiplies consecutive trellis-coded panels by all tokens.
#[derive(Debug)]
pub struct GemmTrellis<'a> {
    /// Bits per weight, 2 to 5.
    pub bits: u8,
    /// Panels, `[p][16 f32 scales, k/32 blocks]`.
    pub w: &'a [u8],
    /// Stored inputs per row, a multiple of 64.
    pub k: usize,
    /// The packed inputs.
    pub inputs: QuantizedInputs<'a>,
    /// One value per row, or empty if there is no bias.
    pub bias: &'a [f32],
    /// Whether to add to `out` (a residual) instead of overwriting it.
    pub add: bool,
    /// `[p][m][16]`
    pub out: &'a mut [f32],
    /// Space for a decoded panel, at least [`decoded_panel_bytes`].
    pub decoded: &'a mut [u8],
}

/// Bytes needed to decode a panel of `k` inputs: a Q8 panel, wherever the next cache line begins.
pub const fn decoded_panel_bytes(k: usize) -> usize {
    q8_panel_bytes(k) + LINE
}

impl GemmTrellis<'_> {
    pub(crate) fn check(&self) {
        assert!((2..=5).contains(&self.bits));
        let panel = trellis_panel_bytes(self.bits.into(), self.k);
        let panels = self.w.len() / panel;
        assert_eq!(self.w.len(), panels * panel);
        check_shapes(panels, self.k, self.inputs.m, self.bias, self.out);
        check_inputs(&self.inputs, self.k);
        assert!(self.decoded.len() >= decoded_panel_bytes(self.k));
    }
}

/// Multiplies while decoding.
#[inline(always)]
pub(crate) fn gemm_coded<S: Product + Codes>(s: S, a: GemmTrellis<'_>) {
    match a.bits {
        2 => gemm::<S, 2>(s, a),
        3 => gemm::<S, 3>(s, a),
        4 => gemm::<S, 4>(s, a),
        _ => gemm::<S, 5>(s, a),
    }
}

#[inline(always)]
fn gemm<S: Product + Codes, const BITS: usize>(s: S, a: GemmTrellis<'_>) {
    let GemmTrellis { w, k, inputs, bias, add, out, .. } = a;
    let mut a = Gemm { w, k, inputs, bias, add, out };
    let whole = s.whole_coded_tiles::<BITS>(&mut a);
    if whole == inputs.m {
        return;
    }
    let panels = w.chunks_exact(trellis_panel_bytes(BITS, k));
    for (p, (w, out)) in panels.zip(a.out.chunks_exact_mut(inputs.m * LANES)).enumerate() {
        let w: &[WeightLine] = w.as_chunks().0;
        let row_scale = Some(&scales_line(&w[0]));
        let epilogue = Epilogue { row_scale, bias: bias.as_chunks().0.get(p), add };
        let (blocks, out) = (w[1..].as_chunks().0, out.as_chunks_mut().0);
        let mut at = whole;
        while at < inputs.m {
            let tokens = S::FUSED.min(inputs.m - at).min(TOKENS - at % TOKENS);
            with_tile!(tokens, fused::<S, BITS>(s, blocks, inputs, at, epilogue, &mut out[at..]));
            at += tokens;
        }
    }
}

/// One panel times `M` tokens starting at `at`, as in `gemm.rs`.
#[inline(always)]
fn fused<S: Codes, const M: usize, const BITS: usize>(
    s: S,
    blocks: &[[WeightLine; BITS]],
    inputs: QuantizedInputs<'_>,
    at: usize,
    epilogue: Epilogue<'_>,
    out: &mut [Lanes],
) {
    if M > S::FUSED {
        unreachable!("`Kernels::gemm_trellis` decodes panels for this ISA and so many tokens");
    }
    let levels = s.levels(&LEVELS[BITS - 2]);
    let (groups, _) = blocks.as_chunks::<{ GROUP / BLOCK_INPUTS }>();
    let (all_scales, lines) = (inputs.scales, inputs.scales.len());
    let (all_sums, all_x) = (&inputs.sums[..lines], &inputs.q.as_chunks().0[..lines]);
    let (first, step) = locate_token(at, groups.len(), inputs.m);
    let mut before = [s.zeros(); 4];
    let mut c = [s.splat(0.0); M];
    for (g, blocks) in groups.iter().enumerate() {
        let line = first + g * step;
        let scales: &[f32; M] = all_scales[line..].first_chunk().expect("checked");
        let sums: &[i32; M] = all_sums[line..].first_chunk().expect("checked");
        let x: &[TokenLine; M] = all_x[line..].first_chunk().expect("checked");
        let quads: [&[[i8; QUAD]; GROUP_LINES]; M] =
            std::array::from_fn(|m| x[m].as_chunks().0.first_chunk().expect("a group"));
        // A single token alternates between two accumulators, as in `gemm.rs`.
        let (mut acc, mut odd) = ([s.seed(0); M], [s.seed(0); M]);
        for m in 0..M {
            acc[m] = s.seed(sums[m]);
        }
        for (i, block) in blocks.iter().enumerate() {
            let block = Block::<S, BITS>::load(s, block, &mut before);
            macro_rules! dot {
                ($l:literal) => {
                    let line = block.line::<$l>(s, levels);
                    for m in 0..M {
                        let quad = &quads[m][BLOCK_LINES * i + $l];
                        if M == 1 && $l % 2 == 1 {
                            odd[m] = s.dot_once(odd[m], line, quad);
                        } else if M == 1 {
                            acc[m] = s.dot_once(acc[m], line, quad);
                        } else {
                            acc[m] = s.dot(acc[m], line, quad);
                        }
                    }
                };
            }
            each_line!(dot);
        }
        if M == 1 {
            acc[0] = s.add_i32(acc[0], odd[0]);
        }
        for m in 0..M {
            c[m] = s.fma(s.to_f32(acc[m]), s.splat(scales[m]), c[m]);
        }
    }
    epilogue.store(s, &c, out);
}
