//! gpt-oss: attention with sinks, windows on every other layer, and experts with biases and clamped activations.

use nanoinfer_format::{Activation, Role, RouterSoftmax};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::{Biases, Description};
use crate::gguf::Keys;
use crate::hf::{Settings, experts, layer_windows, sliding_window};
use crate::names::{Entry, Stacks};
use crate::rope::{Scaling, Yarn, yarn_magnitude};

pub(super) const FAMILY: Family = Family {
    hugging_face: &[HfSpelling {
        model_type: "gpt_oss",
        head_dim: Some(64),
        norm_eps: 1e-5,
        rope_theta: 150_000.0,
        own_names: HF_NAMES,
        adapt: hugging_face,
        ..HfSpelling::LLAMA
    }],
    gguf: &[GgufSpelling {
        architecture: "gpt-oss",
        own_names: GGUF_NAMES,
        adapt: gguf,
        ..GgufSpelling::NEOX
    }],
};

const HF_NAMES: &[Entry] = &[
    ("self_attn.sinks", &[Role::AttnSinks]),
    ("mlp.router", &[Role::FfnRouter]),
    ("mlp.experts.gate_up_proj", &[Role::FfnGateExperts, Role::FfnUpExperts]),
    ("mlp.experts.down_proj", &[Role::FfnDownExperts]),
];

const GGUF_NAMES: &[Entry] = &[("post_attention_norm", &[Role::FfnNorm])];

/// The context in which the models were trained, before YaRN.
const ORIGINAL_CONTEXT: f64 = 4096.0;

fn hugging_face(c: &Settings, d: &mut Description) -> Result<(), Error> {
    for (key, supported) in [("swiglu_alpha", 1.702), ("swiglu_limit", 7.0)] {
        if c.f64(key)?.is_some_and(|stated| stated != supported) {
            let next = format!("supported: {supported}");
            return Err(c.unsupported(format!("{key} other than {supported}"), &next));
        }
    }
    let attention = Some(c.bool("attention_bias")?.unwrap_or(true));
    d.biases = Biases { qkv: attention, output: attention, experts: Some(true), ..d.biases };
    if !c.has("rope_parameters") && !c.has("rope_scaling") {
        let magnitude = yarn_magnitude(32.0, 1.0);
        d.ropes[0].scaling = Scaling::Yarn(Yarn {
            factor: 32.0,
            original_context: ORIGINAL_CONTEXT,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: false,
            magnitude,
        });
    }
    let window = sliding_window(c, 128)?;
    d.config.windows = layer_windows(c, window, d.config.windows.len(), slides)?;
    // The published config also has the number of experts per token under an older name.
    d.config.experts = Some(experts(c, d, "num_local_experts", [128, 4])?);
    d.names = d.names.with_stacks(Stacks { transposed: true, alternating: true });
    common(d);
    Ok(())
}

/// Every other layer has a window, beginning with the first one.
fn slides(layer: usize) -> bool {
    layer.is_multiple_of(2)
}

fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    let window = keys.window()?;
    let of = |(layer, _)| if slides(layer) { window } else { 0 };
    d.config.windows = d.config.windows.iter().enumerate().map(of).collect();
    d.config.experts = keys.experts(d.config.n_layers, RouterSoftmax::Chosen)?;
    // Unlike llama.cpp, the authors do not round the bounds of YaRN to whole pairs.
    if let Scaling::Yarn(yarn) = &mut d.ropes[0].scaling {
        yarn.truncate = false;
    }
    common(d);
    Ok(())
}

fn common(d: &mut Description) {
    d.config.activation = Activation::Clamped;
    d.config.attention_sinks = true;
}
