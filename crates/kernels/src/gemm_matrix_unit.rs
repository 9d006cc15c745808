//! The matrix product of prefill on CPUs with a matrix unit (AMX).
//!
//! The unit multiplies 16 lines of inputs (16 tokens × 64 int8) by one group of a weight panel (64
//! inputs × 16 rows) into 16 × 16 exact sums, the equivalent of one group in `gemm.rs` for 16 tokens. The
//! vector units scale and accumulate these sums:
//!
//! ```text
//! for each set of panels:
//!     for each block of groups:
//!         for each panel of the set:
//!             for each tile of 16 tokens:
//!                 for each group:     vectors: w = its weights as signed bytes       first tile only
//!                                     unit:    dots = x[16][64] · w[64][16]
//!                                     vectors: c[m] = fma(dots[m], scale[g][m], c[m])
//! ```
//!
//! A block's signed weights stay in the L1 cache for the tiles after the first. Meanwhile, the block that is multiplied
//! next is prefetched from memory, a share per group. Each step runs two groups behind the one before it, so that it
//! does not wait for its stores. Groups are added in the same order as in `gemm.rs`, so the results are
//! identical bit for bit.
//!
//! With few tiles, memory limits the speed. Whatever a core's L1 cache waits for occupies one of about 16 buffers, be it from
//! memory or from the L2 cache, and reading memory at full speed takes all of them. So blocks are small then: their inputs
//! stay in the L1 cache while all panels of a set are multiplied. With many tiles, they are large, which saves
//! storing sums between them.

use std::hint::black_box;
use std::ops::Range;

use crate::gemm::{Epilogue, Gemm, scales_line};
use crate::isa::matrix_unit::{Dots, MatrixUnit, Products, SignedLines, TokenLines};
use crate::isa::{AHEAD, Simd};
use crate::layout::{GROUP, GROUP_LINES, LANES, LINE, Lanes, TOKENS, WeightLine};
use crate::peak::{PeakDots, ZERO_SUM};

/// Maximum number of groups of a block: 32 KiB of signed weights, which fit in the L1 cache.
const GROUPS: usize = 32;
/// Number of tiles up to which blocks are small.
const FEW_TILES: usize = 4;
/// Number of groups, in all tiles together, of the inputs for a small block: 16 KiB.
const INPUT_GROUPS: usize = 16;
/// Maximum number of panels of a set.
const PANELS: usize = 8;
/// Maximum number of tiles that are multiplied at once, and of sums that are kept between blocks of groups.
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
    signed: Aligned<[SignedLines; GROUPS]>, // the current block
    sums: [[Lanes; TOKENS]; TILES], // of each panel of the set and each tile, kept between blocks
    dots: [Aligned<Dots>; IN_FLIGHT], // computed but not yet accumulated
}

impl Buffers {
    #[inline(always)]
    fn new() -> Self {
        Self {
            signed: Aligned([[[0; LINE]; GROUP_LINES]; GROUPS]),
            sums: [[[0.0; LANES]; TOKENS]; TILES],
            dots: [const { Aligned([[0; LANES]; TOKENS]) }; IN_FLIGHT],
        }
    }
}

/// How a panel stores its groups.
pub(crate) trait Encoding<S: MatrixUnit> {
    /// Weight lines per group.
    const GROUP_LINES: usize;
    /// What a group depends on besides its lines.
    type State: Copy;

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
    let (groups, tiles) = (a.k / GROUP, a.inputs.m / TOKENS);
    if tiles == 0 {
        return 0;
    }
    let mut buffers = Buffers::new();
    let mut unit = s.configure();
    for run in (0..tiles).step_by(TILES).map(|from| from..tiles.min(from + TILES)) {
        let mut blocks = Blocks::new(a.w, groups, E::GROUP_LINES, run.len());
        let mut states = [E::start(s); PANELS];
        let mut next = blocks.next();
        while let Some(block) = next {
            next = blocks.next();
            let next = next.as_ref().map_or(&[][..], |b| b.lines);
            let state = &mut states[block.place];
            block.multiply::<S, E>(s, a, run.clone(), state, next, &mut unit, &mut buffers);
        }
    }
    tiles * TOKENS
}

/// Some of the groups of a panel.
struct Block<'a> {
    panel: usize,
    /// Its place in its set.
    place: usize,
    /// The panel's first line.
    row_scales: &'a WeightLine,
    /// The first group, and the number of groups.
    from: usize,
    n: usize,
    /// Number of groups of the panel.
    groups: usize,
    /// The lines of the block's groups.
    lines: &'a [WeightLine],
}

impl Block<'_> {
    /// Multiplies the block by a run of `tiles`, while the lines of the `next` one are prefetched. After the last block of
    /// its panel, the sums are stored to `a.out`.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn multiply<S: MatrixUnit, E: Encoding<S>>(
        &self,
        s: S,
        a: &mut Gemm<'_>,
        tiles: Range<usize>,
        state: &mut E::State,
        next: &[WeightLine],
        unit: &mut S::Guard,
        buffers: &mut Buffers,
    ) {
        let Buffers { signed, sums, dots } = buffers;
        let mut units = Units { matrix: unit, dots, next: Shares::new(next, self.n * tiles.len()) };
        let w = &mut signed.0[..self.n];
        let sums = sums[self.place * tiles.len()..].iter_mut();
        for (i, (tile, saved)) in tiles.zip(sums).enumerate() {
            let line = (tile * self.groups + self.from) * TOKENS;
            let inputs = Inputs {
                x: a.inputs.q.as_chunks().0[line..][..TOKENS * self.n].as_chunks().0,
                scales: a.inputs.scales[line..][..TOKENS * self.n].as_chunks().0,
            };
            let mut c = [s.splat(0.0); TOKENS];
            if self.from > 0 {
                for m in 0..TOKENS {
                    c[m] = s.load(&saved[m]);
                }
            }
            let c = if i == 0 {
                if self.from == 0 {
                    *state = E::start(s);
                }
                inputs.convert_and_add::<S, E>(s, &mut units, state, self.lines, w, c)
            } else if units.next.share > SMALL_SHARE {
                inputs.add::<S, true>(s, &mut units, w, c)
            } else {
                for _ in 0..w.len() {
                    units.next.prefetch(s);
                }
                inputs.add::<S, false>(s, &mut units, w, c)
            };
            if self.from + self.n < self.groups {
                for m in 0..TOKENS {
                    s.store(c[m], &mut saved[m]);
                }
            } else {
                let row_scale = Some(&scales_line(self.row_scales));
                let bias = a.bias.as_chunks().0.get(self.panel);
                let out = &mut a.out[(self.panel * a.inputs.m + tile * TOKENS) * LANES..];
                Epilogue { row_scale, bias, add: a.add }.store(s, &c, out.as_chunks_mut().0);
            }
        }
    }
}

/// The blocks of all panels in the order in which they are multiplied: those of the panels of a set with the same groups
/// follow each other.
struct Blocks<'a> {
    /// The lines of all panels.
    w: &'a [WeightLine],
    panels: usize,
    groups: usize,
    /// Lines per group.
    group_lines: usize,
    /// Panels per set.
    set: usize,
    /// Groups per block.
    block: usize,
    /// The next block: the first panel of its set, its place in it, and its first group.
    first: usize,
    place: usize,
    from: usize,
}

impl<'a> Blocks<'a> {
    /// All panels of `w` with `groups` groups, for a number of tiles.
    fn new(w: &'a [u8], groups: usize, group_lines: usize, tiles: usize) -> Self {
        let (set, block) = match tiles {
            ..=FEW_TILES => (PANELS / tiles, INPUT_GROUPS / tiles),
            _ => (1, GROUPS),
        };
        let w: &[WeightLine] = w.as_chunks().0;
        let panels = w.len() / (1 + groups * group_lines);
        Self { w, panels, groups, group_lines, set, block, first: 0, place: 0, from: 0 }
    }
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Block<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Block<'a>> {
        let Self { groups, group_lines, place, from, .. } = *self;
        if self.first >= self.panels {
            return None;
        }
        let (panel, n) = (self.first + place, self.block.min(groups - from));
        let panel_lines = 1 + groups * group_lines;
        let (row_scales, lines) = self.w[panel * panel_lines..][..panel_lines].split_first()?;
        let lines = &lines[group_lines * from..][..group_lines * n];
        self.place += 1;
        if self.place == self.set.min(self.panels - self.first) {
            (self.place, self.from) = (0, from + n);
        }
        if self.from == groups {
            (self.from, self.first) = (0, self.first + self.set);
        }
        Some(Block { panel, place, row_scales, from, n, groups, lines })
    }
}

/// The lines of the next block, to be prefetched in equal shares.
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
        for line in self.lines.get(self.at..to).unwrap_or_default() {
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

/// The inputs of one tile of tokens for a block.
struct Inputs<'a> {
    x: &'a [TokenLines],
    scales: &'a [[f32; TOKENS]],
}

impl Inputs<'_> {
    /// Converts `lines` to `w` while adding the products with them.
    #[inline(always)]
    fn convert_and_add<S: MatrixUnit, E: Encoding<S>>(
        &self,
        s: S,
        units: &mut Units<'_, S>,
        state: &mut E::State,
        lines: &[WeightLine],
        w: &mut [SignedLines],
        mut c: [S::F; TOKENS],
    ) -> [S::F; TOKENS] {
        let mut lines = lines.chunks_exact(E::GROUP_LINES);
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
    use crate::inputs::QuantizedInputs;
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
        // With 1 to 4 tiles, sets of 8, 4, 2 and 2 panels, the last one not full, and blocks of 16, 8, 5 and 4 groups, the
        // last one not full; with more, large blocks, and in the last case several runs of tiles.
        let few = [(16usize, 17, 19), (37, 9, 9), (63, 6, 5), (64, 9, 3)];
        let many = [(37, 3, 3), (90, 34, 3), (290, 34, 3)];
        for (m, groups, panels) in few.into_iter().chain(many) {
            let (k, lines) = (groups * GROUP, m.div_ceil(TOKENS) * TOKENS * groups);
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
