//! Qwen 3.5: three of four layers follow the gated delta rule; attention has gates. Of models that also see
//! images, the text part.

use nanoinfer_format::{QkNorm, Recurrent, RecurrentKind, Role};

use super::spelling::{Family, HfSpelling};
use crate::Error;
use crate::description::{Change, Description};
use crate::hf::{Settings, recurrent_layers};
use crate::names::Entry;

const TEXT: HfSpelling = HfSpelling {
    model_type: "qwen3_5_text",
    wrapper: Some("qwen3_5"),
    head_dim: Some(256),
    own_names: HF_NAMES,
    adapt: hugging_face,
    ..HfSpelling::LLAMA
};

pub(super) const FAMILY: Family = Family { hugging_face: &[TEXT], gguf: &[] };

const HF_NAMES: &[Entry] = &[
    ("self_attn.q_proj", &[Role::AttnQ, Role::AttnGate]),
    ("linear_attn.in_proj_qkv", &[Role::SsmQkv]),
    ("linear_attn.in_proj_z", &[Role::SsmGate]),
    ("linear_attn.in_proj_b", &[Role::SsmBeta]),
    ("linear_attn.in_proj_a", &[Role::SsmAlpha]),
    ("linear_attn.conv1d", &[Role::SsmConv]),
    ("linear_attn.A_log", &[Role::SsmA]),
    ("linear_attn.dt_bias", &[Role::SsmDtBias]),
    ("linear_attn.norm", &[Role::SsmNorm]),
    ("linear_attn.out_proj", &[Role::SsmOut]),
];

/// The norms that multiply by 1 + w, which are all except those of recurrent layers.
const ONE_PLUS: &[Role] =
    &[Role::AttnNorm, Role::FfnNorm, Role::OutputNorm, Role::AttnQNorm, Role::AttnKNorm];

fn hugging_face(c: &Settings, d: &mut Description) -> Result<(), Error> {
    let n = d.config.n_layers as usize;
    if c.bool("attn_output_gate")? == Some(false) {
        let next = "supported: models whose attention output has gates";
        return Err(c.unsupported("attn_output_gate false", next));
    }
    d.config.qk_norm = QkNorm::Head;
    d.config.attention_gate = true;
    d.changes.push(Change { roles: ONE_PLUS, factor: 1.0, offset: 1.0 });
    let settings = c.object("rope_parameters")?;
    let stated = |c: &Settings| c.has("partial_rotary_factor");
    if !stated(c) && !settings.as_ref().is_some_and(stated) {
        d.config.rotary_dim = d.config.head_dim / 4;
    }
    let layers = match recurrent_layers(c, &["linear_attention"])? {
        Some(layers) => layers,
        None => {
            let interval = c.u32("full_attention_interval")?.unwrap_or(4).max(1) as usize;
            (0..n).map(|layer| !(layer + 1).is_multiple_of(interval)).collect()
        }
    };
    let size = |key: &str, default| Ok::<_, Error>(c.u32(key)?.unwrap_or(default));
    let recurrent = Recurrent {
        kind: RecurrentKind::Delta,
        kernel: size("linear_conv_kernel_dim", 4)?,
        key_heads: size("linear_num_key_heads", 16)?,
        key_dim: size("linear_key_head_dim", 128)?,
        value_heads: size("linear_num_value_heads", 32)?,
        value_dim: size("linear_value_head_dim", 128)?,
        layers,
        parallel: false,
        without_norm: false,
    };
    d.config.recurrent = recurrent.layers.contains(&true).then_some(recurrent);
    Ok(())
}
