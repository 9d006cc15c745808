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
const OTHER_PARTS: [&str; 7] = [
    "visual.",
    "vision_tower.",
    "audio_tower.",
    "embed_vision.",
    "embed_audio.",
    "multi_modal_projector.",
    "mtp.",
];

/// Rejects a tensor that only quantized checkpoints contain, and names the quantization method: the
/// checkpoint's `config.json` may not mention it.
pub(crate) fn refuse_quantized(path: &Path, name: &str) -> Result<(), Error> {
    const MADE_BY: [(&str, &str); 10] = [
        (".qweight", "GPTQ or AWQ"),
        (".qzeros", "GPTQ or AWQ"),
        (".scales", "MLX, GPTQ or AWQ"),
        (".g_idx", "GPTQ"),
        (".weight_packed", "compressed-tensors"),
        (".weight_scale", "compressed-tensors or FP8"),
        (".weight_scale_inv", "FP8"),
        (".weight.absmax", "bitsandbytes"),
        (".weight.quant_map", "bitsandbytes"),
        (".SCB", "bitsandbytes"),
    ];
    let Some((_, method)) = MADE_BY.iter().find(|(end, _)| name.ends_with(end)) else {
        return Ok(());
    };
    Err(Error::Unsupported {
        path: path.into(),
        what: format!("a model quantized with {method} (it has the tensor {name:?})"),
        next: "convert the original model (f32, f16 or bf16) or a GGUF version of it".into(),
    })
}

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
