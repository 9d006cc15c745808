//! StarCoder2: LayerNorm, a feed-forward part without a gate, biases everywhere.

use nanoinfer_format::{Activation, Norm, Role};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::{Biases, Description};
use crate::gguf::Keys;
use crate::hf::{Settings, sliding_window};

pub(super) const FAMILY: Family = Family {
    hugging_face: &[HfSpelling {
        model_type: "starcoder2",
        activation: Activation::Gelu,
        tied_embeddings: true,
        own_names: &[("mlp.c_fc", &[Role::FfnUp]), ("mlp.c_proj", &[Role::FfnDown])],
        adapt: hugging_face,
        ..HfSpelling::LLAMA
    }],
    gguf: &[GgufSpelling { architecture: "starcoder2", adapt: gguf, ..GgufSpelling::NEOX }],
};

fn hugging_face(c: &Settings, d: &mut Description) -> Result<(), Error> {
    d.config.norm = Norm::Layer;
    d.config.norm_eps = c.f64("norm_epsilon")?.unwrap_or(1e-5);
    d.config.gated = false;
    let bias = Some(c.bool("use_bias")?.unwrap_or(true));
    d.biases = Biases { qkv: bias, output: bias, mlp: bias, norm: Some(true), ..d.biases };
    d.config.windows.fill(sliding_window(c, 0)?);
    Ok(())
}

fn gguf(_: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.norm = Norm::Layer;
    d.config.activation = Activation::Gelu;
    d.config.gated = false;
    d.biases = Biases { norm: Some(true), ..Biases::default() };
    Ok(())
}
