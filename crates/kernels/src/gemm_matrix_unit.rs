//! The matrix product of prefill on CPUs with a matrix unit (AMX).
//!
//! The unit multiplies 16 lines of inputs (16 tokens × 64 int8) by one group of a weight panel (64
//! inputs × 16 rows) into 16 × 16 exact sums, the equivalent of one group in `gemm.rs` for 16 tokens. The
//! vector units scale and accumulate these sums:
//!
//! ```text
//! for each block of 32 groups:
//!     for each tile of 16 tokens:
//!         for each group:             vectors: w = its weights as signed bytes       first tile only
//!                                     unit:    dots = x[16][64] · w[64][16]
//!                                     vectors: c[m] = fma(dots[m], scale[g][m], c[m])
//! ```
//!
//! A block's signed weights stay in the L1 cache for the tiles after the first. Meanwhile, the next panel is
//! prefetched from memory, a share per group. Each step runs two groups behind the one before it, so that it
//! does not wait for its stores. Groups are added in the same order as in `gemm.rs`, so the results are
//! identical bit for bit.

use std::hint::black_box;

use crate::gemm::{Epilogue, Gemm, scales_line};
use crate::inputs::QuantizedInputs;
use crate::isa::matrix_unit::{Dots, MatrixUnit, Products, SignedLines, TokenLines};
use crate::isa::{AHEAD, Simd};
use crate::layout::{GROUP, GROUP_LINES, LANES, LINE, Lanes, TOKENS, WeightLine};
use crate::peak::{PeakDots, ZERO_SUM};

/// Groups of a panel per block: 32 KiB, which fits in the L1 cache.
const GROUPS: usize = 32;
/// Number of tiles whose sums are kept between blocks of groups.
const TILES: usize = 16;
/// Number of groups by which each step lags behind the one before it.
const LAG: usize = 2;
/// Number of groups in flight, in the matrix unit or awaiting the vector units, rounded up to a power
/// of two.
const IN_FLIGHT: usize = 4;

/// Lines per group that are prefetched all at once before a block. More would wait for one another, but one
/// by one they cost a tenth of the speed.
const SMALL_SHARE: usize = 4;

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

/// How a panel stores its groups.
pub(crate) trait Encoding<S: MatrixUnit> {
    /// Weight lines per group.
    const GROUP_LINES: usize;
    /// What a group depends on besides its lines.
    type State;

    /// The state before the first group.
    fn start(s: S) -> Self::State;
    /// Converts the next group to signed bytes.
    fn convert(s: S, state: &mut Self::State, lines: &[WeightLine], to: &mut SignedLines);
}

/// Bytes with an offset of 128.
pub(crate) enum Q8 {}

impl<S: MatrixUnit> Encoding<S> for Q8 {
    const GROUP_LINES: usize = GROUP_LINES;
    type State = ();

    #[inline(always)]
    fn start(_: S) {}
    #[inline(always)]
    fn convert(s: S, (): &mut (), lines: &[WeightLine], to: &mut SignedLines) {
        for (line, to) in lines.iter().zip(to) {
            s.prefetch_ahead::<AHEAD>(line);
            s.store_signed(s.line(line), to);
        }
    }
}

/// Multiplies all panels of `a`, stored as `E`, by all whole tiles of tokens. Returns the number of tokens
/// in these tiles.
#[inline(always)]
pub(crate) fn whole_tiles<S: MatrixUnit, E: Encoding<S>>(s: S, a: &mut Gemm<'_>) -> usize {
    let tokens = a.inputs.m / TOKENS * TOKENS;
    if tokens == 0 {
        return 0;
    }
    let mut buffers = Buffers::new(a.k);
    let panel_bytes = LINE * (1 + a.k / GROUP * E::GROUP_LINES);
    let mut panels = a.w.chunks_exact(panel_bytes).map(|w| w.as_chunks().0).peekable();
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
        panel.multiply::<S, E>(s, &mut unit, &mut buffers, &mut out[..LANES * tokens]);
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
    fn multiply<S: MatrixUnit, E: Encoding<S>>(
        &self,
        s: S,
        unit: &mut S::Guard,
        buffers: &mut Buffers,
        out: &mut [f32],
    ) {
        let groups = self.lines.len() / E::GROUP_LINES;
        let Buffers { signed, sums, dots } = buffers;
        let next = Shares::new(self.next, groups * (self.inputs.m / TOKENS));
        let mut units = Units { matrix: unit, dots, next };
        for (run, out) in out.chunks_mut(TILES * TOKENS * LANES).enumerate() {
            let mut state = E::start(s);
            for from in (0..groups).step_by(GROUPS) {
                let n = GROUPS.min(groups - from);
                let lines = &self.lines[E::GROUP_LINES * from..][..E::GROUP_LINES * n];
                let tiles = out.as_chunks_mut().0.chunks_exact_mut(TOKENS);
                for (i, out) in tiles.enumerate() {
                    let line = ((run * TILES + i) * groups + from) * TOKENS;
                    let block = Block {
                        x: self.inputs.q.as_chunks().0[line..][..TOKENS * n].as_chunks().0,
                        scales: self.inputs.scales[line..][..TOKENS * n].as_chunks().0,
                        lines,
                    };
                    let mut c = [s.splat(0.0); TOKENS];
                    let mut saved = sums.as_mut().map(|sums| &mut sums[i]);
                    if let Some(saved) = saved.as_mut().filter(|_| from > 0) {
                        for m in 0..TOKENS {
                            c[m] = s.load(&saved[m]);
                        }
                    }
                    let w = &mut signed.0[..n];
                    let c = if i == 0 {
                        block.convert_and_add::<S, E>(s, &mut units, &mut state, w, c)
                    } else if units.next.share > SMALL_SHARE {
                        block.add::<S, true>(s, &mut units, w, c)
                    } else {
                        (0..n).for_each(|_| units.next.prefetch(s));
                        block.add::<S, false>(s, &mut units, w, c)
                    };
                    match saved.filter(|_| from + n < groups) {
                        None => self.epilogue.store(s, &c, out),
                        Some(sums) => (0..TOKENS).for_each(|m| s.store(c[m], &mut sums[m])),
                    }
                }
            }
        }
    }
}

/// The lines of the next panel, to be prefetched in equal shares.
struct Shares<'a> {
    lines: &'a [WeightLine],
    share: usize,
    at: usize,
}

impl<'a> Shares<'a> {
    fn new(lines: &'a [WeightLine], shares: usize) -> Self {
        Self { lines, share: lines.len().div_ceil(shares), at: 0 }
    }

    #[inline(always)]
    fn prefetch<S: Simd>(&mut self, s: S) {
        let to = self.at + self.share;
        for line in self.lines.get(self.at..to).into_iter().flatten() {
            s.prefetch(line);
        }
        self.at = to;
    }
}

/// The matrix unit, and what it hands to the vector units.
struct Units<'a, S: MatrixUnit> {
    matrix: &'a mut S::Guard,
    dots: &'a mut [Aligned<Dots>; IN_FLIGHT],
    next: Shares<'a>,
}

impl<S: MatrixUnit> Units<'_, S> {
    #[inline(always)]
    fn multiply(&mut self, g: usize, x: &TokenLines, w: &SignedLines) {
        self.matrix.dots(x, w, &mut self.dots[g % IN_FLIGHT].0);
    }

    #[inline(always)]
    fn accumulate(&self, s: S, g: usize, scales: &[f32; TOKENS], c: &mut [S::F; TOKENS]) {
        let dots = &self.dots[g % IN_FLIGHT].0;
        for m in 0..TOKENS {
            c[m] = s.fma(s.to_f32(s.load_i32(&dots[m])), s.splat(scales[m]), c[m]);
        }
    }
}

/// A block of groups of one panel and one tile of tokens.
struct Block<'a> {
    x: &'a [TokenLines],
    scales: &'a [[f32; TOKENS]],
    /// The lines of the groups.
    lines: &'a [WeightLine],
}

impl Block<'_> {
    /// Converts the groups to `w` while adding the products with them.
    #[inline(always)]
    fn convert_and_add<S: MatrixUnit, E: Encoding<S>>(
        &self,
        s: S,
        units: &mut Units<'_, S>,
        state: &mut E::State,
        w: &mut [SignedLines],
        mut c: [S::F; TOKENS],
    ) -> [S::F; TOKENS] {
        let mut lines = self.lines.chunks_exact(E::GROUP_LINES);
        for i in 0..w.len() + 2 * LAG {
            if let Some(lines) = lines.next() {
                E::convert(s, state, lines, &mut w[i]);
            }
            if let Some(g) = i.checked_sub(LAG).filter(|g| *g < w.len()) {
                units.multiply(g, &self.x[g], &w[g]);
                units.next.prefetch(s);
            }
            if let Some(g) = i.checked_sub(2 * LAG) {
                units.accumulate(s, g, &self.scales[g], &mut c);
            }
        }
        c
    }

    /// Adds the products with the groups in `w`.
    #[inline(always)]
    fn add<S: MatrixUnit, const PREFETCH: bool>(
        &self,
        s: S,
        units: &mut Units<'_, S>,
        w: &[SignedLines],
        mut c: [S::F; TOKENS],
    ) -> [S::F; TOKENS] {
        for i in 0..w.len() + LAG {
            if i < w.len() {
                units.multiply(i, &self.x[i], &w[i]);
                if PREFETCH {
                    units.next.prefetch(s);
                }
            }
            if let Some(g) = i.checked_sub(LAG) {
                units.accumulate(s, g, &self.scales[g], &mut c);
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
    use crate::layout::{QUAD, TokenLine, q8_panel_bytes};
    use crate::trellis::trellis_panel_bytes;
    use crate::trellis_decode::{Coded, DecodePanel, decode_panel};

    /// A matrix unit emulated in plain Rust, to test this file on machines without AMX.
    pub(crate) struct Emulated;

    impl MatrixUnit for Scalar {
        type Guard = Emulated;
        fn configure(self) -> Emulated {
            Emulated
        }
        fn store_signed(self, line: [i8; LINE], to: &mut [i8; LINE]) {
            *to = line;
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
            let q: Vec<i8> = (0..GROUP * lines).map(|_| (next() as i8).max(-127)).collect();
            let scales: Vec<f32> = (0..lines).map(|_| next() as f32).collect();
            let sum = |line: &TokenLine| -128 * line.iter().map(|&q| i32::from(q)).sum::<i32>();
            let sums: Vec<i32> = q.as_chunks().0.iter().map(sum).collect();
            let bias: Vec<f32> = (0..panels * LANES).map(|_| next() as f32).collect();
            let inputs = QuantizedInputs { q: &q, scales: &scales, sums: &sums, m };
            let before: Vec<f32> = (0..panels * m * LANES).map(|_| next() as f32).collect();
            for bits in [2, 3, 4, 5, 8] {
                let panel_bytes = trellis_panel_bytes(bits, k);
                let mut w: Vec<u8> = (0..panels * panel_bytes).map(|_| next() as u8).collect();
                for panel in w.chunks_exact_mut(panel_bytes) {
                    for scale in panel[..LINE].as_chunks_mut().0 {
                        *scale = (next() as f32).to_le_bytes();
                    }
                }
                let mut q8 = vec![0; panels * q8_panel_bytes(k)];
                let decoded = q8.chunks_exact_mut(q8_panel_bytes(k));
                for (w, out) in w.chunks_exact(panel_bytes).zip(decoded) {
                    match bits {
                        8 => out.copy_from_slice(w),
                        _ => decode_panel(Scalar, DecodePanel { bits: bits as u8, w, out }),
                    }
                }
                let (mut got, mut want) = (before.clone(), before.clone());
                let mut a = Gemm { w: &w, k, inputs, bias: &bias, add: true, out: &mut got };
                let whole = match bits {
                    2 => whole_tiles::<_, Coded<2>>(Scalar, &mut a),
                    3 => whole_tiles::<_, Coded<3>>(Scalar, &mut a),
                    4 => whole_tiles::<_, Coded<4>>(Scalar, &mut a),
                    5 => whole_tiles::<_, Coded<5>>(Scalar, &mut a),
                    _ => whole_tiles::<_, Q8>(Scalar, &mut a),
                };
                assert_eq!(whole, m / TOKENS * TOKENS);
                register_tiles(Scalar, Gemm { w: &q8, ..a }, whole);
                let all = Gemm { w: &q8, k, inputs, bias: &bias, add: true, out: &mut want };
                register_tiles(Scalar, all, 0);
                let equal = got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(equal, "{bits} bits, {m} tokens, {k} inputs");
            }
        }
    }
}
