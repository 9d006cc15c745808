//! Checks shared by several readers of tensor files.

use std::path::Path;

use crate::Error;
use crate::source::{FileTensor, TensorSource};

/// Whether a tensor of a Hugging Face model is no weight of its text part: transformers before 4.32 also saved
/// the computed RoPE frequencies, and models may have a part for images or layers that only draft.
pub(crate) fn is_ignored(name: &str) -> bool {
    let inner = name.strip_prefix("model.").unwrap_or(name);
    name.ends_with("rotary_emb.inv_freq") || OTHER_PARTS.iter().any(|part| inner.starts_with(part))
}

/// The beginnings of names of weights that are not for text, or only for drafts.
const OTHER_PARTS: [&str; 8] = [
    "visual.",
    "vision_tower.",
    "vision_model.",
    "audio_tower.",
    "embed_vision.",
    "embed_audio.",
    "multi_modal_projector.",
    "mtp.",
];

/// Checks that no two tensors of a file overlap.
pub(crate) fn check_overlaps<'a>(
    path: &Path,
    tensors: impl Iterator<Item = &'a FileTensor>,
) -> Result<(), Error> {
    let mut extents: Vec<_> = tensors.map(|t| (t.extent(), t.name().1)).collect();
    extents.sort_by_key(|(e, _)| (e.start, e.end));
    for pair in extents.windows(2) {
        let ((a, _), (b, name)) = (&pair[0], &pair[1]);
        if b.start < a.end {
            let what = format!("starts at byte {}, inside {:?}", b.start, pair[0].1);
            return Err(Error::Tensor { path: path.into(), tensor: (*name).into(), what });
        }
    }
    Ok(())
}
