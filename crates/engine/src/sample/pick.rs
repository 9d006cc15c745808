//! Draws from weights, in an order that does not depend on the instruction set.

/// A candidate with its weight in the draw.
#[derive(Clone, Copy)]
pub(super) struct Weighted {
    pub logit: f32,
    pub weight: f32,
    pub id: u32,
}

/// The first candidate at which the cumulative weight exceeds the share `uniform` of the total.
pub(super) fn pick(candidates: &[Weighted], uniform: f64, fallback: u32) -> u32 {
    let total: f64 = candidates.iter().map(|c| f64::from(c.weight)).sum();
    let mut left = uniform * total;
    for c in candidates {
        left -= f64::from(c.weight);
        if left < 0.0 {
            return c.id;
        }
    }
    fallback // reached only by rounding
}

/// Like [`pick`], from the whole vocabulary: the block of tokens first, then the token.
pub(super) fn pick_any(weights: &[f32], uniform: f64, fallback: u32) -> u32 {
    const BLOCK: usize = 256;
    let mut left = uniform * sum(weights);
    for (block, from) in weights.chunks(BLOCK).zip((0..).step_by(BLOCK)) {
        let weight = sum(block);
        if left >= weight {
            left -= weight;
            continue;
        }
        let mut last = fallback; // of rounding
        for (&w, id) in block.iter().zip(from..).filter(|(w, _)| **w > 0.0) {
            left -= f64::from(w);
            last = id;
            if left < 0.0 {
                break;
            }
        }
        return last;
    }
    fallback
}

/// The sum, in an order that does not depend on the instruction set: sixteen lanes, since a single one would
/// wait for each addition.
pub(super) fn sum(weights: &[f32]) -> f64 {
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

/// Index of the largest logit; the lowest index on ties.
pub(super) fn argmax(logits: &[f32]) -> u32 {
    let (chunks, rest) = logits.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    let max = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &x| max.max(x));
    // Whole chunks without branches, then the place in the chunk.
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
