//! Sizes that bound a pass, and the granularity of its items.

use nanoinfer_kernels::LANES;

/// Maximum number of tokens in a pass: prefill streams the weights once for each such batch.
pub(crate) const MAX_TOKENS: usize = 256;
/// Maximum number of tokens in an item of attention. They share each read of the cache.
pub(crate) const ATTENTION_ROWS: usize = 8;
/// Number of tokens with a full context whose attention can be divided by spans.
pub(crate) const DEEP_ROWS: usize = 8;
/// Number of rows of logits from which they are in large pages of memory.
pub(super) const MANY_ROWS: usize = 8;

/// Number of panels per item: small enough that every worker gets several items, large enough that an
/// item is worth claiming. The number is even, since kernels process pairs of panels. It is rounded down,
/// since with few items per worker, all workers wait for one with an extra item.
pub(crate) fn panels_per_item(panels: usize, workers: usize, k: usize) -> usize {
    const MIN_BYTES: usize = 32 * 1024;
    let fair = (panels / (workers * 8)) & !1;
    let worth = MIN_BYTES.div_ceil(LANES * k);
    fair.max(worth).next_multiple_of(2)
}
