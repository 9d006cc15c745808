//! RoPE settings of a `config.json`, in the formats of transformers 4 and 5.

use super::settings::Settings;
use crate::Error;
use crate::rope::{RopeSpec, Scaling, Yarn, longrope_magnitude, yarn_magnitude};

/// `rope_parameters` (transformers 5; the entry for `layer_type` if there is one per layer type),
/// or `rope_scaling` (earlier versions).
pub(crate) fn rope_settings(
    c: &Settings,
    layer_type: Option<&str>,
) -> Result<Option<Settings>, Error> {
    let Some(new) = c.object("rope_parameters")? else { return c.object("rope_scaling") };
    match layer_type {
        Some(key) if new.has(key) => new.object(key),
        _ => Ok(Some(new)),
    }
}

/// Number of values per head that are rotated; without a setting, `usual` is their part of a head.
pub(crate) fn rotary_dim(
    c: &Settings,
    r: Option<&Settings>,
    (head_dim, usual): (u32, f64),
) -> Result<u32, Error> {
    let stated = match r.map(|r| r.f64("partial_rotary_factor")).transpose()?.flatten() {
        None => c.f64("partial_rotary_factor")?,
        given => given,
    };
    let part = stated.unwrap_or(usual);
    if !(part > 0.0 && part <= 1.0) {
        let what = format!("is {part}, expected a number above 0 and at most 1");
        return Err(c.error("partial_rotary_factor", what));
    }
    Ok((f64::from(head_dim) * part) as u32)
}

/// RoPE base and scaling, from the RoPE settings `r` and the model's settings `c`.
pub(crate) fn rope(c: &Settings, r: Option<&Settings>, theta: f64) -> Result<RopeSpec, Error> {
    let own = r.map(|r| r.f64("rope_theta")).transpose()?.flatten();
    let theta = own.or(c.f64("rope_theta")?).unwrap_or(theta);
    if !(theta.is_finite() && theta > 1.0) {
        return Err(c.error("rope_theta", format!("is {theta}, expected a number above 1")));
    }
    let scaling = r.map_or(Ok(Scaling::None), |r| rope_scaling(c, r))?;
    Ok(RopeSpec { theta, scaling })
}

fn rope_scaling(c: &Settings, r: &Settings) -> Result<Scaling, Error> {
    let kind = match r.str("rope_type")? {
        Some(kind) => Some(kind),
        None => r.str("type")?,
    };
    let positive = |key: &str| r.need(key, r.positive(key)?);
    match kind {
        None | Some("default") => Ok(Scaling::None),
        Some("linear") => Ok(Scaling::Linear(positive("factor")?)),
        Some("dynamic") => {
            let original_context = positions(c, "max_position_embeddings")?;
            let factor = positive("factor")?;
            if factor < 1.0 {
                return Err(r.error("factor", format!("is {factor}, expected at least 1")));
            }
            Ok(Scaling::Dynamic { factor, original_context })
        }
        Some("llama3") => {
            let low_freq = positive("low_freq_factor")?;
            let high_freq = positive("high_freq_factor")?;
            // They are equal in Llama 4.
            if low_freq > high_freq {
                let what = format!("is {low_freq}, expected at most high_freq_factor {high_freq}");
                return Err(r.error("low_freq_factor", what));
            }
            let original_context = positive("original_max_position_embeddings")?;
            Ok(Scaling::Llama3 {
                factor: positive("factor")?,
                low_freq,
                high_freq,
                original_context,
            })
        }
        Some("yarn") => yarn(c, r),
        Some("longrope" | "su") => longrope(c, r),
        Some(other) => {
            let next = "supported: default, linear, dynamic, yarn, llama3, longrope";
            Err(r.unsupported(format!("RoPE scaling {other:?}"), next))
        }
    }
}

fn positions(c: &Settings, key: &str) -> Result<u32, Error> {
    match c.need(key, c.u32(key)?)? {
        0 => Err(c.error(key, "is 0, expected a positive number")),
        n => Ok(n),
    }
}

/// The context length before scaling; a value in the model's settings takes precedence over one in
/// the RoPE settings.
fn original_context(c: &Settings, r: &Settings) -> Result<u32, Error> {
    let key = "original_max_position_embeddings";
    if c.has(key) {
        return positions(c, key);
    }
    if r.has(key) { positions(r, key) } else { positions(c, "max_position_embeddings") }
}

/// `factor`, or else the ratio of the model's context length to the original one.
fn stated_factor(c: &Settings, r: &Settings, original: u32) -> Result<f64, Error> {
    let longer = f64::from(positions(c, "max_position_embeddings")?) / f64::from(original);
    Ok(r.positive("factor")?.unwrap_or(longer))
}

fn yarn(c: &Settings, r: &Settings) -> Result<Scaling, Error> {
    let original_context = original_context(c, r)?;
    let factor = stated_factor(c, r, original_context)?;
    let weights = (r.positive("mscale")?, r.positive("mscale_all_dim")?);
    let magnitude = match (r.positive("attention_factor")?, weights) {
        (Some(stated), _) => stated,
        (None, (Some(of), Some(all))) => yarn_magnitude(factor, of) / yarn_magnitude(factor, all),
        _ => yarn_magnitude(factor, 1.0),
    };
    Ok(Scaling::Yarn(Yarn {
        factor,
        original_context: f64::from(original_context),
        beta_fast: r.positive("beta_fast")?.unwrap_or(32.0),
        beta_slow: r.positive("beta_slow")?.unwrap_or(1.0),
        truncate: r.bool("truncate")?.unwrap_or(true),
        magnitude,
    }))
}

pub(crate) fn longrope(c: &Settings, r: &Settings) -> Result<Scaling, Error> {
    let original_context = original_context(c, r)?;
    if original_context < 2 {
        return Err(c.error("original_max_position_embeddings", "is 1, expected at least 2"));
    }
    let divisors = |key: &str| {
        let stated = r.need(key, r.numbers(key)?)?;
        match stated.iter().find(|v| !(v.is_finite() && **v >= 1e-6)) {
            Some(v) => Err(r.error(key, format!("contains {v}, expected positive factors"))),
            None => Ok(stated),
        }
    };
    let factor = stated_factor(c, r, original_context)?;
    Ok(Scaling::LongRope {
        short: divisors("short_factor")?,
        long: divisors("long_factor")?,
        original_context,
        magnitude: r
            .positive("attention_factor")?
            .unwrap_or_else(|| longrope_magnitude(factor, original_context)),
    })
}
