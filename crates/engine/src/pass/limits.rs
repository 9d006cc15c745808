//! Sizes that bound a pass, and how its work is cut into items.

use nanoinfer_kernels::LANES;

/// Most tokens in one pass: prefill streams the weights once per this many.
pub(crate) const MAX_TOKENS: usize = 256;
/// Most tokens in one pass whose attention is divided by spans: decoding and verifying.
pub(crate) const MAX_SPLIT: usize = 8;
/// Tokens of one attention item of a larger pass.
pub(crate) const ATTENTION_RUN: usize = 8;

/// Panels per item so that every worker gets several, and an item is worth claiming. Even, since
/// kernels take two at a time, and rounded down: with few items, one more than the others have is
/// what everybody waits for.
pub(crate) fn panels_per_item(panels: usize, workers: usize, k: usize) -> usize {
    const MIN_BYTES: usize = 16 * 1024;
    let fair = (panels / (workers * 4)) & !1;
    let worth = MIN_BYTES.div_ceil(LANES * k);
    fair.max(worth).next_multiple_of(2)
}
