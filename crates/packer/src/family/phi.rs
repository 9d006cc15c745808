//! Phi-3 to Phi-4-mini: fused matrices, LongRoPE, partial rotation.

use nanoinfer_format::Role;

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::Description;
use crate::hf::{Settings, longrope, rope_settings, sliding_window};

pub(super) const FAMILY: Family = Family {
    hugging_face: &[HfSpelling {
        model_type: "phi3",
        norm_eps: 1e-5,
        own_names: &[
            ("self_attn.qkv_proj", &[Role::AttnQ, Role::AttnK, Role::AttnV]),
            ("mlp.gate_up_proj", &[Role::FfnGate, Role::FfnUp]),
        ],
        adapt: phi3,
        ..HfSpelling::LLAMA
    }],
    gguf: &[GgufSpelling {
        architecture: "phi3",
        own_names: &[
            ("attn_qkv", &[Role::AttnQ, Role::AttnK, Role::AttnV]),
            ("ffn_up", &[Role::FfnGate, Role::FfnUp]),
        ],
        adapt: |keys, d| {
            d.config.windows.fill(keys.window()?);
            Ok(())
        },
        ..GgufSpelling::NEOX
    }],
};

/// `su` and `yarn` are Phi-3's early names for `longrope`; the shared reader already handles `su`.
fn phi3(c: &Settings, d: &mut Description) -> Result<(), Error> {
    if let Some(r) = rope_settings(c, None)?
        && r.str("type")? == Some("yarn")
    {
        d.ropes[0].scaling = longrope(c, &r)?;
    }
    d.config.windows.fill(sliding_window(c, 0)?);
    Ok(())
}
