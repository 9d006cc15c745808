//! GLM-4.5 and 4.6: partial RoPE, and experts that sigmoids choose, beside a shared one.

use nanoinfer_format::{QkNorm, Role, SharedExpert};

use super::nemotron_h::scale_experts;
use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::{Biases, DRAFT_LAYERS, Description};
use crate::gguf::Keys;
use crate::hf::{Settings, grouped_experts, rope_settings};
use crate::names::{DEEPSEEK_EXPERTS, Entry};

pub(super) const FAMILY: Family = Family {
    hugging_face: &[HfSpelling {
        model_type: "glm4_moe",
        norm_eps: 1e-5,
        own_names: DEEPSEEK_EXPERTS,
        adapt: hugging_face,
        ..HfSpelling::LLAMA
    }],
    gguf: &[GgufSpelling {
        architecture: "glm4moe",
        own_names: GGUF_NAMES,
        adapt: gguf,
        ..GgufSpelling::NEOX
    }],
};

const GGUF_NAMES: &[Entry] = &[("post_attention_norm", &[Role::FfnNorm])];

fn hugging_face(c: &Settings, d: &mut Description) -> Result<(), Error> {
    d.biases = Biases { output: Some(false), ..d.biases };
    if c.bool("use_qk_norm")? == Some(true) {
        d.config.qk_norm = QkNorm::Head;
    }
    let stated = |c: &Settings| c.has("partial_rotary_factor");
    if !stated(c) && !rope_settings(c, None)?.as_ref().is_some_and(stated) {
        d.config.rotary_dim = d.config.head_dim / 2;
    }
    let mut e = grouped_experts(c, d, [128, 8, 1, 1])?;
    e.d_ff = c.u32("moe_intermediate_size")?.unwrap_or(1408);
    e.shared = SharedExpert::of(c.u32("n_shared_experts")?.unwrap_or(1), e.d_ff);
    let dense = c.u32("first_k_dense_replace")?.unwrap_or(1) as usize;
    e.layers.iter_mut().take(dense).for_each(|sparse| *sparse = false);
    scale_experts(d, c.positive("routed_scaling_factor")?);
    d.config.experts = Some(e).filter(|e| e.layers.contains(&true));
    if c.u32("num_nextn_predict_layers")?.unwrap_or(0) > 0 {
        d.left_out.push(DRAFT_LAYERS);
    }
    Ok(())
}

fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    if keys.has_tensor("blk.0.attn_q_norm.weight") {
        d.config.qk_norm = QkNorm::Head;
    }
    d.config.experts = keys.grouped_experts(d.config.n_layers)?;
    let Some(e) = &mut d.config.experts else { return Ok(()) };
    e.shared = SharedExpert::of(keys.u32("expert_shared_count")?.unwrap_or(1), e.d_ff);
    scale_experts(d, keys.positive("expert_weights_scale")?);
    Ok(())
}
