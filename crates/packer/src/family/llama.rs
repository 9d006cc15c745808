//! Llama 1 to 3, and models with the same architecture (SmolLM2, TinyLlama, …).

use nanoinfer_format::RouterSoftmax;

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::Description;
use crate::gguf::Keys;

pub(super) const FAMILY: Family = Family {
    hugging_face: &[HfSpelling::LLAMA],
    gguf: &[GgufSpelling { architecture: "llama", adapt: gguf, ..GgufSpelling::NORM }],
};

/// Mistral and Mixtral also use this name in GGUF; their keys distinguish them.
fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.experts = keys.experts(d.config.n_layers, RouterSoftmax::Chosen)?;
    d.config.windows.fill(keys.window()?);
    Ok(())
}
