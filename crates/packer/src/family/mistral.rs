//! Mistral, Mixtral, Ministral and Ministral 3. In GGUF the first two are called `llama`.

use nanoinfer_format::{Role, Temperature};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::Description;
use crate::gguf::Keys;
use crate::hf::{Settings, experts, layer_windows, rope_settings, sliding_window};
use crate::rope::{Scaling, yarn_magnitude};

pub(super) const FAMILY: Family = Family {
    hugging_face: &[
        HfSpelling {
            model_type: "mistral",
            wrapper: Some("mistral3"),
            adapt: mistral,
            ..HfSpelling::LLAMA
        },
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
        HfSpelling {
            model_type: "ministral3",
            norm_eps: 1e-5,
            rope_theta: 1e6,
            head_dim: Some(128),
            adapt: ministral3,
            ..HfSpelling::LLAMA
        },
    ],
    gguf: &[GgufSpelling { architecture: "mistral3", adapt: gguf, ..GgufSpelling::NORM }],
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

/// Queries that grow with their position.
fn ministral3(c: &Settings, d: &mut Description) -> Result<(), Error> {
    d.config.windows.fill(sliding_window(c, 0)?);
    let rope = rope_settings(c, None)?;
    if let Some(scale) = rope.map(|r| r.positive("llama_4_scaling_beta")).transpose()?.flatten() {
        sharpen(d, scale);
    }
    Ok(())
}

/// One factor for each length of the original context.
fn sharpen(d: &mut Description, scale: f64) {
    let layers = vec![true; d.config.windows.len()];
    if let Scaling::Yarn(yarn) = &d.ropes[0].scaling {
        let step = yarn.original_context as u32;
        d.config.temperature = Some(Temperature { scale, step, offset: 0, layers });
    }
}

/// Ministral 3, and Mistral's models for images since Mistral Small 3.1.
fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.windows.fill(keys.window()?);
    // `mscale_all_dim`; the other weight is 1.
    if let (Some(all), Scaling::Yarn(yarn)) =
        (keys.positive("rope.scaling.yarn_log_multiplier")?, &mut d.ropes[0].scaling)
    {
        yarn.magnitude /= yarn_magnitude(yarn.factor, all);
    }
    if let Some(scale) = keys.positive("attention.temperature_scale")? {
        sharpen(d, scale);
    }
    Ok(())
}
