//! Decoding of trellis-coded panels (see `trellis.rs`), a block of 32 inputs at a time, to lines of a Q8 panel.

#[cfg(target_arch = "x86_64")]
use crate::gemm_matrix_unit::Encoding;
use crate::isa::codes::{Codes, LevelTable};
#[cfg(target_arch = "x86_64")]
use crate::isa::matrix_unit::{MatrixUnit, SignedLines};
use crate::layout::{GROUP, LANES, LINE, WeightLine, q8_panel_bytes};
use crate::trellis::{BLOCK_INPUTS, BLOCK_LINES, Trellis, trellis_panel_bytes};

/// The levels of each code by the indices that [`Block::line`] computes.
pub(crate) const LEVELS: [LevelTable; 4] = {
    let mut tables = [[0; 64]; 4];
    let mut n = 0;
    while n < 4 {
        let t = &Trellis::ALL[n];
        // The steps below implement this code only.
        assert!(t.bits as usize == n + 2 && t.states == 16);
        assert!(t.low_taps == 0b0010 && t.high_taps == 0b1001);
        let (mut i, last) = (0, t.levels.len() - 1);
        while i < 64 {
            assert!(t.levels[i & last] == -t.levels[last - (i & last)]);
            let level = match t.bits {
                4 => 2 * (i & 15) + (i >> 4 & 1),
                5 => 4 * (i & 15) + (i >> 4),
                _ => i & last,
            };
            tables[n][i] = t.levels[level];
            i += 1;
        }
        n += 1;
    }
    tables
};

/// What a block depends on: of q4, its predecessor's lines, otherwise its predecessor's first line.
pub(crate) type Before<S> = [<S as Codes>::Bytes; 4];

/// A block of 32 inputs of a panel.
pub(crate) struct Block<S: Codes, const BITS: usize> {
    lines: [S::Bytes; BITS],
    before: Before<S>,
    /// See [`Codes::pairs`] and, for q5, [`Codes::fine_pairs`]; unused for q4.
    pairs: [S::Bytes; 2],
}

impl<S: Codes, const BITS: usize> Block<S, BITS> {
    /// Loads a block and replaces `before` for the next.
    #[inline(always)]
    pub(crate) fn load(s: S, from: &[WeightLine; BITS], before: &mut Before<S>) -> Self {
        let mut lines = [s.zeros(); BITS];
        for i in 0..BITS {
            s.prefetch_codes(&from[i]);
            lines[i] = s.bytes(&from[i]);
        }
        let mut block = Self { lines, before: *before, pairs: [s.zeros(); 2] };
        match BITS {
            4 => before.copy_from_slice(&lines[..4]),
            5 => block.pairs = s.fine_pairs(lines[0], before[0]),
            _ => block.pairs = s.pairs(lines[0], before[0]),
        }
        if BITS != 4 {
            before[0] = lines[0];
        }
        block
    }

    /// The weights of Q8 line `L`.
    #[inline(always)]
    pub(crate) fn line<const L: usize>(&self, s: S, levels: S::Levels) -> S::Line {
        match BITS {
            2 | 3 => s.weights(levels, self.index_2_or_3::<L>(s)),
            4 => self.line_4::<L>(s, levels),
            _ => self.line_5::<L>(s, levels),
        }
    }

    /// The index of a level is 4c + its pair. With 2 bits, c has one bit and the next is arbitrary.
    #[inline(always)]
    fn index_2_or_3<const L: usize>(&self, s: S) -> S::Bytes {
        let c = match (BITS, L % 2) {
            (2, 0) => self.lines[1],
            (2, _) => s.shr::<1>(self.lines[1]),
            (_, h) => self.lines[1 + h],
        };
        let pairs = self.pairs[L % 2];
        let index = match L / 2 % 2 {
            0 => s.merge(0b0011_0011, pairs, s.shl::<2>(c)),
            _ => s.merge(0b0011_0011, s.shr::<2>(pairs), c),
        };
        if L < BLOCK_LINES / 2 { index } else { s.shr::<4>(index) }
    }

    /// A nibble is 2c + b, and continues the strands of the same nibble of the lines before it.
    #[inline(always)]
    fn line_4<const L: usize>(&self, s: S, levels: S::Levels) -> S::Line {
        let line = |back: usize| match (L / 2).checked_sub(back) {
            Some(i) => self.lines[i],
            None => self.before[4 + L / 2 - back],
        };
        let (v, v1, v2, v4) = (line(0), line(1), line(2), line(4));
        let v = s.xor_where(0x11, v, s.xor(v1, v4));
        match L % 2 {
            0 => s.nibble_weights::<false>(levels, v, v2),
            _ => s.nibble_weights::<true>(levels, v, v2),
        }
    }

    /// A nibble is c.
    #[inline(always)]
    fn line_5<const L: usize>(&self, s: S, levels: S::Levels) -> S::Line {
        let c = self.lines[1 + L / 2];
        let c = if L.is_multiple_of(2) { c } else { s.shr::<4>(c) };
        s.fine_weights::<L>(levels, c, self.pairs)
    }
}

/// Expands to `$f!(line);` for the lines of a block, with constants instead of a loop, so that every
/// index is computed from constant positions.
macro_rules! each_line {
    ($f:ident) => {
        $f!(0);
        $f!(1);
        $f!(2);
        $f!(3);
        $f!(4);
        $f!(5);
        $f!(6);
        $f!(7);
    };
}
pub(crate) use each_line;

/// Trellis codes of `BITS` bits.
#[cfg(target_arch = "x86_64")]
pub(crate) enum Coded<const BITS: usize> {}

#[cfg(target_arch = "x86_64")]
impl<S: MatrixUnit + Codes, const BITS: usize> Encoding<S> for Coded<BITS> {
    const GROUP_LINES: usize = BITS * GROUP / BLOCK_INPUTS;
    type State = (S::Levels, Before<S>);

    #[inline(always)]
    fn start(s: S) -> Self::State {
        (s.levels(&LEVELS[BITS - 2]), [s.zeros(); 4])
    }
    #[inline(always)]
    fn convert(
        s: S,
        (levels, before): &mut Self::State,
        lines: &[WeightLine],
        to: &mut SignedLines,
    ) {
        let (blocks, to) = (lines.as_chunks().0, to.as_chunks_mut::<BLOCK_LINES>().0);
        for (block, to) in blocks.iter().zip(to) {
            let block = Block::<S, BITS>::load(s, block, before);
            macro_rules! store {
                ($l:literal) => {
                    s.store_signed(block.line::<$l>(s, *levels), &mut to[$l]);
                };
            }
            each_line!(store);
        }
    }
}

/// Arguments of `decode_panel`, which turns a trellis-coded panel into a Q8 panel.
#[derive(Debug)]
pub(crate) struct DecodePanel<'a> {
    /// Bits per weight, 2 to 5.
    pub bits: u8,
    /// The trellis-coded panel.
    pub w: &'a [u8],
    /// The Q8 panel.
    pub out: &'a mut [u8],
}

impl DecodePanel<'_> {
    pub(crate) fn check(&self) {
        let k = (self.out.len() - LINE) / LANES;
        assert!((2..=5).contains(&self.bits) && k.is_multiple_of(GROUP));
        assert_eq!(self.w.len(), trellis_panel_bytes(self.bits.into(), k));
        assert_eq!(self.out.len(), q8_panel_bytes(k));
    }
}

#[inline(always)]
pub(crate) fn decode_panel<S: Codes>(s: S, a: DecodePanel<'_>) {
    match a.bits {
        2 => decode::<S, 2>(s, a.w, a.out),
        3 => decode::<S, 3>(s, a.w, a.out),
        4 => decode::<S, 4>(s, a.w, a.out),
        _ => decode::<S, 5>(s, a.w, a.out),
    }
}

#[inline(always)]
fn decode<S: Codes, const BITS: usize>(s: S, w: &[u8], to: &mut [u8]) {
    let levels = s.levels(&LEVELS[BITS - 2]);
    let (w, to): (&[WeightLine], _) = (w.as_chunks().0, to.as_chunks_mut::<LINE>().0);
    to[0] = w[0];
    let (blocks, _) = w[1..].as_chunks::<BITS>();
    let mut before = [s.zeros(); 4];
    for (block, to) in blocks.iter().zip(to[1..].as_chunks_mut::<BLOCK_LINES>().0) {
        let block = Block::<S, BITS>::load(s, block, &mut before);
        macro_rules! store {
            ($l:literal) => {
                s.store_line(block.line::<$l>(s, levels), &mut to[$l]);
            };
        }
        each_line!(store);
    }
}
