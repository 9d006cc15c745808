//! StableLM: LayerNorm, RoPE on a quarter of each head, and in its largest model parallel blocks, with a LayerNorm
//! for each head of queries and keys.

use nanoinfer_format::{Norm, QkNorm, Role};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::Description;
use crate::gguf::Keys;
use crate::hf::Settings;

pub(super) const FAMILY: Family = Family {
    hugging_face: &[HfSpelling {
        model_type: "stablelm",
        norm_eps: 1e-5,
        norm_eps_key: "layer_norm_eps",
        rotary_factor: 0.25,
        own_names: &[
            ("self_attn.q_layernorm.norms.*", &[Role::AttnQNorm]),
            ("self_attn.k_layernorm.norms.*", &[Role::AttnKNorm]),
        ],
        adapt: hugging_face,
        ..HfSpelling::LLAMA
    }],
    gguf: &[GgufSpelling { architecture: "stablelm", adapt: gguf, ..GgufSpelling::NEOX }],
};

fn hugging_face(c: &Settings, d: &mut Description) -> Result<(), Error> {
    let flag = |key: &str| Ok::<_, Error>(c.bool(key)?.unwrap_or(false));
    d.config.norm = Norm::Layer;
    d.config.parallel = flag("use_parallel_residual")?;
    if flag("qk_layernorm")? {
        d.config.qk_norm = QkNorm::Layer;
    }
    d.biases.norm = Some(true);
    d.biases.qkv = Some(flag("use_qkv_bias")?);
    d.biases.output = Some(false);
    d.biases.mlp = Some(false);
    Ok(())
}

/// llama.cpp finds out from the tensors which norms there are.
fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.norm = Norm::Layer;
    d.config.parallel = !keys.has_tensor("blk.0.ffn_norm.weight");
    if keys.has_tensor("blk.0.attn_q_norm.weight") {
        d.config.qk_norm = QkNorm::Layer;
    }
    d.biases.norm = Some(true);
    Ok(())
}
