//! Settings of layers with Mamba-2, under the names of several families.

use nanoinfer_format::{Recurrent, RecurrentKind};
use serde_json::Value;

use super::settings::Settings;
use crate::Error;

/// The settings with the sizes of Mamba-2, and their defaults.
pub(crate) struct Mamba2Sizes {
    pub(crate) heads: (&'static str, u32),
    pub(crate) groups: (&'static str, u32),
    pub(crate) state: (&'static str, u32),
    pub(crate) kernel: (&'static str, u32),
}

impl Mamba2Sizes {
    /// The names that most families use.
    pub(crate) const USUAL: Self = Self {
        heads: ("mamba_n_heads", 128),
        groups: ("mamba_n_groups", 1),
        state: ("mamba_d_state", 256),
        kernel: ("mamba_d_conv", 4),
    };

    /// Mamba-2 with `inner` values per token on `layers`, if there are any.
    pub(crate) fn read(
        &self,
        c: &Settings,
        inner: u32,
        layers: Vec<bool>,
    ) -> Result<Option<Recurrent>, Error> {
        let size = |(key, default): (&str, u32)| Ok::<_, Error>(c.u32(key)?.unwrap_or(default));
        let heads = size(self.heads)?;
        if heads == 0 || !inner.is_multiple_of(heads) {
            let what = format!("is {heads}, expected a divisor of the inner width {inner}");
            return Err(c.error(self.heads.0, what));
        }
        let recurrent = Recurrent {
            kernel: size(self.kernel)?,
            key_heads: size(self.groups)?,
            key_dim: size(self.state)?,
            value_heads: heads,
            value_dim: inner / heads,
            layers,
            ..Recurrent::of(RecurrentKind::Mamba2)
        };
        Ok(recurrent.layers.contains(&true).then_some(recurrent))
    }
}

/// Refuses models that limit the steps of states.
pub(crate) fn refuse_step_limit(c: &Settings) -> Result<(), Error> {
    match c.get("time_step_limit") {
        Some(limits) if !is_unlimited(limits) => {
            Err(c.unsupported("time_step_limit", "supported: 0 to infinity"))
        }
        _ => Ok(()),
    }
}

/// Whether step sizes may be anything from 0 on. Infinity is no number in JSON.
fn is_unlimited(limits: &Value) -> bool {
    let infinite = |limit: &Value| limit.as_f64().is_none_or(|limit| limit >= f64::MAX);
    matches!(limits.as_array().map(Vec::as_slice), Some([least, most])
        if least.as_f64() == Some(0.0) && infinite(most))
}
