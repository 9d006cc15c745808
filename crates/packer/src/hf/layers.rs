//! Settings of a `config.json` that several families share: windows and experts.

use nanoinfer_format::{ExpertGroups, Experts, RouterSoftmax, SharedExpert};

use super::settings::Settings;
use crate::Error;
use crate::description::Description;

/// `sliding_window`; `null` means no window.
pub(crate) fn sliding_window(c: &Settings, default: u32) -> Result<u32, Error> {
    if c.has("sliding_window") { Ok(c.u32("sliding_window")?.unwrap_or(0)) } else { Ok(default) }
}

/// The window of each layer, 0 for none: from `layer_types` if it is set, otherwise `window` on the
/// layers for which `slides` returns true.
pub(crate) fn layer_windows(
    c: &Settings,
    window: u32,
    n_layers: usize,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<u32>, Error> {
    let of = |slides: bool| if slides { window } else { 0 };
    let Some(types) = c.strings("layer_types")? else {
        return Ok((0..n_layers).map(|layer| of(slides(layer))).collect());
    };
    types
        .iter()
        .map(|kind| match *kind {
            "sliding_attention" => Ok(of(true)),
            "full_attention" => Ok(of(false)),
            other => {
                let next = "supported: full_attention, sliding_attention";
                Err(c.unsupported(format!("layer type {other:?}"), next))
            }
        })
        .collect()
}

/// Whether each layer is recurrent, from `layer_types`, where such layers have one of the names `recurrent`
/// and others are of full attention. `None` if it is not set.
pub(crate) fn recurrent_layers(
    c: &Settings,
    recurrent: &[&str],
) -> Result<Option<Vec<bool>>, Error> {
    let Some(types) = c.strings("layer_types")? else { return Ok(None) };
    let is_recurrent = |kind: &&str| match *kind {
        "full_attention" | "attention" => Ok(false),
        kind if recurrent.contains(&kind) => Ok(true),
        other => {
            let next = format!("supported: full_attention, {}", recurrent.join(", "));
            Err(c.unsupported(format!("layer type {other:?}"), &next))
        }
    };
    types.iter().map(is_recurrent).collect::<Result<_, _>>().map(Some)
}

/// Experts on every layer, each `intermediate_size` wide. `count` is the name of the setting with
/// their number; `default` contains the default numbers of experts and of experts per token.
pub(crate) fn experts(
    c: &Settings,
    d: &Description,
    count: &str,
    default: [u32; 2],
) -> Result<Experts, Error> {
    let n_experts = c.u32(count)?.unwrap_or(default[0]);
    let per_token = c.u32("num_experts_per_tok")?.unwrap_or(default[1]);
    Ok(Experts::new(n_experts, per_token, d.config.d_ff, d.config.windows.len()))
}

/// The experts of DeepSeek-V3 and its descendants, chosen by their sigmoids among those of the best of `n_group`
/// groups. The defaults are the numbers of experts, of experts per token, of groups and of chosen groups.
pub(crate) fn grouped_experts(
    c: &Settings,
    d: &Description,
    [n, per_token, groups, chosen]: [u32; 4],
) -> Result<Experts, Error> {
    let mut e = experts(c, d, "n_routed_experts", [n, per_token])?;
    (e.router_sigmoid, e.router_bias) = (true, true);
    if c.bool("norm_topk_prob")? == Some(false) {
        e.router_softmax = RouterSoftmax::All;
    }
    e.router_groups = expert_groups(c, [groups, chosen], 2)?;
    Ok(e)
}

/// `n_group` groups of experts, of which `topk_group` are chosen by their `best` scores; none if all of them are.
pub(crate) fn expert_groups(
    c: &Settings,
    default: [u32; 2],
    best: u32,
) -> Result<Option<ExpertGroups>, Error> {
    let n = c.u32("n_group")?.unwrap_or(default[0]);
    let chosen = c.u32("topk_group")?.unwrap_or(default[1]);
    Ok((n != chosen).then_some(ExpertGroups { n, chosen, best }))
}

/// The feed-forward network beside the experts, `shared_expert_intermediate_size` wide, with a gate.
pub(crate) fn shared_expert(c: &Settings) -> Result<Option<SharedExpert>, Error> {
    let d_ff = c.u32("shared_expert_intermediate_size")?.unwrap_or(512);
    Ok(Some(SharedExpert { d_ff, gate: true }))
}

/// `norm_topk_prob`: whether the weights of the chosen experts sum to 1.
pub(crate) fn router_softmax(c: &Settings) -> Result<RouterSoftmax, Error> {
    Ok(match c.bool("norm_topk_prob")? {
        Some(true) => RouterSoftmax::Chosen,
        _ => RouterSoftmax::All,
    })
}
