//! Mistral, Mixtral and Ministral. In GGUF the first two are called `llama`.

use nanoinfer_format::Role;

use super::spelling::{Family, HfSpelling};
use crate::Error;
use crate::description::Description;
use crate::hf::{Settings, experts, layer_windows, sliding_window};

pub(super) const FAMILY: Family = Family {
    hugging_face: &[
        HfSpelling { model_type: "mistral", adapt: mistral, ..HfSpelling::LLAMA },
        HfSpelling {
            model_type: "mixtral",
            norm_eps: 1e-5,
            rope_theta: 1e6,
            own_names: &[
                ("block_sparse_moe.gate", &[Role::FfnRouter]),
                ("block_sparse_moe.experts.*.w1", &[Role::FfnGateExperts]),
                ("block_sparse_moe.experts.*.w3", &[Role::FfnUpExperts]),
                ("block_sparse_moe.experts.*.w2", &[Role::FfnDownExperts]),
            ],
            adapt: mixtral,
            ..HfSpelling::LLAMA
        },
        HfSpelling { model_type: "ministral", adapt: ministral, ..HfSpelling::LLAMA },
    ],
    gguf: &[],
};

/// A window on every layer.
fn mistral(c: &Settings, d: &mut Description) -> Result<(), Error> {
    d.config.windows.fill(sliding_window(c, 4096)?);
    Ok(())
}

/// A mixture of experts on every layer.
fn mixtral(c: &Settings, d: &mut Description) -> Result<(), Error> {
    d.config.windows.fill(sliding_window(c, 0)?);
    d.config.experts = Some(experts(c, d, "num_local_experts", [8, 2])?);
    Ok(())
}

/// Windows on the layers listed in `layer_types`, or on all layers if it is absent.
fn ministral(c: &Settings, d: &mut Description) -> Result<(), Error> {
    let window = sliding_window(c, 4096)?;
    d.config.windows = layer_windows(c, window, d.config.windows.len(), |_| true)?;
    Ok(())
}
