//! Draws from weights, in an order that does not depend on the instruction set.

/// A candidate with its weight in the draw.
#[derive(Clone, Copy)]
pub(super) struct Weighted {
    pub logit: f32,
    pub weight: f32,
    pub id: u32,
}

/// The first candidate at which the cumulative weight exceeds the share `uniform` of the total; `None` only by
/// rounding.
pub(super) fn pick(candidates: &[Weighted], uniform: f64) -> Option<u32> {
    let total: f64 = candidates.iter().map(|c| f64::from(c.weight)).sum();
    let mut left = uniform * total;
    for c in candidates {
        left -= f64::from(c.weight);
        if left < 0.0 {
            return Some(c.id);
        }
    }
    None
}

/// Like [`pick`], from the whole vocabulary, with `left` the share of the total: the block of tokens first, then the
/// token.
pub(super) fn pick_any(weights: &[f32], mut left: f64) -> Option<u32> {
    const BLOCK: usize = 256;
    for (block, from) in weights.chunks(BLOCK).zip((0..).step_by(BLOCK)) {
        let weight = sum(block);
        if left >= weight {
            left -= weight;
            continue;
        }
        let mut last = None; // of rounding
        for (&w, id) in block.iter().zip(from..).filter(|(w, _)| **w > 0.0) {
            left -= f64::from(w);
            last = Some(id);
            if left < 0.0 {
                break;
            }
        }
        return last;
    }
    None
}

/// The sum, in an order that does not depend on the instruction set: sixteen lanes, since a single one would
/// wait for each addition.
fn sum(weights: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 16];
    let (chunks, rest) = weights.as_chunks::<16>();
    for chunk in chunks {
        for i in 0..16 {
            lanes[i] += f64::from(chunk[i]);
        }
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, &w)| *lane += f64::from(w));
    lanes.iter().sum()
}

/// The largest logit.
pub(super) fn largest(logits: &[f32]) -> f32 {
    let (chunks, rest) = logits.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &x| max.max(x))
}

/// Lowest index of the largest logit, which is `max`.
pub(super) fn place(logits: &[f32], max: f32) -> u32 {
    // Whole chunks without branches, then the place in the chunk.
    let (chunks, _) = logits.as_chunks::<16>();
    let holds = |chunk: &[f32; 16]| chunk.iter().fold(false, |found, &x| found | (x == max));
    let from = 16 * chunks.iter().position(holds).unwrap_or(chunks.len());
    from as u32 + logits[from..].iter().position(|&x| x == max).unwrap_or(0) as u32
}

/// A number in [0, 1) that depends only on seed and position: SplitMix64 (Steele, Lea and Flood, 2014)
/// as a counter-based generator.
pub(crate) fn uniform(seed: u64, position: u64) -> f64 {
    let scramble = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
    let key = scramble(seed.wrapping_add(GAMMA));
    let bits = scramble(key.wrapping_add(position.wrapping_mul(GAMMA)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}
