//! OLMo 2 and OLMoE: one norm over all queries of a token, and one over all its keys.

use nanoinfer_format::{NormPlace, QkNorm, RouterSoftmax};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::Description;
use crate::gguf::Keys;
use crate::hf::{Settings, experts, router_softmax};
use crate::names::{HF_EXPERTS, HF_POST_NORMS};

pub(super) const FAMILY: Family = Family {
    hugging_face: &[
        HfSpelling {
            model_type: "olmoe",
            norm_eps: 1e-5,
            own_names: HF_EXPERTS,
            adapt: olmoe,
            ..HfSpelling::LLAMA
        },
        HfSpelling {
            model_type: "olmo2",
            norm_eps: 1e-5,
            own_names: HF_POST_NORMS,
            adapt: |_, d| {
                post_norms(d);
                Ok(())
            },
            ..HfSpelling::LLAMA
        },
    ],
    gguf: &[
        GgufSpelling { architecture: "olmoe", adapt: gguf_olmoe, ..GgufSpelling::NEOX },
        GgufSpelling {
            architecture: "olmo2",
            adapt: |_, d| {
                post_norms(d);
                Ok(())
            },
            ..GgufSpelling::NEOX
        },
    ],
};

/// A mixture of experts on every layer.
fn olmoe(c: &Settings, d: &mut Description) -> Result<(), Error> {
    if let Some(clip) = c.f64("clip_qkv")? {
        let next = "only models without it are";
        return Err(c.unsupported(format!("clip_qkv {clip}"), next));
    }
    d.config.qk_norm = QkNorm::Full;
    let mut experts = experts(c, d, "num_experts", [64, 8])?;
    experts.router_softmax = router_softmax(c)?;
    d.config.experts = Some(experts);
    Ok(())
}

fn gguf_olmoe(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.experts = keys.experts(d.config.n_layers, RouterSoftmax::All)?;
    d.config.qk_norm = QkNorm::Full;
    Ok(())
}

/// OLMo 2: norms after attention and feed-forward only.
fn post_norms(d: &mut Description) {
    d.config.norm_place = NormPlace::Post;
    d.config.qk_norm = QkNorm::Full;
}
