//! OLMo 2 and 3, OLMo hybrid and OLMoE: one norm over all queries of a token, and one over all its keys. In OLMo hybrid,
//! most layers follow the gated delta rule.

use nanoinfer_format::{NormPlace, QkNorm, Recurrent, RecurrentKind, Role, RouterSoftmax};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::Description;
use crate::gguf::Keys;
use crate::hf::{
    Settings, experts, layer_windows, recurrent_layers, rope, rope_settings, router_softmax,
    sliding_window,
};
use crate::names::{Entry, HF_EXPERTS, HF_POST_NORMS};
use crate::rope::{RopeSpec, Scaling};

pub(super) const FAMILY: Family = Family {
    hugging_face: &[
        HfSpelling {
            model_type: "olmoe",
            norm_eps: 1e-5,
            own_names: HF_EXPERTS,
            adapt: olmoe,
            ..HfSpelling::LLAMA
        },
        HfSpelling {
            model_type: "olmo2",
            norm_eps: 1e-5,
            own_names: HF_POST_NORMS,
            adapt: |_, d| {
                post_norms(d);
                Ok(())
            },
            ..HfSpelling::LLAMA
        },
        HfSpelling {
            model_type: "olmo3",
            norm_eps: 1e-5,
            own_names: HF_POST_NORMS,
            adapt: olmo3,
            ..HfSpelling::LLAMA
        },
        HfSpelling {
            model_type: "olmo_hybrid",
            own_names: HYBRID_NAMES,
            adapt: hybrid,
            ..HfSpelling::LLAMA
        },
    ],
    // llama.cpp has no OLMo hybrid.
    gguf: &[
        GgufSpelling { architecture: "olmoe", adapt: gguf_olmoe, ..GgufSpelling::NEOX },
        GgufSpelling { architecture: "olmo2", adapt: gguf_olmo2, ..GgufSpelling::NEOX },
    ],
};

const HYBRID_NAMES: &[Entry] = &[
    // In a recurrent layer, the second norm; published models have other names for both.
    ("post_attention_layernorm", &[Role::AttnPostNorm]),
    ("post_feedforward_layernorm", &[Role::FfnPostNorm]),
    ("attention_layer_norm", &[Role::AttnNorm]),
    ("input_layernorm", &[Role::AttnNorm]),
    ("feedforward_layer_norm", &[Role::FfnNorm]),
    ("linear_attn.{q,k,v}_proj", &[Role::SsmQkv]),
    ("linear_attn.g_proj", &[Role::SsmGate]),
    ("linear_attn.b_proj", &[Role::SsmBeta]),
    ("linear_attn.a_proj", &[Role::SsmAlpha]),
    ("linear_attn.{q,k,v}_conv1d", &[Role::SsmConv]),
    ("linear_attn.conv1d", &[Role::SsmConv]),
    ("linear_attn.A_log", &[Role::SsmA]),
    ("linear_attn.dt_bias", &[Role::SsmDtBias]),
    ("linear_attn.o_norm", &[Role::SsmNorm]),
    ("linear_attn.o_proj", &[Role::SsmOut]),
];

/// OLMo hybrid: OLMo 2 with recurrent layers, whose norms are before their parts.
fn hybrid(c: &Settings, d: &mut Description) -> Result<(), Error> {
    post_norms(d);
    if let Some(rope) = c.object("rope_parameters")?
        && rope.f64("rope_theta")?.is_none()
    {
        d.config.layer_ropes.fill(0);
    }
    let (n, heads) = (d.config.windows.len(), d.config.n_heads);
    let layers = recurrent_layers(c, &["linear_attention"])?;
    let key_heads = c.u32("linear_num_key_heads")?.unwrap_or(heads);
    let key_dim = match c.u32("linear_key_head_dim")? {
        Some(stated) => stated,
        None => (0.75 * f64::from(d.config.d_model) / f64::from(key_heads.max(1))) as u32,
    };
    d.config.recurrent = Some(Recurrent {
        kernel: c.u32("linear_conv_kernel_dim")?.unwrap_or(4),
        key_heads,
        key_dim,
        value_heads: c.u32("linear_num_value_heads")?.unwrap_or(heads),
        value_dim: c.u32("linear_value_head_dim")?.unwrap_or(key_dim.saturating_mul(2)),
        layers: layers.unwrap_or_else(|| (0..n).map(|layer| layer % 4 != 3).collect()),
        norm_place: Some(NormPlace::Pre),
        norm_eps: Some(1e-5),
        // Up to 2, what a key had is replaced by its negative.
        write_scale: if c.bool("linear_allow_neg_eigval")?.unwrap_or(true) { 2.0 } else { 1.0 },
        ..Recurrent::of(RecurrentKind::Delta)
    });
    Ok(())
}

/// A mixture of experts on every layer.
fn olmoe(c: &Settings, d: &mut Description) -> Result<(), Error> {
    if let Some(clip) = c.f64("clip_qkv")? {
        let next = "only models without it are";
        return Err(c.unsupported(format!("clip_qkv {clip}"), next));
    }
    d.config.qk_norm = QkNorm::Full;
    let mut experts = experts(c, d, "num_experts", [64, 8])?;
    experts.router_softmax = router_softmax(c)?;
    d.config.experts = Some(experts);
    Ok(())
}

fn gguf_olmoe(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    d.config.experts = keys.experts(d.config.n_layers, RouterSoftmax::All)?;
    d.config.qk_norm = QkNorm::Full;
    Ok(())
}

/// OLMo 2: norms after attention and feed-forward only.
fn post_norms(d: &mut Description) {
    d.config.norm_place = NormPlace::Post;
    d.config.qk_norm = QkNorm::Full;
}

/// OLMo 3: windows on three of four layers, which have a RoPE of their own, usually without scaling.
fn olmo3(c: &Settings, d: &mut Description) -> Result<(), Error> {
    post_norms(d);
    let (window, n) = (sliding_window(c, 4096)?, d.config.windows.len());
    d.config.windows = layer_windows(c, window, n, |i| !(i + 1).is_multiple_of(4))?;
    let full = rope_settings(c, Some("full_attention"))?;
    let full = rope(c, full.as_ref(), 5e5)?;
    let by_type = c.object("rope_parameters")?;
    let own = by_type.map(|r| r.object("sliding_attention")).transpose()?.flatten();
    let sliding = match own {
        Some(own) => rope(c, Some(&own), 5e5)?,
        None => RopeSpec { theta: full.theta, scaling: Scaling::None },
    };
    d.config.rope_theta = full.theta;
    d.ropes = vec![full];
    rotate_windows(d, sliding);
    Ok(())
}

/// OLMo 2, or OLMo 3 if there is a window.
fn gguf_olmo2(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    post_norms(d);
    d.config.windows = keys.windows(4)?;
    let theta = keys.positive("rope.freq_base_swa")?.unwrap_or(d.ropes[0].theta);
    rotate_windows(d, RopeSpec { theta, scaling: Scaling::None });
    Ok(())
}

/// Gives layers with a window this RoPE, if it is another one than that of the others.
fn rotate_windows(d: &mut Description, sliding: RopeSpec) {
    let windows = &d.config.windows;
    if d.ropes[0] != sliding && windows.iter().any(|&window| window > 0) {
        d.ropes.push(sliding);
        d.config.layer_ropes = windows.iter().map(|&w| if w == 0 { 1 } else { 2 }).collect();
    }
}
