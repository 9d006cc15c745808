//! Matrix times activations, the whole cost of a transformer.
//!
//! One panel of 16 output rows against a tile of M tokens, all in registers:
//!
//! ```text
//! for each group g of 64 inputs:          acc[M][16] = seed            int32, exact
//!     for each of its 16 quads:           acc[m] += panel line · quad[m]
//!     c[m] = fma(acc[m], scale[g][m], c[m])                            f32, g ascending
//! out[m] = c[m] · row scale (+ bias) (+ what was there)
//! ```
//!
//! A weight byte is read once per tile and used M times, an activation quad once per panel and
//! used 16 times. With M = 1 this is the GEMV of decoding: nothing is reused, and memory
//! bandwidth is all there is. K is never split, so a logit does not depend on the thread count.

use crate::acts::{TOKENS, line_of, packed_rows};
use crate::isa::{AHEAD, Simd};
use crate::{Acts, ActsF32, matrix};

/// Bytes of a group of a panel: 64 inputs of 16 rows.
const GROUP_BYTES: usize = 1024;
/// Most tokens in one tile.
pub const MAX_TILE: usize = 12;

/// Arguments of `gemm_q8`: a run of panels against all tokens.
pub struct Gemm<'a> {
    /// Panels, `[p][16 f32 scales, k/4 lines]`.
    pub w: &'a [u8],
    /// Stored inputs, a multiple of 64.
    pub k: usize,
    /// Activations.
    pub acts: Acts<'a>,
    /// One value per row, or empty.
    pub bias: &'a [f32],
    /// Add to `out` (a residual) instead of overwriting it.
    pub add: bool,
    /// `[p][m][16]`
    pub out: &'a mut [f32],
}

/// Arguments of `gemm_f32`, the reference encoding.
pub struct GemmF32<'a> {
    /// Panels, `[p][k][16]`.
    pub w: &'a [f32],
    /// Stored inputs, a multiple of 64.
    pub k: usize,
    /// Activations.
    pub acts: ActsF32<'a>,
    /// One value per row, or empty.
    pub bias: &'a [f32],
    /// Add to `out` (a residual) instead of overwriting it.
    pub add: bool,
    /// `[p][m][16]`
    pub out: &'a mut [f32],
}

fn check_shapes(panels: usize, k: usize, m: usize, bias: &[f32], out: &[f32]) {
    assert!(k > 0 && k.is_multiple_of(64) && m > 0);
    assert_eq!(out.len(), panels * m * 16);
    assert!(bias.is_empty() || bias.len() == panels * 16);
}

impl Gemm<'_> {
    pub(crate) fn check(&self) {
        let panels = self.w.len() / (16 * (self.k + 4));
        assert_eq!(self.w.len(), panels * 16 * (self.k + 4));
        check_shapes(panels, self.k, self.acts.m, self.bias, self.out);
        let lines = packed_rows(self.acts.m) * self.k / 64;
        assert_eq!(self.acts.q.len(), 64 * lines);
        assert!(self.acts.scales.len() == lines && self.acts.sums.len() == lines);
    }
}

impl GemmF32<'_> {
    pub(crate) fn check(&self) {
        let panels = self.w.len() / (16 * self.k);
        assert_eq!(self.w.len(), panels * 16 * self.k);
        check_shapes(panels, self.k, self.acts.m, self.bias, self.out);
        assert_eq!(self.acts.x.len(), packed_rows(self.acts.m) * self.k);
    }
}

/// Expands to the call with `M` = `$m`, for 1…12.
macro_rules! with_tile {
    ($m:expr, $f:ident::<$s:ty, $p:literal>($($args:expr),*)) => {
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

#[inline(always)]
pub(crate) fn gemm_q8<S: Simd>(s: S, mut a: Gemm<'_>) {
    // Whole tiles of 16 tokens have loops of their own where the CPU has something for them.
    let whole = match (S::MATRIX, S::TILES) {
        (true, _) => matrix::gemm_q8(s, &mut a),
        (false, true) => whole_tiles(s, &mut a),
        (false, false) => 0,
    };
    if whole == a.acts.m {
        return;
    }
    let (panel, out) = (16 * (a.k + 4), a.acts.m * 16);
    let panels = a.w.len() / panel;
    let mut p = 0;
    while p < panels {
        let n = if panels - p >= S::PANELS { S::PANELS } else { 1 };
        let w = &a.w[p * panel..(p + n) * panel];
        let bias = if a.bias.is_empty() { &[] } else { &a.bias[p * 16..(p + n) * 16] };
        let to = &mut a.out[p * out..(p + n) * out];
        let mut at = whole;
        while at < a.acts.m {
            let m = S::TILE.min(a.acts.m - at).min(TOKENS - at % TOKENS);
            if n == 1 {
                with_tile!(m, tile_q8::<S, 1>(s, w, a.k, a.acts, at, bias, a.add, to));
            } else {
                with_tile!(m, tile_q8::<S, 2>(s, w, a.k, a.acts, at, bias, a.add, to));
            }
            at += m;
        }
        p += n;
    }
}

/// What [`Simd::tile`] reads: one panel and one tile of 16 tokens, group by group.
pub(crate) struct Tile<'a> {
    /// The panel's lines.
    pub w: &'a [[[u8; 64]; 16]],
    /// The tokens' lines.
    pub x: &'a [[[i8; 64]; 16]],
    /// The tokens' scales.
    pub scales: &'a [[f32; 16]],
    /// Where the dots start, see [`Simd::seed`].
    pub seeds: &'a [[i32; 16]],
    /// Weights to ask for meanwhile, into the first cache; no more than there are groups.
    pub ask: &'a [[[u8; 64]; 16]],
}

/// All panels times all whole tiles of tokens; gives the number of these tokens. A panel stays in
/// the first caches for all tiles. Meanwhile the next one is asked for, a share per tile; the first
/// tile is busy with a panel that nobody has asked for.
#[inline(always)]
fn whole_tiles<S: Simd>(s: S, a: &mut Gemm<'_>) -> usize {
    let (groups, tiles) = (a.k / 64, a.acts.m / TOKENS);
    if tiles == 0 {
        return 0;
    }
    let mut panels = a.w.chunks_exact(16 * (a.k + 4)).map(|w| w.as_chunks().0).peekable();
    for (p, out) in a.out.chunks_exact_mut(16 * a.acts.m).enumerate() {
        let (row_scale, w) = panels.next().and_then(|w| w.split_first()).expect("one per output");
        let (row_scale, w) = (&scales_line(row_scale), w.as_chunks().0);
        let new = p == 0 || tiles == 1;
        let ahead = if new { w.get(AHEAD / GROUP_BYTES..).unwrap_or_default() } else { &[] };
        let next = panels.peek().map_or(&[][..], |next| next[1..].as_chunks().0);
        let mut shares = next.chunks(groups.div_ceil((tiles - 1).max(1)));
        let bias = a.bias.as_chunks().0.get(p);
        let out = out.as_chunks_mut::<16>().0.chunks_exact_mut(TOKENS);
        for (i, out) in out.enumerate() {
            let lines = TOKENS * groups * i..TOKENS * groups * (i + 1);
            let mut sums = [[0.0; 16]; TOKENS];
            let tile = Tile {
                w,
                x: a.acts.q.as_chunks().0[lines.clone()].as_chunks().0,
                scales: a.acts.scales[lines.clone()].as_chunks().0,
                seeds: a.acts.sums[lines].as_chunks().0,
                ask: if i == 0 { ahead } else { shares.next().unwrap_or_default() },
            };
            s.tile(tile, &mut sums);
            let mut c = [s.splat(0.0); TOKENS];
            for m in 0..TOKENS {
                c[m] = s.load(&sums[m]);
            }
            finish(s, &c, Some(row_scale), bias, a.add, out);
        }
    }
    tiles * TOKENS
}

/// `P` panels × `M` tokens, the tokens beginning at `at`, all of one tile of the activations.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn tile_q8<S: Simd, const M: usize, const P: usize>(
    s: S,
    w: &[u8],
    k: usize,
    acts: Acts<'_>,
    at: usize,
    bias: &[f32],
    add: bool,
    out: &mut [f32],
) {
    if M > S::TILE || P > S::PANELS {
        unreachable!("`with_tile!` names all sizes, this ISA uses the first {}", S::TILE);
    }
    let lines = w.as_chunks::<64>().0;
    let per_panel = 1 + k / 4;
    let (first, step) = line_of(at, k / 64, acts.m);
    let mut c = [[s.splat(0.0); M]; P];
    for g in 0..k / 64 {
        let line = first + g * step;
        let scales: &[f32; M] = acts.scales[line..].first_chunk().expect("checked");
        let sums: &[i32; M] = acts.sums[line..].first_chunk().expect("checked");
        let x: &[[i8; 64]; M] =
            acts.q[64 * line..].as_chunks::<64>().0.first_chunk().expect("checked");
        let group: [&[[u8; 64]; 16]; P] = std::array::from_fn(|p| {
            lines[p * per_panel + 1 + 16 * g..].first_chunk().expect("checked")
        });
        let acc = group_q8::<S, M, P>(s, group, x, sums);
        for p in 0..P {
            for m in 0..M {
                c[p][m] = s.fma(s.to_f32(acc[p][m]), s.splat(scales[m]), c[p][m]);
            }
        }
    }
    for p in 0..P {
        let row_scale: &[f32; 16] = &scales_line(&lines[p * per_panel]);
        let to = out[(p * acts.m + at) * 16..].as_chunks_mut::<16>().0;
        finish(s, &c[p], Some(row_scale), bias.as_chunks::<16>().0.get(p), add, to);
    }
}

/// The exact integer dots of one group. A single token alternates between two accumulators, to
/// hide the latency of the dot instruction.
#[inline(always)]
fn group_q8<S: Simd, const M: usize, const P: usize>(
    s: S,
    group: [&[[u8; 64]; 16]; P],
    x: &[[i8; 64]; M],
    sums: &[i32; M],
) -> [[S::I; M]; P] {
    // Loops, not `array::from_fn`: a closure does not inherit the CPU features of its caller, and
    // one that is not inlined costs a call per intrinsic.
    let mut acc = [[s.seed(0); M]; P];
    for acc in &mut acc {
        for m in 0..M {
            acc[m] = s.seed(sums[m]);
        }
    }
    let mut odd = [[s.seed(0); M]; P];
    let quads: [&[[i8; 4]; 16]; M] =
        std::array::from_fn(|m| x[m].as_chunks().0.first_chunk().expect("64 values"));
    #[allow(clippy::needless_range_loop)]
    for j in 0..16 {
        for p in 0..P {
            s.prefetch_ahead(&group[p][j]);
            let line = s.line(&group[p][j]);
            for m in 0..M {
                let quad = &quads[m][j];
                if M == 1 && j % 2 == 1 {
                    odd[p][m] = s.dot(odd[p][m], line, quad);
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

#[inline(always)]
pub(crate) fn scales_line(line: &[u8; 64]) -> [f32; 16] {
    let words = line.as_chunks::<4>().0;
    std::array::from_fn(|i| f32::from_le_bytes(words[i]))
}

/// Row scale, bias, residual, store: the epilogue of both encodings. `out` begins with the first
/// of the tokens.
#[inline(always)]
pub(crate) fn finish<S: Simd, const M: usize>(
    s: S,
    c: &[S::F; M],
    row_scale: Option<&[f32; 16]>,
    bias: Option<&[f32; 16]>,
    add: bool,
    out: &mut [[f32; 16]],
) {
    for (y, out) in c.iter().zip(out) {
        let mut y = *y;
        if let Some(scale) = row_scale {
            y = s.mul(y, s.load(scale));
        }
        if let Some(bias) = bias {
            y = s.add(y, s.load(bias));
        }
        if add {
            y = s.add(s.load(out), y);
        }
        s.store(y, out);
    }
}

#[inline(always)]
pub(crate) fn gemm_f32<S: Simd>(s: S, a: GemmF32<'_>) {
    let out = a.acts.m * 16;
    for (p, (w, to)) in a.w.chunks_exact(16 * a.k).zip(a.out.chunks_exact_mut(out)).enumerate() {
        let bias = a.bias.as_chunks::<16>().0.get(p);
        let mut at = 0;
        while at < a.acts.m {
            let m = S::TILE.min(a.acts.m - at).min(TOKENS - at % TOKENS);
            with_tile!(m, tile_f32::<S, 1>(s, w, a.k, a.acts, at, bias, a.add, to));
            at += m;
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn tile_f32<S: Simd, const M: usize, const P: usize>(
    s: S,
    w: &[f32],
    k: usize,
    acts: ActsF32<'_>,
    at: usize,
    bias: Option<&[f32; 16]>,
    add: bool,
    out: &mut [f32],
) {
    const { assert!(P == 1) };
    let (first, step) = line_of(at, k / 64, acts.m);
    let mut c = [s.splat(0.0); M];
    for (g, lines) in w.as_chunks::<16>().0.chunks_exact(64).enumerate() {
        let line = first + g * step;
        let x: &[[f32; 64]; M] =
            acts.x[64 * line..].as_chunks::<64>().0.first_chunk().expect("checked");
        for (i, w) in lines.iter().enumerate() {
            let w = s.load(w);
            for m in 0..M {
                c[m] = s.fma(w, s.splat(x[m][i]), c[m]);
            }
        }
    }
    finish(s, &c, None, bias, add, out[at * 16..].as_chunks_mut::<16>().0);
}
