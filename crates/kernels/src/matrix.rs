//! The matrix product of prefill on CPUs with a matrix unit (AMX).
//!
//! The unit multiplies 16 lines of activations (16 tokens × 64 int8) by one group of a weight panel
//! (64 inputs × 16 rows) into 16 × 16 exact sums, which is just a group of `gemm.rs` for 16 tokens;
//! scaling and adding them up stays with the vectors:
//!
//! ```text
//! for each block of 32 groups:        the panel's part, made signed, stays in the L1 cache
//!     for each tile of 16 tokens:
//!         for each group:             unit:    dots = x[16][64] · w[64][16]
//!                                     vectors: c[m] = fma(dots[m], scale[g][m], c[m])
//! ```
//!
//! Meanwhile the next panel is asked for from memory, a share per tile. The vectors work two groups
//! behind the unit, so that they do not wait for its stores. Groups are added in the order of
//! `gemm.rs`, hence the same bits.

use crate::Acts;
use crate::acts::TOKENS;
use crate::gemm::{Gemm, finish, scales_line};
use crate::isa::Simd;

/// Groups of a panel that fit into the L1 cache: 32 KiB.
const GROUPS: usize = 32;
/// Tiles whose sums are kept between two blocks of groups.
const TILES: usize = 16;
/// Groups the vectors work behind the unit.
const LAG: usize = 2;

/// Sums of one group of one tile.
pub(crate) type Dots = [[i32; 16]; TOKENS];

/// On a cache line of its own, as the unit reads and writes it.
#[repr(align(64))]
struct Aligned<T>(T);

/// What stays in the first caches while a product runs.
struct Buffers {
    signed: Aligned<[[[i8; 64]; 16]; GROUPS]>, // the panel's groups in work
    sums: Option<[[[f32; 16]; TOKENS]; TILES]>, // between two blocks of groups, if there are two
    dots: [Aligned<Dots>; 4],                  // what the unit has done and the vectors have not
}

impl Buffers {
    #[inline(always)]
    fn new(k: usize) -> Self {
        Self {
            signed: Aligned([[[0; 64]; 16]; GROUPS]),
            sums: (k / 64 > GROUPS).then_some([[[0.0; 16]; TOKENS]; TILES]),
            dots: [const { Aligned([[0; 16]; TOKENS]) }; 4],
        }
    }
}

/// All panels times all whole tiles of tokens; gives the number of these tokens.
#[inline(always)]
pub(crate) fn gemm_q8<S: Simd>(s: S, a: &mut Gemm<'_>) -> usize {
    let tokens = a.acts.m / TOKENS * TOKENS;
    if tokens == 0 {
        return 0;
    }
    let mut buffers = Buffers::new(a.k);
    let mut panels = a.w.chunks_exact(16 * (a.k + 4)).peekable();
    s.matrix_open();
    for (p, out) in a.out.chunks_exact_mut(16 * a.acts.m).enumerate() {
        let w = panels.next().expect("a panel per output");
        let next = panels.peek().copied().unwrap_or_default();
        let bias = a.bias.as_chunks().0.get(p);
        panel(s, &mut buffers, (w, next), a.k, a.acts, bias, a.add, &mut out[..16 * tokens]);
    }
    s.matrix_close();
    tokens
}

/// One panel times the first `out.len() / 16` tokens; `next` is the panel behind it.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn panel<S: Simd>(
    s: S,
    buffers: &mut Buffers,
    (w, next): (&[u8], &[u8]),
    k: usize,
    acts: Acts<'_>,
    bias: Option<&[f32; 16]>,
    add: bool,
    out: &mut [f32],
) {
    let (scales, lines) = w.as_chunks::<64>().0.split_first().expect("a panel");
    let row_scale = &scales_line(scales);
    let groups = k / 64;
    let share = next.len() / 64 / (acts.m / TOKENS) + 1;
    let mut next = next.as_chunks::<64>().0.chunks(share);
    let Buffers { signed, sums, dots } = buffers;
    for (run, out) in out.chunks_mut(TILES * TOKENS * 16).enumerate() {
        for from in (0..groups).step_by(GROUPS) {
            let n = GROUPS.min(groups - from);
            let w = &mut signed.0[..n];
            make_signed(s, &lines[16 * from..][..16 * n], w.as_flattened_mut());
            let tiles = out.as_chunks_mut::<16>().0.chunks_exact_mut(TOKENS);
            for (i, out) in tiles.enumerate() {
                let line = ((run * TILES + i) * groups + from) * TOKENS;
                let x = &acts.q[64 * line..][..64 * TOKENS * n];
                let scales = &acts.scales[line..][..TOKENS * n];
                let mut c = [s.splat(0.0); TOKENS];
                let mut before = sums.as_mut().map(|sums| &mut sums[i]);
                if let Some(before) = before.as_mut().filter(|_| from > 0) {
                    for m in 0..TOKENS {
                        c[m] = s.load(&before[m]);
                    }
                }
                for line in next.next().into_iter().flatten() {
                    s.prefetch(line);
                }
                let c = tile(s, x, scales, w, dots, c);
                match before.filter(|_| from + n < groups) {
                    None => finish(s, &c, Some(row_scale), bias, add, out),
                    Some(sums) => (0..TOKENS).for_each(|m| s.store(c[m], &mut sums[m])),
                }
            }
        }
    }
}

/// q + 128 to q.
#[inline(always)]
fn make_signed<S: Simd>(s: S, lines: &[[u8; 64]], to: &mut [[i8; 64]]) {
    for (line, to) in lines.iter().zip(to) {
        s.prefetch_ahead(line);
        for (byte, to) in line.iter().zip(to) {
            *to = (byte ^ 0x80) as i8;
        }
    }
}

/// One tile over a block of groups.
#[inline(always)]
fn tile<S: Simd>(
    s: S,
    x: &[i8],
    scales: &[f32],
    w: &[[[i8; 64]; 16]],
    dots: &mut [Aligned<Dots>; 4],
    mut c: [S::F; TOKENS],
) -> [S::F; TOKENS] {
    let x = x.as_chunks::<64>().0.as_chunks::<TOKENS>().0;
    let scales = scales.as_chunks::<TOKENS>().0;
    for g in 0..w.len() + LAG {
        if g < w.len() {
            s.matrix_dots(&x[g], &w[g], &mut dots[g % 4].0);
        }
        if let Some(g) = g.checked_sub(LAG) {
            for m in 0..TOKENS {
                let dots = s.to_f32(s.load_i32(&dots[g % 4].0[m]));
                c[m] = s.fma(dots, s.splat(scales[g][m]), c[m]);
            }
        }
    }
    c
}
