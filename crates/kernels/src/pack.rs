//! Packs weights into panels offline and reads single rows back. Defines both encodings.

use crate::layout::{LANES, LINE, QUAD, f32_panel_len, q8_panel_bytes};

/// The orthonormal Walsh-Hadamard transform in natural order, in place on consecutive blocks of `block`
/// values (a power of two that divides `x.len()`). It is its own inverse.
///
/// # Panics
/// If `block` is not a power of two or does not divide `x.len()`.
pub fn hadamard(x: &mut [f32], block: usize) {
    assert!(block.is_power_of_two() && x.len().is_multiple_of(block));
    if block == 1 {
        return;
    }
    let scale = 1.0 / (block as f32).sqrt();
    for block in x.chunks_exact_mut(block) {
        let mut half = 1;
        while half < block.len() {
            for pair in block.chunks_exact_mut(2 * half) {
                let (a, b) = pair.split_at_mut(half);
                for (a, b) in a.iter_mut().zip(b) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        block.iter_mut().for_each(|x| *x *= scale);
    }
}

/// Packs 16 rows of `k` inputs (already rotated and padded) as one Q8 panel of [`q8_panel_bytes`] bytes:
/// a line of 16 f32 row scales, then `k/4` lines. Byte `4r+t` of line `j` is `q + 128` for row `r`, input
/// `4j+t`, with q = round(w · 127 / amax), half to even, and scale = amax / 127.
///
/// # Panics
/// If the slices do not have these sizes.
pub fn q8_panel(rows: &[f32], k: usize, out: &mut [u8]) {
    assert!(k.is_multiple_of(QUAD) && rows.len() == LANES * k && out.len() == q8_panel_bytes(k));
    let (scales, lines) = out.split_at_mut(LINE);
    for (r, (row, scale)) in rows.chunks_exact(k).zip(scales.as_chunks_mut::<4>().0).enumerate() {
        let amax = row.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        // For a row of zeros or nearly zeros, 127 / amax would not be finite.
        let inverse = if amax < 1e-30 { 0.0 } else { 127.0 / amax };
        *scale = (if inverse == 0.0 { 0.0 } else { amax / 127.0 }).to_le_bytes();
        for (line, quad) in
            lines.as_chunks_mut::<LINE>().0.iter_mut().zip(row.as_chunks::<QUAD>().0)
        {
            for (byte, x) in line[QUAD * r..].iter_mut().zip(quad) {
                *byte = (round_small(x * inverse) as i8 as u8).wrapping_add(128);
            }
        }
    }
}

/// Rounds half to even for |x| < 2²²: adding 1.5·2²³ leaves no fraction bits. Equivalent to
/// `round_ties_even`, which compiles to a library call for the packer's baseline CPU.
fn round_small(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT) - SHIFT
}

/// Packs 16 rows of `k` inputs as the bytes of one f32 panel of [`f32_panel_len`] values: line `j` holds
/// input `j` of all 16 rows.
///
/// # Panics
/// If the slices do not have these sizes.
pub fn f32_panel(rows: &[f32], k: usize, out: &mut [u8]) {
    assert!(rows.len() == f32_panel_len(k) && out.len() == size_of_val(rows));
    for (j, line) in out.as_chunks_mut::<LINE>().0.iter_mut().enumerate() {
        for (r, word) in line.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *word = rows[r * k + j].to_le_bytes();
        }
    }
}

/// Reads row `r` of a Q8 panel back: `scale · q` for each of its inputs, still rotated.
///
/// # Panics
/// If the panel does not have `out.len()` inputs or `r` is not less than 16.
pub fn q8_row(panel: &[u8], r: usize, out: &mut [f32]) {
    assert!(r < LANES && panel.len() == q8_panel_bytes(out.len()));
    let (lines, _) = panel.as_chunks::<LINE>();
    let scale = f32::from_le_bytes(*lines[0][4 * r..].first_chunk().expect("16 scales"));
    for (line, quad) in lines[1..].iter().zip(out.as_chunks_mut::<QUAD>().0) {
        for (x, byte) in quad.iter_mut().zip(&line[QUAD * r..]) {
            *x = scale * (i32::from(*byte) - 128) as f32;
        }
    }
}

/// Reads row `r` of an f32 panel back.
///
/// # Panics
/// If the panel does not have `out.len()` inputs or `r` is not less than 16.
pub fn f32_row(panel: &[f32], r: usize, out: &mut [f32]) {
    assert!(r < LANES && panel.len() == f32_panel_len(out.len()));
    for (x, line) in out.iter_mut().zip(panel.as_chunks::<LANES>().0) {
        *x = line[r];
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn small_numbers_round_half_to_even() {
        for i in -4 * 127..=4 * 127 {
            for x in [i as f32 / 4.0, (i as f32 / 4.0).next_up(), (i as f32 / 4.0).next_down()] {
                assert_eq!(super::round_small(x), x.round_ties_even(), "{x}");
            }
        }
    }
}
