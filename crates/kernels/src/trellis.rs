//! Trellis-coded weights: the levels, the codes, and the panels that hold them.
//!
//! A code of `k` bits does not select its level alone. The weights of a row form eight *strands*, weight
//! `i` being in strand `i mod 8`, and each code also depends on the lowest bits of the codes before it in
//! its strand. With `b` the lowest bit of a code, `c` its other bits and `bₙ` the lowest bit of the code
//! `n` places earlier (0 before the start of the row):
//!
//! ```text
//! level = levels[4c + 2(b ⊕ b₁ ⊕ b₄) + b₂]
//! ```
//!
//! Each code thus chooses among half of 2ᵏ⁺¹ levels, and the codes before it determine which half: the
//! density of k+1 bits for the price of k. This is trellis-coded quantization (Marcellin and Fischer,
//! 1990) with Ungerboeck's code of 16 states. Strands are interleaved so that one vector operation
//! advances several of them.
//!
//! Panels have the shape of Q8 panels: a line of 16 row scales, then lines in which byte `4r+t` belongs
//! to row `r` and inputs `≡ t (mod 4)`. In the order of the inputs, line `l` of a Q8 panel is coded thus:
//!
//! ```text
//! q4   per 8 inputs one line     low nibble: 2c+b of its line 0, high nibble: of its line 1
//! q2   per 32 inputs B, C        bit l of B and C: b and c of line l = 0..8
//! q3   per 32 inputs B, C0, C1   bits 2f, 2f+1 of Ch: c of line l = 2f+h
//! q5   per 32 inputs B, C0 … C3  low nibble of Cf: c of line 2f, high nibble: of line 2f+1
//! ```

use crate::layout::{LANES, LINE, QUAD, WeightLine};

/// Strands per row: the weights of a row whose inputs are congruent modulo this number depend on each
/// other.
pub const STRANDS: usize = 8;

/// Inputs that one block of code lines holds, and their lines in a Q8 panel.
pub(crate) const BLOCK_INPUTS: usize = 32;
pub(crate) const BLOCK_LINES: usize = BLOCK_INPUTS / QUAD;

/// A trellis code: the levels of the weights, and how codes select them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trellis {
    /// Bits per weight, 2 to 5.
    pub bits: u8,
    /// Number of states, a power of two: the values of the history that matter.
    pub states: u8,
    /// Bits of the history whose parity is the lowest bit of the level's index.
    pub low_taps: u32,
    /// Bits of the history whose parity, added to the code's own bit, is the next bit.
    pub high_taps: u32,
    /// 2^(bits+1) levels, ascending, symmetric about 0.
    pub levels: &'static [i8],
    /// The magnitude of level 127 in units of a row's root mean square, for which the levels were
    /// trained on Gaussian weights.
    pub unit: f32,
}

impl Trellis {
    /// The codes in use.
    pub const ALL: [Trellis; 4] = [
        Trellis::new(2, &[-127, -73, -41, -13, 13, 41, 73, 127], 1.87915),
        Trellis::new(
            3,
            &[-127, -93, -71, -55, -42, -29, -17, -6, 6, 17, 29, 42, 55, 71, 93, 127],
            2.59205,
        ),
        Trellis::new(
            4,
            &[
                -127, -104, -89, -77, -68, -60, -52, -46, -40, -34, -28, -23, -18, -13, -7, -3, 3,
                7, 13, 18, 23, 28, 34, 40, 46, 52, 60, 68, 77, 89, 104, 127,
            ],
            3.25117,
        ),
        Trellis::new(
            5,
            &[
                -127, -107, -96, -87, -81, -75, -70, -65, -61, -58, -54, -51, -47, -44, -42, -39,
                -36, -34, -31, -28, -26, -23, -21, -19, -16, -14, -12, -10, -8, -5, -3, -1, 1, 3,
                5, 8, 10, 12, 14, 16, 19, 21, 23, 26, 28, 31, 34, 36, 39, 42, 44, 47, 51, 54, 58,
                61, 65, 70, 75, 81, 87, 96, 107, 127,
            ],
            3.85952,
        ),
    ];

    const fn new(bits: u8, levels: &'static [i8], unit: f32) -> Self {
        Self { bits, states: 16, low_taps: 0b0010, high_taps: 0b1001, levels, unit }
    }

    /// The code with `bits` bits per weight.
    ///
    /// # Panics
    /// If there is none: `bits` must be from 2 to 5.
    pub fn of(bits: u8) -> &'static Trellis {
        Self::ALL.iter().find(|t| t.bits == bits).expect("2 to 5 bits per weight")
    }

    /// The level of a code. `history` holds the lowest bits of the codes before it in its strand, the
    /// newest lowest; it is 0 at the start of a row.
    pub fn level(&self, code: u8, history: u32) -> i8 {
        self.levels[4 * usize::from(code >> 1) + self.pair(code & 1, history)]
    }

    /// The two low bits of a level's index, of which the lowest bit of the code determines the higher.
    pub fn pair(&self, bit: u8, history: u32) -> usize {
        let parity = |taps: u32| (history & taps).count_ones() as usize & 1;
        2 * (usize::from(bit) ^ parity(self.high_taps)) + parity(self.low_taps)
    }

    /// The history after `code`.
    pub fn next(&self, code: u8, history: u32) -> u32 {
        (history << 1 | u32::from(code & 1)) & (u32::from(self.states) - 1)
    }
}

/// Bytes of a panel of `k` inputs (a multiple of 64) with `bits` bits per weight.
pub const fn trellis_panel_bytes(bits: usize, k: usize) -> usize {
    LINE + LANES * k / 8 * bits
}

/// Where a code of line `l` of a block lies: its bits 1 and up, and its bit 0, as (line of the block,
/// shift).
fn place(bits: usize, l: usize) -> ((usize, usize), (usize, usize)) {
    match bits {
        2 => ((1, l), (0, l)),
        3 => ((1 + l % 2, l / 2 * 2), (0, l)),
        4 => ((l / 2, 4 * (l % 2) + 1), (l / 2, 4 * (l % 2))),
        _ => ((1 + l / 2, 4 * (l % 2)), (0, l)),
    }
}

/// Packs the codes of 16 rows of `k` inputs, `[16][k]` in the order of the inputs, as one panel of
/// [`trellis_panel_bytes`]. A weight is the scale of its row times its level.
///
/// # Panics
/// If the slices do not have these sizes, or `k` is not a multiple of 64.
pub fn trellis_panel(t: &Trellis, codes: &[u8], scales: &[f32; LANES], out: &mut [u8]) {
    let (bits, k) = (usize::from(t.bits), codes.len() / LANES);
    assert!(k.is_multiple_of(2 * BLOCK_INPUTS) && codes.len() == LANES * k);
    assert_eq!(out.len(), trellis_panel_bytes(bits, k));
    out.fill(0);
    let (first, lines) = out.split_at_mut(LINE);
    for (to, scale) in first.as_chunks_mut().0.iter_mut().zip(scales) {
        *to = scale.to_le_bytes();
    }
    let lines = lines.as_chunks_mut::<LINE>().0;
    for (r, row) in codes.chunks_exact(k.max(1)).enumerate() {
        for (i, code) in row.iter().enumerate() {
            let block = &mut lines[i / BLOCK_INPUTS * bits..][..bits];
            let byte = QUAD * r + i % QUAD;
            let ((high, shift), (low, bit)) = place(bits, i % BLOCK_INPUTS / QUAD);
            block[high][byte] |= code >> 1 << shift;
            block[low][byte] |= (code & 1) << bit;
        }
    }
}

/// Reads the levels of row `r` of a panel back into `out` and returns the scale of the row.
///
/// # Panics
/// If the panel does not have `out.len()` inputs or `r` is not less than 16.
pub fn trellis_row(t: &Trellis, panel: &[u8], r: usize, out: &mut [i8]) -> f32 {
    assert_eq!(panel.len(), trellis_panel_bytes(t.bits.into(), out.len()));
    read_row(t, panel, r, out, |to, level, _| *to = level)
}

/// Reads row `r` of a panel back: the scale of the row times each level, still rotated.
///
/// # Panics
/// If the panel does not have `out.len()` inputs or `r` is not less than 16.
pub fn trellis_values(t: &Trellis, panel: &[u8], r: usize, out: &mut [f32]) {
    assert_eq!(panel.len(), trellis_panel_bytes(t.bits.into(), out.len()));
    read_row(t, panel, r, out, |to, level, scale| *to = scale * f32::from(level));
}

/// Calls `put` with each element of `out`, its level and the row's scale, which it returns.
fn read_row<T>(
    t: &Trellis,
    panel: &[u8],
    r: usize,
    out: &mut [T],
    put: impl Fn(&mut T, i8, f32),
) -> f32 {
    assert!(r < LANES);
    let bits = usize::from(t.bits);
    let lines: &[WeightLine] = panel.as_chunks().0;
    let scale = f32::from_le_bytes(*lines[0][4 * r..].first_chunk().expect("16 scales"));
    let mut history = [0; STRANDS];
    for (i, to) in out.iter_mut().enumerate() {
        let block = &lines[1 + i / BLOCK_INPUTS * bits..][..bits];
        let byte = QUAD * r + i % QUAD;
        let ((high, shift), (low, bit)) = place(bits, i % BLOCK_INPUTS / QUAD);
        let c = block[high][byte] >> shift & ((1 << (bits - 1)) - 1);
        let code = c << 1 | block[low][byte] >> bit & 1;
        let history = &mut history[i % STRANDS];
        put(to, t.level(code, *history), scale);
        *history = t.next(code, *history);
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_ascend_and_are_symmetric() {
        for (t, bits) in Trellis::ALL.iter().zip(2..) {
            assert_eq!(
                (t.bits, t.levels.len(), t.levels[t.levels.len() - 1]),
                (bits, 2 << bits, 127)
            );
            assert!(t.levels.is_sorted_by(|a, b| a < b));
            assert!(t.levels.iter().zip(t.levels.iter().rev()).all(|(a, b)| *a == -*b));
        }
    }

    /// A code may be followed by either half of the levels, so every level is reachable.
    #[test]
    fn a_state_selects_half_of_the_levels() {
        for t in &Trellis::ALL {
            for history in 0..u32::from(t.states) {
                let mut half: Vec<i8> =
                    (0..1 << t.bits).map(|code| t.level(code, history)).collect();
                half.sort_unstable();
                let first = (history >> 1 & 1) as usize;
                let every_other: Vec<i8> = t.levels[first..].iter().copied().step_by(2).collect();
                assert_eq!(half, every_other);
            }
        }
    }

    #[test]
    fn rows_survive_a_round_trip() {
        for t in &Trellis::ALL {
            let k = 192;
            let codes: Vec<u8> = (0..16 * k as u32)
                .map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as u8 & ((1 << t.bits) - 1))
                .collect();
            let scales = std::array::from_fn(|r| r as f32 + 0.5);
            let mut panel = vec![0; trellis_panel_bytes(usize::from(t.bits), k)];
            trellis_panel(t, &codes, &scales, &mut panel);
            for r in 0..16 {
                let mut levels = vec![0; k];
                assert_eq!(trellis_row(t, &panel, r, &mut levels), scales[r]);
                for strand in 0..STRANDS {
                    let mut history = 0;
                    for i in (strand..k).step_by(STRANDS) {
                        let code = codes[r * k + i];
                        assert_eq!(levels[i], t.level(code, history), "{} bits", t.bits);
                        history = t.next(code, history);
                    }
                }
            }
        }
    }
}
