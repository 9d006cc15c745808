//! Sizes that bound a pass, and the granularity of its items.

use nanoinfer_kernels::LANES;

/// The most tokens in a pass: prefill streams the weights once per this many.
pub(crate) const MAX_TOKENS: usize = 256;
/// The most tokens in a pass with attention split by spans: decoding and verification.
pub(crate) const MAX_SPLIT: usize = 8;
/// Tokens per attention item in a larger pass.
pub(crate) const ATTENTION_RUN: usize = 8;

/// Panels per item: few enough that every worker gets several items, many enough to be worth claiming.
/// Even, since kernels process pairs. Rounded down: with few items per worker, everyone waits for the
/// worker with one more.
pub(crate) fn panels_per_item(panels: usize, workers: usize, k: usize) -> usize {
    const MIN_BYTES: usize = 16 * 1024;
    let fair = (panels / (workers * 4)) & !1;
    let worth = MIN_BYTES.div_ceil(LANES * k);
    fair.max(worth).next_multiple_of(2)
}
