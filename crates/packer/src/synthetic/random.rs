//! Random weights of panels.

use std::iter::repeat_n;

use nanoinfer_format::{Encoding, LANES, LINE, TensorSpec, pad};
use nanoinfer_kernels::Trellis;

use crate::Error;

/// A tensor's stored rows of one expert: whether each is a row of the model, and not padding.
fn rows(spec: &TensorSpec) -> Vec<bool> {
    let mut rows = Vec::new();
    let mut push = |n: usize, padded: usize| {
        rows.extend(repeat_n(true, n).chain(repeat_n(false, padded - n)));
    };
    if spec.parts.is_empty() {
        push(spec.logical[1] as usize, spec.stored[1] as usize);
    }
    for unit in 0..spec.repeat {
        for part in &spec.parts {
            for block in unit * part.count..(unit + 1) * part.count {
                let left = part.n.saturating_sub(block * part.rows);
                push(left.min(part.rows) as usize, pad(part.rows as usize, LANES));
            }
        }
    }
    rows
}

/// Standard deviation of random weights in units of their row's scale.
fn spread(encoding: Encoding) -> f32 {
    let Some(bits) = encoding.trellis_bits() else { return 73.3 }; // uniform in -127…127
    let levels = Trellis::of(bits).levels;
    let squares: f32 = levels.iter().map(|&level| f32::from(level) * f32::from(level)).sum();
    (squares / levels.len() as f32).sqrt()
}

/// xorshift64: random enough, and as fast as memory.
pub(super) struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Random {
    /// Panels of a matrix, scaled so that outputs have about the same variance as inputs. Rows that are padding are
    /// zero; padding of inputs is random, which no known shape has.
    pub(super) fn panels(
        &mut self,
        spec: &TensorSpec,
        write: &mut dyn FnMut(&[u8]) -> Result<(), nanoinfer_format::Error>,
    ) -> Result<(), Error> {
        let Some(layout) = spec.panels() else { return Ok(()) };
        let rows = rows(spec);
        for run in layout.runs(0..layout.panels()) {
            let scale = 1.0 / (spread(run.encoding) * (spec.stored[2] as f32).sqrt());
            let mut panel = vec![0; run.bytes.len() / run.panels.len()];
            for index in run.panels {
                let lanes = index * LANES % rows.len();
                let lanes = &rows[lanes..lanes + LANES];
                if run.encoding == Encoding::F32Panel {
                    let mut values = self.floats(panel.len() / 4);
                    for (value, is_row) in
                        values.as_chunks_mut().0.iter_mut().zip(lanes.iter().cycle())
                    {
                        *value = if *is_row { *value } else { [0; 4] };
                    }
                    write(&values)?;
                    continue;
                }
                let (scales, lines) = panel.split_at_mut(LINE);
                for (is_row, to) in lanes.iter().zip(scales.as_chunks_mut::<4>().0) {
                    *to = if *is_row { scale } else { 0.0 }.to_le_bytes();
                }
                self.fill(lines);
                write(&panel)?;
            }
        }
        Ok(())
    }

    /// Stored weights: q + 128 for q in -127..=127.
    fn fill(&mut self, bytes: &mut [u8]) {
        for eight in bytes.as_chunks_mut::<8>().0 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            *eight = self.0.to_le_bytes().map(|b| b.max(1));
        }
    }

    /// Floats from -0.5 to 0.5.
    pub(super) fn floats(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n.next_multiple_of(8)];
        self.fill(&mut bytes);
        bytes[..n].iter().flat_map(|&b| (f32::from(b) / 255.0 - 0.5).to_le_bytes()).collect()
    }
}
