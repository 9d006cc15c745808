//! Hunyuan (dense): queries and keys are normalized after RoPE, the base of which grows with a factor of its own.

use nanoinfer_format::{QkNorm, Role};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::Description;
use crate::hf::{Settings, rope_settings};
use crate::rope::Scaling;

pub(super) const FAMILY: Family = Family {
    hugging_face: &[HfSpelling {
        model_type: "hunyuan_v1_dense",
        norm_eps: 1e-5,
        own_names: &[
            ("self_attn.query_layernorm", &[Role::AttnQNorm]),
            ("self_attn.key_layernorm", &[Role::AttnKNorm]),
        ],
        adapt: hugging_face,
        ..HfSpelling::LLAMA
    }],
    gguf: &[GgufSpelling {
        architecture: "hunyuan-dense",
        adapt: |_, d| {
            late_norms(d);
            Ok(())
        },
        ..GgufSpelling::NEOX
    }],
};

/// With `alpha`, dynamic scaling is a larger base for every length.
fn hugging_face(c: &Settings, d: &mut Description) -> Result<(), Error> {
    late_norms(d);
    let alpha = rope_settings(c, None)?.map(|r| r.positive("alpha")).transpose()?.flatten();
    if let (Some(alpha), Scaling::Dynamic { .. }) = (alpha, &d.ropes[0].scaling) {
        let dim = f64::from(d.config.head_dim);
        let rope = &mut d.ropes[0];
        rope.theta *= libm::pow(alpha, dim / (dim - 2.0));
        rope.scaling = Scaling::None;
        d.config.rope_theta = rope.theta;
    }
    Ok(())
}

fn late_norms(d: &mut Description) {
    d.config.qk_norm = QkNorm::Head;
    d.config.qk_norm_late = true;
}
