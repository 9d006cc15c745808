//! Matrix times activations, where a transformer spends nearly all of its time.
//!
//! One panel of 16 output rows times a tile of M tokens, all in registers:
//!
//! ```text
//! for each group g of 64 inputs:          acc[M][16] = seed            int32, exact
//!     for each of its 16 quads:           acc[m] += panel line · quad[m]
//!     c[m] = fma(acc[m], scale[g][m], c[m])                            f32, g ascending
//! out[m] = c[m] · row scale (+ bias) (+ previous out[m])
//! ```
//!
//! A weight byte is read once per tile and used M times; an activation quad is read once per panel and
//! used 16 times. With M = 1 this is the GEMV of decoding: nothing is reused, and memory bandwidth is the
//! only limit. K is never split, so a logit does not depend on the thread count.

use crate::inputs::{F32Inputs, QuantizedInputs, locate_token, packed_rows};
use crate::isa::{AHEAD, Simd};
use crate::layout::{
    GROUP, GROUP_LINES, LANES, LINE, Lanes, QUAD, TOKENS, TokenLine, WeightLine, f32_panel_len,
    q8_panel_bytes,
};

/// Maximum number of tokens in one tile.
pub const MAX_TILE: usize = 12;

/// Arguments of `gemm_q8`, which multiplies consecutive panels by all tokens.
#[derive(Debug)]
pub struct Gemm<'a> {
    /// Panels, `[p][16 f32 scales, k/4 lines]`.
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
}

/// Arguments of `gemm_f32`, the product in the reference encoding.
#[derive(Debug)]
pub struct GemmF32<'a> {
    /// Panels, `[p][k][16]`.
    pub w: &'a [f32],
    /// Stored inputs per row, a multiple of 64.
    pub k: usize,
    /// The packed inputs.
    pub inputs: F32Inputs<'a>,
    /// One value per row, or empty if there is no bias.
    pub bias: &'a [f32],
    /// Whether to add to `out` (a residual) instead of overwriting it.
    pub add: bool,
    /// `[p][m][16]`
    pub out: &'a mut [f32],
}

pub(crate) fn check_shapes(panels: usize, k: usize, m: usize, bias: &[f32], out: &[f32]) {
    assert!(k > 0 && k.is_multiple_of(GROUP) && m > 0);
    assert_eq!(out.len(), panels * m * LANES);
    assert!(bias.is_empty() || bias.len() == panels * LANES);
}

pub(crate) fn check_inputs(inputs: &QuantizedInputs<'_>, k: usize) {
    let lines = packed_rows(inputs.m) * k / GROUP;
    assert_eq!(inputs.q.len(), GROUP * lines);
    assert!(inputs.scales.len() == lines && inputs.sums.len() == lines);
}

impl Gemm<'_> {
    pub(crate) fn check(&self) {
        let panels = self.w.len() / q8_panel_bytes(self.k);
        assert_eq!(self.w.len(), panels * q8_panel_bytes(self.k));
        check_shapes(panels, self.k, self.inputs.m, self.bias, self.out);
        check_inputs(&self.inputs, self.k);
    }

    /// The part of the product that covers `n` panels starting at panel `p`.
    #[inline(always)]
    fn panels(&mut self, p: usize, n: usize) -> Gemm<'_> {
        let (panel, out) = (q8_panel_bytes(self.k), self.inputs.m * LANES);
        Gemm {
            w: &self.w[p * panel..(p + n) * panel],
            bias: if self.bias.is_empty() { &[] } else { &self.bias[p * LANES..(p + n) * LANES] },
            out: &mut self.out[p * out..(p + n) * out],
            ..*self
        }
    }
}

impl GemmF32<'_> {
    pub(crate) fn check(&self) {
        let panels = self.w.len() / f32_panel_len(self.k);
        assert_eq!(self.w.len(), panels * f32_panel_len(self.k));
        check_shapes(panels, self.k, self.inputs.m, self.bias, self.out);
        assert_eq!(self.inputs.x.len(), packed_rows(self.inputs.m) * self.k);
    }
}

/// Expands to the call with `M` = `$m`, from 1 to 12.
macro_rules! with_tile {
    ($m:expr, $f:ident::<$s:ty, $p:tt>($($args:expr),*)) => {
        match $m {
            1 => $f::<$s, 1, $p>($($args),*),
            2 => $f::<$s, 2, $p>($($args),*),
            3 => $f::<$s, 3, $p>($($args),*),
            4 => $f::<$s, 4, $p>($($args),*),
            5 => $f::<$s, 5, $p>($($args),*),
            6 => $f::<$s, 6, $p>($($args),*),
            7 => $f::<$s, 7, $p>($($args),*),
            8 => $f::<$s, 8, $p>($($args),*),
            9 => $f::<$s, 9, $p>($($args),*),
            10 => $f::<$s, 10, $p>($($args),*),
            11 => $f::<$s, 11, $p>($($args),*),
            _ => $f::<$s, 12, $p>($($args),*),
        }
    };
}
pub(crate) use with_tile;

/// All panels times the tokens starting at `from`, in tiles that fit into the registers.
#[inline(always)]
pub(crate) fn register_tiles<S: Simd>(s: S, mut a: Gemm<'_>, from: usize) {
    let (panels, m) = (a.w.len() / q8_panel_bytes(a.k), a.inputs.m);
    let mut p = 0;
    while p < panels {
        let n = if panels - p >= S::PANELS { S::PANELS } else { 1 };
        let mut part = a.panels(p, n);
        let mut at = from;
        while at < m {
            let tokens = S::TILE.min(m - at).min(TOKENS - at % TOKENS);
            if n == 1 {
                with_tile!(tokens, tile_q8::<S, 1>(s, &mut part, at));
            } else {
                with_tile!(tokens, tile_q8::<S, 2>(s, &mut part, at));
            }
            at += tokens;
        }
        p += n;
    }
}

/// `P` panels (all of `a`) times `M` tokens starting at `at`, which share one tile of packed inputs.
#[inline(always)]
fn tile_q8<S: Simd, const M: usize, const P: usize>(s: S, a: &mut Gemm<'_>, at: usize) {
    if M > S::TILE || P > S::PANELS {
        unreachable!("`with_tile!` lists all sizes, but this ISA uses only the first {}", S::TILE);
    }
    // Sliced to equal lengths, so that each group needs one bounds check instead of one per slice.
    let lines = a.w.as_chunks::<LINE>().0;
    let inputs = a.inputs;
    let groups = a.k / GROUP;
    let w: [&[[WeightLine; GROUP_LINES]]; P] =
        std::array::from_fn(|p| &lines[p * (1 + a.k / QUAD) + 1..].as_chunks().0[..groups]);
    let (all_scales, n) = (inputs.scales, inputs.scales.len());
    let (all_sums, all_x) = (&inputs.sums[..n], &inputs.q.as_chunks().0[..n]);
    let (first, step) = locate_token(at, groups, inputs.m);
    let mut c = [[s.splat(0.0); M]; P];
    #[allow(clippy::needless_range_loop)]
    for g in 0..groups {
        let line = first + g * step;
        let scales: &[f32; M] = all_scales[line..].first_chunk().expect("checked");
        let sums: &[i32; M] = all_sums[line..].first_chunk().expect("checked");
        let x: &[TokenLine; M] = all_x[line..].first_chunk().expect("checked");
        let group: [&[WeightLine; GROUP_LINES]; P] = std::array::from_fn(|p| &w[p][g]);
        let acc = group_q8::<S, M, P>(s, group, x, sums);
        for p in 0..P {
            for m in 0..M {
                c[p][m] = s.fma(s.to_f32(acc[p][m]), s.splat(scales[m]), c[p][m]);
            }
        }
    }
    for p in 0..P {
        let row_scale = Some(&scales_line(&lines[p * (1 + a.k / QUAD)]));
        let epilogue = Epilogue { row_scale, bias: a.bias.as_chunks().0.get(p), add: a.add };
        let to = a.out[(p * inputs.m + at) * LANES..].as_chunks_mut().0;
        epilogue.store(s, &c[p], to);
    }
}

/// The exact integer dots of one group. A single token alternates between two accumulators to hide the
/// latency of the dot instruction.
#[inline(always)]
fn group_q8<S: Simd, const M: usize, const P: usize>(
    s: S,
    group: [&[WeightLine; GROUP_LINES]; P],
    x: &[TokenLine; M],
    sums: &[i32; M],
) -> [[S::I; M]; P] {
    // Loops, not `array::from_fn`: a closure does not inherit its caller's CPU features, and unless it
    // is inlined, it costs a call per intrinsic.
    let mut acc = [[s.seed(0); M]; P];
    for acc in &mut acc {
        for m in 0..M {
            acc[m] = s.seed(sums[m]);
        }
    }
    let mut odd = [[s.seed(0); M]; P];
    let quads: [&[[i8; QUAD]; GROUP_LINES]; M] =
        std::array::from_fn(|m| x[m].as_chunks().0.first_chunk().expect("a group"));
    #[allow(clippy::needless_range_loop)]
    for j in 0..GROUP_LINES {
        for p in 0..P {
            s.prefetch_ahead::<AHEAD>(&group[p][j]);
            let line = s.line(&group[p][j]);
            for m in 0..M {
                let quad = &quads[m][j];
                if M == 1 && j % 2 == 1 {
                    odd[p][m] = s.dot_once(odd[p][m], line, quad);
                } else if M == 1 {
                    acc[p][m] = s.dot_once(acc[p][m], line, quad);
                } else {
                    acc[p][m] = s.dot(acc[p][m], line, quad);
                }
            }
        }
    }
    if M == 1 {
        for p in 0..P {
            acc[p][0] = s.add_i32(acc[p][0], odd[p][0]);
        }
    }
    acc
}

/// The floats of a panel's first line.
#[inline(always)]
pub(crate) fn scales_line(line: &WeightLine) -> Lanes {
    let words = line.as_chunks().0;
    std::array::from_fn(|i| f32::from_le_bytes(words[i]))
}

/// Post-processing of the sum over all groups, for both encodings: row scale, bias, residual.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    /// Factor of each row.
    pub row_scale: Option<&'a Lanes>,
    /// Bias of each row.
    pub bias: Option<&'a Lanes>,
    /// Whether to add to the previous output.
    pub add: bool,
}

impl Epilogue<'_> {
    /// Stores the sums of `M` tokens; `out` begins at the first token.
    #[inline(always)]
    pub(crate) fn store<S: Simd, const M: usize>(self, s: S, c: &[S::F; M], out: &mut [Lanes]) {
        for (y, out) in c.iter().zip(out) {
            let mut y = *y;
            if let Some(scale) = self.row_scale {
                y = s.mul(y, s.load(scale));
            }
            if let Some(bias) = self.bias {
                y = s.add(y, s.load(bias));
            }
            if self.add {
                y = s.add(s.load(out), y);
            }
            s.store(y, out);
        }
    }
}

#[inline(always)]
pub(crate) fn gemm_f32<S: Simd>(s: S, a: GemmF32<'_>) {
    let panels = a.w.chunks_exact(f32_panel_len(a.k));
    for (p, (w, out)) in panels.zip(a.out.chunks_exact_mut(a.inputs.m * LANES)).enumerate() {
        let epilogue = Epilogue { row_scale: None, bias: a.bias.as_chunks().0.get(p), add: a.add };
        let panel = PanelF32 { w, k: a.k, inputs: a.inputs, epilogue };
        let mut at = 0;
        while at < a.inputs.m {
            let tokens = S::TILE.min(a.inputs.m - at).min(TOKENS - at % TOKENS);
            with_tile!(tokens, tile_f32::<S, 1>(s, &panel, at, out));
            at += tokens;
        }
    }
}

/// One f32 panel, its inputs and epilogue.
struct PanelF32<'a> {
    w: &'a [f32],
    k: usize,
    inputs: F32Inputs<'a>,
    epilogue: Epilogue<'a>,
}

#[inline(always)]
fn tile_f32<S: Simd, const M: usize, const P: usize>(
    s: S,
    panel: &PanelF32<'_>,
    at: usize,
    out: &mut [f32],
) {
    const { assert!(P == 1) };
    let inputs = panel.inputs;
    let (first, step) = locate_token(at, panel.k / GROUP, inputs.m);
    let mut c = [s.splat(0.0); M];
    for (g, lines) in panel.w.as_chunks::<LANES>().0.chunks_exact(GROUP).enumerate() {
        let line = first + g * step;
        let x: &[[f32; GROUP]; M] =
            inputs.x[GROUP * line..].as_chunks().0.first_chunk().expect("checked");
        for (i, w) in lines.iter().enumerate() {
            let w = s.load(w);
            for m in 0..M {
                c[m] = s.fma(w, s.splat(x[m][i]), c[m]);
            }
        }
    }
    panel.epilogue.store(s, &c, out[at * LANES..].as_chunks_mut().0);
}
