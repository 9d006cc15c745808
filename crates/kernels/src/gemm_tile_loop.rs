//! The matrix product of prefill on instruction sets with a dedicated loop for whole tiles of 16 tokens.

use crate::gemm::{Epilogue, Gemm, scales_line};
use crate::isa::AHEAD;
use crate::isa::tile_loop::{Tile, TileLoop};
use crate::layout::{GROUP, GROUP_BYTES, LANES, TOKENS, q8_panel_bytes};

/// Multiplies all panels by all whole tiles of tokens. Returns the number of tokens in these tiles.
///
/// A panel stays in the L1 and L2 caches for all tiles. Meanwhile, the next panel is prefetched, a
/// portion per tile; a panel not prefetched this way is prefetched during its own first tile.
#[inline(always)]
pub(crate) fn whole_tiles<S: TileLoop>(s: S, a: &mut Gemm<'_>) -> usize {
    let (groups, tiles) = (a.k / GROUP, a.inputs.m / TOKENS);
    if tiles == 0 {
        return 0;
    }
    let mut panels = a.w.chunks_exact(q8_panel_bytes(a.k)).map(|w| w.as_chunks().0).peekable();
    for (p, out) in a.out.chunks_exact_mut(LANES * a.inputs.m).enumerate() {
        let (row_scale, w) = panels.next().and_then(|w| w.split_first()).expect("one per output");
        let (row_scale, w) = (&scales_line(row_scale), w.as_chunks().0);
        let bias = a.bias.as_chunks().0.get(p);
        let epilogue = Epilogue { row_scale: Some(row_scale), bias, add: a.add };
        let cold = p == 0 || tiles == 1;
        let ahead = if cold { w.get(AHEAD / GROUP_BYTES..).unwrap_or_default() } else { &[] };
        let next = panels.peek().map_or(&[][..], |next| next[1..].as_chunks().0);
        let mut shares = next.chunks(groups.div_ceil((tiles - 1).max(1)));
        let out = out.as_chunks_mut().0.chunks_exact_mut(TOKENS);
        for (i, out) in out.enumerate() {
            let lines = TOKENS * groups * i..TOKENS * groups * (i + 1);
            let mut sums = [[0.0; LANES]; TOKENS];
            let tile = Tile {
                w,
                x: a.inputs.q.as_chunks().0[lines.clone()].as_chunks().0,
                scales: a.inputs.scales[lines.clone()].as_chunks().0,
                seeds: a.inputs.sums[lines].as_chunks().0,
                prefetch: if i == 0 { ahead } else { shares.next().unwrap_or_default() },
            };
            s.tile(tile, &mut sums);
            let mut c = [s.splat(0.0); TOKENS];
            for m in 0..TOKENS {
                c[m] = s.load(&sums[m]);
            }
            epilogue.store(s, &c, out);
        }
    }
    tiles * TOKENS
}
