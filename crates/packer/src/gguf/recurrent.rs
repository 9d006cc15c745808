//! Keys that say which parts a layer has, and the sizes of recurrent layers.

use nanoinfer_format::{Config, Recurrent, RecurrentKind};

use super::keys::Keys;
use crate::Error;

impl Keys<'_> {
    /// For each layer, whether the list `key` has 0 for it; `None` if the file has no such list.
    pub(crate) fn without(&self, key: &str) -> Result<Option<Vec<bool>>, Error> {
        self.per_layer(key)?; // checks type and length
        let sizes = self.ints(key).ok().flatten();
        Ok(sizes.map(|sizes| sizes.iter().map(|&size| size == 0).collect()))
    }

    /// The recurrent layers: those without heads of keys and values.
    pub(crate) fn recurrent_layers(&self) -> Result<Vec<bool>, Error> {
        let layers = self.without("attention.head_count_kv")?;
        self.need("attention.head_count_kv", layers)
    }

    /// Mamba-2 on `layers`, if there are any.
    pub(crate) fn mamba2(&self, layers: Vec<bool>) -> Result<Option<Recurrent>, Error> {
        self.states(RecurrentKind::Mamba2, layers)
    }

    /// Recurrence with a matrix per head on `layers`, if there are any.
    pub(crate) fn states(
        &self,
        kind: RecurrentKind,
        layers: Vec<bool>,
    ) -> Result<Option<Recurrent>, Error> {
        if !layers.contains(&true) {
            return Ok(None);
        }
        let (heads, inner) = (self.size("ssm.time_step_rank")?, self.size("ssm.inner_size")?);
        if heads == 0 || !inner.is_multiple_of(heads) {
            let what = format!("is {heads}, expected a divisor of ssm.inner_size {inner}");
            return Err(self.error("ssm.time_step_rank", &what));
        }
        Ok(Some(Recurrent {
            kernel: self.size("ssm.conv_kernel")?,
            key_heads: self.size("ssm.group_count")?,
            key_dim: self.size("ssm.state_size")?,
            value_heads: heads,
            value_dim: inner / heads,
            layers,
            ..Recurrent::of(kind)
        }))
    }

    /// Checks that layers for which a list of sizes has 0 need no such size.
    pub(super) fn check_parts(&self, c: &Config) -> Result<(), Error> {
        type Has = fn(&Config, usize) -> bool;
        let parts: [(&str, Has, &str); 3] = [
            ("attention.head_count", Config::attends, "attention"),
            ("attention.head_count_kv", Config::attends, "attention"),
            ("feed_forward_length", Config::has_ffn, "a feed-forward network"),
        ];
        for (key, has, part) in parts {
            let without = self.without(key)?.unwrap_or_default();
            if let Some(layer) = (0..without.len()).find(|&layer| without[layer] && has(c, layer)) {
                let what = format!("is 0 in layer {layer}, which needs {part} in such a model");
                return Err(self.error(key, &what));
            }
        }
        Ok(())
    }
}
