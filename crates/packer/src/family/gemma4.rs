//! Gemma 4 (text part): heads of different sizes with and without a window, layers that read the cache of
//! others, embeddings of tokens that enter every layer, and experts beside a feed-forward network.

use nanoinfer_format::{
    Activation, Experts, LayerAttention, NormPlace, QkNorm, Role, RouterSoftmax, SharedExpert,
};

use super::spelling::{Family, GgufSpelling, HfSpelling};
use crate::Error;
use crate::description::{Change, Description};
use crate::gguf::Keys;
use crate::hf::{Settings, layer_windows, rope, rope_settings, sliding_window};
use crate::rope::{RopeSpec, Scaling};

pub(super) const FAMILY: Family = Family {
    hugging_face: &[HfSpelling {
        model_type: "gemma4_text",
        wrapper: Some("gemma4"),
        head_dim: Some(256),
        activation: Activation::Gelu,
        tied_embeddings: true,
        own_names: &[
            ("post_attention_layernorm", &[Role::AttnPostNorm]),
            ("pre_feedforward_layernorm", &[Role::FfnNorm]),
            ("post_feedforward_layernorm", &[Role::FfnPostNorm]),
            ("per_layer_input_gate", &[Role::LayerGate]),
            ("per_layer_projection", &[Role::LayerOut]),
            ("post_per_layer_input_norm", &[Role::LayerPostNorm]),
            ("layer_scalar", &[Role::LayerScale]),
            ("router.proj", &[Role::FfnRouter]),
            ("router.scale", &[Role::FfnRouterNorm]),
            ("router.per_expert_scale", &[Role::FfnExpertsScale]),
            ("experts.gate_up_proj", &[Role::FfnGateExperts, Role::FfnUpExperts]),
            ("experts.down_proj", &[Role::FfnDownExperts]),
            ("pre_feedforward_layernorm_2", &[Role::FfnExpertsNorm]),
            ("post_feedforward_layernorm_1", &[Role::FfnSharedPostNorm]),
            ("post_feedforward_layernorm_2", &[Role::FfnExpertsPostNorm]),
            ("model.embed_tokens_per_layer", &[Role::LayerEmbd]),
            ("model.per_layer_model_projection", &[Role::LayerProj]),
            ("model.per_layer_projection_norm", &[Role::LayerProjNorm]),
        ],
        adapt: hugging_face,
        ..HfSpelling::LLAMA
    }],
    gguf: &[GgufSpelling {
        architecture: "gemma4",
        uneven: true,
        own_names: &[
            ("inp_gate", &[Role::LayerGate]),
            ("proj", &[Role::LayerOut]),
            ("post_norm", &[Role::LayerPostNorm]),
            ("layer_output_scale", &[Role::LayerScale]),
            ("ffn_gate_inp.scale", &[Role::FfnRouterNorm]),
            (EXPERTS_SCALE, &[Role::FfnExpertsScale]),
            ("ffn_gate_up_exps", &[Role::FfnGateExperts, Role::FfnUpExperts]),
            ("pre_ffw_norm_2", &[Role::FfnExpertsNorm]),
            ("post_ffw_norm_1", &[Role::FfnSharedPostNorm]),
            ("post_ffw_norm_2", &[Role::FfnExpertsPostNorm]),
            ("per_layer_token_embd", &[Role::LayerEmbd]),
            ("per_layer_model_proj", &[Role::LayerProj]),
            ("per_layer_proj_norm", &[Role::LayerProjNorm]),
        ],
        adapt: gguf,
        ..GgufSpelling::NEOX
    }],
};

/// Factors of the weights of experts in GGUF files.
const EXPERTS_SCALE: &str = "ffn_down_exps.scale";

/// What both spellings state about attention.
struct Attention {
    /// For each layer, whether it has a window.
    slides: Vec<bool>,
    window: u32,
    /// Widths of heads: with a window, and without.
    widths: [u32; 2],
    /// Numbers of KV heads, likewise.
    kv_heads: [u32; 2],
    /// Whether values of layers without a window are their keys.
    keys_as_values: bool,
    /// Number of layers at the end that read the cache of others.
    sharing: u32,
}

/// Settings common to both spellings. `embedding` is the width of the embeddings that enter a layer.
fn describe(d: &mut Description, a: &Attention, embedding: u32) -> Result<(), String> {
    let c = &mut d.config;
    c.norm_place = NormPlace::Both;
    c.activation = Activation::Gelu;
    c.qk_norm = QkNorm::Head;
    c.value_norm = true;
    c.attention_scale = 1.0;
    c.embedding_scale = f64::from(c.d_model).sqrt();
    c.layer_scale = true;
    c.head_dim = a.widths[0].max(a.widths[1]);
    c.n_kv_heads = a.kv_heads[0].max(a.kv_heads[1]);
    c.rotary_dim = c.head_dim;
    c.windows = a.slides.iter().map(|&slides| if slides { a.window } else { 0 }).collect();
    c.layer_ropes = a.slides.iter().map(|&slides| if slides { 2 } else { 1 }).collect();
    let own = a.slides.len().saturating_sub(a.sharing as usize);
    let layer = |(layer, &slides): (usize, &bool)| {
        let kind = usize::from(!slides);
        let shares = layer >= own;
        // That of the last layer of its kind that has one.
        let cache_of = a.slides[..own].iter().rposition(|&other| other == slides);
        if shares && cache_of.is_none() {
            return Err(format!("layer {layer} shares the cache of a layer that does not exist"));
        }
        Ok(LayerAttention {
            n_kv_heads: a.kv_heads[kind],
            head_dim: a.widths[kind],
            keys_as_values: a.keys_as_values && !slides && !shares,
            cache_of: cache_of.filter(|_| shares).map(|layer| layer as u32),
        })
    };
    c.layer_attention = a.slides.iter().enumerate().map(layer).collect::<Result<_, _>>()?;
    c.layer_embedding = embedding;
    let (width, d_model) = (embedding as f32, c.d_model as f32);
    let half = 0.5f32.sqrt();
    d.changes.extend([
        Change { roles: &[Role::FfnRouterNorm], factor: 1.0 / d_model.sqrt(), offset: 0.0 },
        Change { roles: &[Role::LayerProj], factor: 1.0 / d_model.sqrt(), offset: 0.0 },
        Change { roles: &[Role::LayerProjNorm], factor: half, offset: 0.0 },
        Change { roles: &[Role::LayerEmbd], factor: half * width.sqrt(), offset: 0.0 },
    ]);
    Ok(())
}

/// Experts beside the feed-forward network of every layer.
fn beside(d: &Description, experts: Experts) -> Experts {
    let shared = SharedExpert::of(1, d.config.d_ff);
    Experts { shared, separate_norms: true, ..experts }
}

fn hugging_face(c: &Settings, d: &mut Description) -> Result<(), Error> {
    if c.str("use_bidirectional_attention")? == Some("all") {
        let next = "only models that generate text token by token are";
        return Err(c.unsupported("bidirectional attention", next));
    }
    let n = d.config.windows.len();
    if c.bool("enable_moe_block")? == Some(true) {
        let size = |key: &str| c.need(key, c.u32(key)?);
        let (all, chosen) = (size("num_experts")?, size("top_k_experts")?);
        let experts = Experts::new(all, chosen, size("moe_intermediate_size")?, n);
        d.config.experts = Some(beside(d, Experts { scaled: true, ..experts }));
    }
    let windows = layer_windows(c, 1, n, |layer| !(layer + 1).is_multiple_of(6))?;
    let mut slides: Vec<bool> = windows.iter().map(|&window| window > 0).collect();
    if let Some(last) = slides.last_mut() {
        *last = false; // as in transformers
    }
    // Since transformers 5.10, sizes that differ are stated for each layer.
    let global = slides.iter().position(|slides| !slides).unwrap_or(0).to_string();
    let by_layer = c.object("per_layer_config")?;
    let by_layer = by_layer.map(|all| all.object(&global)).transpose()?.flatten();
    let of_global = |key: &str, own: &str| match by_layer.as_ref().filter(|s| s.has(own)) {
        Some(stated) => stated.u32(own),
        None => c.u32(key),
    };
    let keys_as_values = c.bool("attention_k_eq_v")? == Some(true);
    let (width, kv_heads) = (d.config.head_dim, d.config.n_kv_heads);
    let wide = of_global("global_head_dim", "head_dim")?;
    let few = of_global("num_global_key_value_heads", "num_key_value_heads")?;
    let few = few.filter(|_| keys_as_values);
    let attention = Attention {
        slides,
        window: sliding_window(c, 512)?,
        widths: [width, wide.unwrap_or(if by_layer.is_some() { width } else { 512 })],
        kv_heads: [kv_heads, few.unwrap_or(kv_heads)],
        keys_as_values,
        sharing: c.u32("num_kv_shared_layers")?.unwrap_or(0),
    };
    let embedding = match c.has("hidden_size_per_layer_input") {
        true => c.u32("hidden_size_per_layer_input")?.unwrap_or(0),
        false => 256,
    };
    let rows = c.u32("vocab_size_per_layer_input")?.unwrap_or(d.config.vocab_size);
    if embedding > 0 && rows != d.config.vocab_size {
        let what = format!("is {rows}, expected the vocabulary size {}", d.config.vocab_size);
        return Err(c.error("vocab_size_per_layer_input", what));
    }
    describe(d, &attention, embedding).map_err(|what| c.error("num_kv_shared_layers", what))?;
    if c.bool("use_double_wide_mlp")? == Some(true) {
        let d_ff = d.config.d_ff;
        let own = n.saturating_sub(attention.sharing as usize);
        let of = |layer| if layer < own { d_ff } else { d_ff.saturating_mul(2) };
        if (0..n).any(|layer| of(layer) != d_ff) {
            if d.config.experts.is_some() {
                let next = "supported: one of the two";
                return Err(c.unsupported("use_double_wide_mlp with experts", next));
            }
            d.config.layer_d_ff = (0..n).map(of).collect();
            d.config.d_ff = d_ff.saturating_mul(2);
        }
    }
    d.config.logit_softcap = c.positive("final_logit_softcapping")?.unwrap_or(0.0);
    let local = rope_settings(c, Some("sliding_attention"))?;
    let local = rope(c, local.as_ref(), 1e4)?;
    d.ropes = vec![global_rope(c, attention.widths[1])?, narrow(local, attention.widths[0])];
    d.config.rope_theta = d.ropes[0].theta;
    Ok(())
}

/// The RoPE of layers without a window.
fn global_rope(c: &Settings, head_dim: u32) -> Result<RopeSpec, Error> {
    let settings = rope_settings(c, Some("full_attention"))?;
    let kind = settings.as_ref().map(|s| s.str("rope_type")).transpose()?.flatten();
    if let Some(s) = settings.as_ref().filter(|_| kind != Some("proportional")) {
        return rope(c, Some(s), 1e6);
    }
    let number = |key: &str| settings.as_ref().map(|s| s.positive(key)).transpose();
    let theta = number("rope_theta")?.flatten().unwrap_or(1e6);
    let part = number("partial_rotary_factor")?.flatten();
    let part = part.unwrap_or(if settings.is_some() { 1.0 } else { 0.25 });
    let pairs = (part * f64::from(head_dim) / 2.0) as u32;
    if part > 1.0 || theta <= 1.0 {
        let what = "is out of range, expected a factor up to 1 and a base above 1";
        return Err(c.error("rope_parameters", what));
    }
    if number("factor")?.flatten().is_some_and(|factor| factor != 1.0) {
        return Err(c.unsupported("proportional RoPE with a factor", "supported: none"));
    }
    Ok(RopeSpec { theta, scaling: Scaling::Proportional { pairs } })
}

/// The same RoPE of heads of `dim` values, beside wider ones.
fn narrow(rope: RopeSpec, dim: u32) -> RopeSpec {
    match rope.scaling {
        Scaling::None => RopeSpec { scaling: Scaling::Narrow { dim }, ..rope },
        _ => rope,
    }
}

fn gguf(keys: &Keys<'_>, d: &mut Description) -> Result<(), Error> {
    let n = d.config.windows.len();
    if let Some(experts) = keys.experts(d.config.n_layers, RouterSoftmax::Chosen)? {
        // NVFP4 weights contain it.
        let scaled = keys.has_tensor(&format!("blk.0.{EXPERTS_SCALE}"));
        d.config.experts = Some(beside(d, Experts { scaled, ..experts }));
    }
    let key = "attention.sliding_window_pattern";
    let slides = keys.need(key, keys.ints(key)?)?;
    let slides: Vec<bool> = slides.iter().map(|&slides| slides != 0).collect();
    if slides.len() != n {
        let what = format!("has {} values, expected one for each of {n} layers", slides.len());
        return Err(keys.error(key, &what));
    }
    let listed = keys.sizes("attention.head_count_kv")?;
    let kv_heads = [true, false].map(|kind| {
        let at = slides.iter().position(|&slides| slides == kind);
        let stated = listed.as_ref().zip(at).map(|(list, at)| list[at]);
        stated.unwrap_or(d.config.n_kv_heads)
    });
    let wide = d.config.head_dim;
    let width = keys.u32("attention.key_length_swa")?.unwrap_or(wide);
    let attention = Attention {
        window: keys.window()?,
        widths: [width, wide],
        kv_heads,
        keys_as_values: false, // as their tensors show
        sharing: keys.u32("attention.shared_kv_layers")?.unwrap_or(0),
        slides,
    };
    let embedding = keys.u32("embedding_length_per_layer_input")?.unwrap_or(0);
    let widths = keys.sizes("feed_forward_length")?;
    d.config.layer_d_ff = widths.filter(|all| all.iter().any(|n| *n != all[0])).unwrap_or_default();
    if d.config.experts.is_some() && !d.config.layer_d_ff.is_empty() {
        let what = "differs between layers, which is not supported with experts";
        return Err(keys.error("feed_forward_length", what));
    }
    describe(d, &attention, embedding)
        .map_err(|what| keys.error("attention.shared_kv_layers", &what))?;
    d.config.logit_softcap = keys.positive("final_logit_softcapping")?.unwrap_or(0.0);
    let theta = keys.positive("rope.freq_base_swa")?.unwrap_or(1e4);
    if theta <= 1.0 {
        let what = format!("is {theta}, expected a number above 1");
        return Err(keys.error("rope.freq_base_swa", &what));
    }
    if keys.u32("rope.dimension_count_swa")?.is_some_and(|dim| dim != width) {
        return Err(keys.unsupported("partial RoPE in a window".into(), "supported: whole heads"));
    }
    let local = RopeSpec { theta, scaling: Scaling::Narrow { dim: width } };
    d.ropes.push(local);
    Ok(())
}
