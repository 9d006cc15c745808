//! Apertus: a feed-forward part without a gate, xIELU with learned parameters in each layer, and norms of queries and
//! keys.

use nanoinfer_format::{Activation, QkNorm, Role};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::Description;
use crate::gguf::Keys;
use crate::hf::Settings;
use crate::xielu::{self, PARAMETERS};

pub(super) const FAMILY: Family = Family {
    hugging_face: &[HfSpelling {
        model_type: "apertus",
        norm_eps: 1e-5,
        rope_theta: 12e6,
        activation: Activation::Xielu,
        own_names: &[
            ("attention_layernorm", &[Role::AttnNorm]),
            ("feedforward_layernorm", &[Role::FfnNorm]),
        ],
        adapt: hugging_face,
        ..HfSpelling::LLAMA
    }],
    gguf: &[GgufSpelling { architecture: "apertus", adapt: gguf, ..GgufSpelling::NEOX }],
};

/// The parameters of the activation are tensors, which are read later.
fn hugging_face(_: &Settings, d: &mut Description) -> Result<(), Error> {
    d.config.gated = false;
    d.config.qk_norm = QkNorm::Head;
    if d.config.activation == Activation::Xielu {
        d.config.xielu = vec![xielu::INITIAL; d.config.windows.len()];
    }
    Ok(())
}

fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.gated = false;
    d.config.qk_norm = QkNorm::Head;
    d.config.activation = Activation::Xielu;
    let mut layers = vec![[0.0; 4]; d.config.windows.len()];
    for (i, name) in PARAMETERS.iter().enumerate() {
        // Without the architecture's prefix.
        let (key, n) = (format!("xielu.{name}"), layers.len());
        let missing = || keys.metadata.error(&key, "is missing");
        let values = keys.metadata.floats(&key)?.ok_or_else(missing)?;
        if values.len() != n {
            let what = format!("has {} values, expected one for each of {n} layers", values.len());
            return Err(keys.metadata.error(&key, what));
        }
        layers.iter_mut().zip(values.iter()).for_each(|(layer, &value)| layer[i] = value.into());
    }
    d.config.xielu = layers.into_iter().map(xielu::of).collect();
    Ok(())
}
