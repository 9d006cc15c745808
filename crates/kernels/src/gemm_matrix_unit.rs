//! The matrix product of prefill on CPUs with a matrix unit (AMX).
//!
//! The unit multiplies 16 lines of inputs (16 tokens × 64 int8) by one group of a weight panel (64
//! inputs × 16 rows) into 16 × 16 exact sums, the equivalent of one group in `gemm.rs` for 16 tokens. The
//! vector units scale and accumulate these sums:
//!
//! ```text
//! for each block of 32 groups:        its weights, converted to signed, stay in the L1 cache
//!     for each tile of 16 tokens:
//!         for each group:             unit:    dots = x[16][64] · w[64][16]
//!                                     vectors: c[m] = fma(dots[m], scale[g][m], c[m])
//! ```
//!
//! Meanwhile, the next panel is prefetched from memory, a portion per tile. The vector units run two
//! groups behind the matrix unit so that they do not wait for its stores. Groups are added in the same
//! order as in `gemm.rs`, so the results are identical bit for bit.

use std::hint::black_box;

use crate::gemm::{Epilogue, Gemm, scales_line};
use crate::inputs::QuantizedInputs;
use crate::isa::matrix_unit::{Dots, MatrixUnit, Products, SignedLines, TokenLines};
use crate::isa::{AHEAD, Simd};
use crate::layout::{GROUP, GROUP_LINES, LANES, LINE, Lanes, TOKENS, WeightLine, q8_panel_bytes};
use crate::peak::{PeakDots, ZERO_SUM};

/// Groups of a panel per block: 32 KiB, which fits in the L1 cache.
const GROUPS: usize = 32;
/// Number of tiles whose sums are kept between blocks of groups.
const TILES: usize = 16;
/// Number of groups by which the vector units lag behind the matrix unit.
const LAG: usize = 2;
/// Number of groups in flight, in the matrix unit or awaiting the vector units, rounded up to a power
/// of two.
const IN_FLIGHT: usize = 4;

/// Aligned to a cache line, the granularity of the matrix unit's loads and stores.
#[repr(align(64))]
struct Aligned<T>(T);

/// Buffers that stay in the L1 and L2 caches during a product.
struct Buffers {
    signed: Aligned<[SignedLines; GROUPS]>, // the panel's current block of groups
    sums: Option<[[Lanes; TOKENS]; TILES]>, // kept between blocks; `None` for a single block
    dots: [Aligned<Dots>; IN_FLIGHT],       // computed but not yet accumulated
}

impl Buffers {
    #[inline(always)]
    fn new(k: usize) -> Self {
        Self {
            signed: Aligned([[[0; LINE]; GROUP_LINES]; GROUPS]),
            sums: (k / GROUP > GROUPS).then_some([[[0.0; LANES]; TOKENS]; TILES]),
            dots: [const { Aligned([[0; LANES]; TOKENS]) }; IN_FLIGHT],
        }
    }
}

/// Multiplies all panels by all whole tiles of tokens. Returns the number of tokens in these tiles.
#[inline(always)]
pub(crate) fn whole_tiles<S: MatrixUnit>(s: S, a: &mut Gemm<'_>) -> usize {
    let tokens = a.inputs.m / TOKENS * TOKENS;
    if tokens == 0 {
        return 0;
    }
    let mut buffers = Buffers::new(a.k);
    let mut panels = a.w.chunks_exact(q8_panel_bytes(a.k)).map(|w| w.as_chunks().0).peekable();
    let mut unit = s.configure();
    for (p, out) in a.out.chunks_exact_mut(LANES * a.inputs.m).enumerate() {
        let (row_scale, lines) = panels.next().and_then(|w| w.split_first()).expect("a panel");
        let row_scale = Some(&scales_line(row_scale));
        let panel = Panel {
            lines,
            next: panels.peek().copied().unwrap_or_default(),
            inputs: a.inputs,
            epilogue: Epilogue { row_scale, bias: a.bias.as_chunks().0.get(p), add: a.add },
        };
        panel.multiply(s, &mut unit, &mut buffers, &mut out[..LANES * tokens]);
    }
    tokens
}

/// One panel, its inputs and epilogue.
struct Panel<'a> {
    /// The weight lines of the panel.
    lines: &'a [WeightLine],
    /// The lines of the next panel, if any.
    next: &'a [WeightLine],
    inputs: QuantizedInputs<'a>,
    epilogue: Epilogue<'a>,
}

impl Panel<'_> {
    /// Multiplies the panel by the first `out.len() / 16` tokens.
    #[inline(always)]
    fn multiply<S: MatrixUnit>(
        &self,
        s: S,
        unit: &mut S::Guard,
        buffers: &mut Buffers,
        out: &mut [f32],
    ) {
        let groups = self.lines.len() / GROUP_LINES;
        let share = self.next.len() / (self.inputs.m / TOKENS) + 1;
        let mut next = self.next.chunks(share);
        let Buffers { signed, sums, dots } = buffers;
        for (run, out) in out.chunks_mut(TILES * TOKENS * LANES).enumerate() {
            for from in (0..groups).step_by(GROUPS) {
                let n = GROUPS.min(groups - from);
                let w = &mut signed.0[..n];
                let lines = &self.lines[GROUP_LINES * from..][..GROUP_LINES * n];
                make_signed(s, lines, w.as_flattened_mut());
                let tiles = out.as_chunks_mut().0.chunks_exact_mut(TOKENS);
                for (i, out) in tiles.enumerate() {
                    let line = ((run * TILES + i) * groups + from) * TOKENS;
                    let block = Block {
                        x: self.inputs.q.as_chunks().0[line..][..TOKENS * n].as_chunks().0,
                        scales: self.inputs.scales[line..][..TOKENS * n].as_chunks().0,
                        w,
                    };
                    let mut c = [s.splat(0.0); TOKENS];
                    let mut saved = sums.as_mut().map(|sums| &mut sums[i]);
                    if let Some(saved) = saved.as_mut().filter(|_| from > 0) {
                        for m in 0..TOKENS {
                            c[m] = s.load(&saved[m]);
                        }
                    }
                    for line in next.next().into_iter().flatten() {
                        s.prefetch(line);
                    }
                    let c = block.add_to(s, unit, dots, c);
                    match saved.filter(|_| from + n < groups) {
                        None => self.epilogue.store(s, &c, out),
                        Some(sums) => (0..TOKENS).for_each(|m| s.store(c[m], &mut sums[m])),
                    }
                }
            }
        }
    }
}

/// Converts stored q + 128 to signed q.
#[inline(always)]
fn make_signed<S: Simd>(s: S, lines: &[WeightLine], to: &mut [[i8; LINE]]) {
    for (line, to) in lines.iter().zip(to) {
        s.prefetch_ahead::<AHEAD>(line);
        for (byte, to) in line.iter().zip(to) {
            *to = (byte ^ 0x80) as i8;
        }
    }
}

/// A block of groups of one panel and one tile of tokens.
struct Block<'a> {
    x: &'a [TokenLines],
    scales: &'a [[f32; TOKENS]],
    w: &'a [SignedLines],
}

impl Block<'_> {
    #[inline(always)]
    fn add_to<S: MatrixUnit>(
        &self,
        s: S,
        unit: &mut S::Guard,
        dots: &mut [Aligned<Dots>; IN_FLIGHT],
        mut c: [S::F; TOKENS],
    ) -> [S::F; TOKENS] {
        for g in 0..self.w.len() + LAG {
            if g < self.w.len() {
                unit.dots(&self.x[g], &self.w[g], &mut dots[g % IN_FLIGHT].0);
            }
            if let Some(g) = g.checked_sub(LAG) {
                let (dots, scales) = (&dots[g % IN_FLIGHT].0, &self.scales[g]);
                for m in 0..TOKENS {
                    c[m] = s.fma(s.to_f32(s.load_i32(&dots[m])), s.splat(scales[m]), c[m]);
                }
            }
        }
        c
    }
}

/// Multiplies the same two tiles repeatedly.
#[inline(always)]
pub(crate) fn peak<S: MatrixUnit>(s: S, a: PeakDots<'_>) {
    /// 64-byte dot products in one matrix product.
    const PRODUCT: usize = TOKENS * GROUP_LINES;
    let mut x = [[0; LINE]; TOKENS];
    x.as_flattened_mut().as_chunks_mut().0.fill(ZERO_SUM);
    let (w, mut sums) = ([[5; LINE]; GROUP_LINES], [[0; LANES]; TOKENS]);
    s.configure().peak(black_box(&x), black_box(&w), a.dots.div_ceil(PRODUCT), &mut sums);
    s.store(s.to_f32(s.load_i32(&sums[0])), a.out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::register_tiles;
    use crate::isa::scalar::Scalar;
    use crate::layout::{QUAD, TokenLine};

    /// A matrix unit emulated in plain Rust, to test this file on machines without AMX.
    pub(crate) struct Emulated;

    impl MatrixUnit for Scalar {
        type Guard = Emulated;
        fn configure(self) -> Emulated {
            Emulated
        }
    }

    impl Products for Emulated {
        fn dots(&mut self, x: &TokenLines, w: &SignedLines, out: &mut Dots) {
            for (x, out) in x.iter().zip(out) {
                for (r, out) in out.iter_mut().enumerate() {
                    let w = |i: usize| w[i / QUAD][QUAD * r + i % QUAD];
                    *out = (0..GROUP).map(|i| i32::from(x[i]) * i32::from(w(i))).sum();
                }
            }
        }
        fn peak(&mut self, x: &TokenLines, w: &SignedLines, _products: usize, out: &mut Dots) {
            self.dots(x, w, out);
        }
    }

    /// Any bytes are valid weights and inputs; the only restriction is that scales must not be NaN.
    #[test]
    fn whole_tiles_equal_register_tiles() {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 33) as u32
        };
        // The second case has several blocks of groups; the third also has several runs of tiles.
        for (m, k) in [(37usize, 192), (37, 2176), (290, 2176)] {
            let (panels, lines) = (3, m.div_ceil(TOKENS) * TOKENS * k / GROUP);
            let mut w: Vec<u8> = (0..panels * q8_panel_bytes(k)).map(|_| next() as u8).collect();
            for panel in w.chunks_exact_mut(q8_panel_bytes(k)) {
                for scale in panel[..LINE].as_chunks_mut().0 {
                    *scale = (next() as f32).to_le_bytes();
                }
            }
            let q: Vec<i8> = (0..GROUP * lines).map(|_| (next() as i8).max(-127)).collect();
            let scales: Vec<f32> = (0..lines).map(|_| next() as f32).collect();
            let sum = |line: &TokenLine| -128 * line.iter().map(|&q| i32::from(q)).sum::<i32>();
            let sums: Vec<i32> = q.as_chunks().0.iter().map(sum).collect();
            let bias: Vec<f32> = (0..panels * LANES).map(|_| next() as f32).collect();
            let inputs = QuantizedInputs { q: &q, scales: &scales, sums: &sums, m };
            let before: Vec<f32> = (0..panels * m * LANES).map(|_| next() as f32).collect();
            let (mut got, mut want) = (before.clone(), before);
            let gemm = |out| Gemm { w: &w, k, inputs, bias: &bias, add: true, out };
            let mut a = gemm(&mut got);
            let whole = whole_tiles(Scalar, &mut a);
            assert_eq!(whole, m / TOKENS * TOKENS);
            register_tiles(Scalar, a, whole);
            register_tiles(Scalar, gemm(&mut want), 0);
            assert!(got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()), "{m} {k}");
        }
    }
}
