//! The metadata keys of one architecture.

use std::collections::HashSet;

use nanoinfer_format::{ExpertGroups, Experts, RouterSoftmax};

use super::metadata::Metadata;
use crate::Error;

/// Access to the metadata keys that start with the architecture's name. Methods take keys without
/// this prefix.
pub(crate) struct Keys<'a> {
    pub(crate) metadata: &'a Metadata,
    pub(crate) architecture: &'static str,
    /// The names of all tensors, where they show what keys leave out.
    pub(crate) tensors: &'a HashSet<&'a str>,
    /// Whether sizes may differ between layers.
    pub(crate) uneven: bool,
}

impl Keys<'_> {
    /// Whether the file has a tensor of this name.
    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        self.tensors.contains(name)
    }

    /// The full key.
    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    pub(crate) fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.metadata.u32(&self.name(key))
    }

    pub(crate) fn f64(&self, key: &str) -> Result<Option<f64>, Error> {
        self.metadata.f64(&self.name(key))
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.metadata.bool(&self.name(key))
    }

    pub(crate) fn str(&self, key: &str) -> Result<Option<&str>, Error> {
        self.metadata.str(&self.name(key))
    }

    pub(crate) fn ints(&self, key: &str) -> Result<Option<&[i64]>, Error> {
        self.metadata.ints(&self.name(key))
    }

    /// A whole number that files may also list layer by layer, with 0 for layers without that part (see
    /// [`Self::without`]). If sizes may differ, the largest.
    pub(crate) fn per_layer(&self, key: &str) -> Result<Option<u32>, Error> {
        let n_layers = self.size("block_count")?;
        if let Some(sizes) = self.sizes(key)? {
            return Ok(sizes.into_iter().max());
        }
        self.metadata.per_layer(&self.name(key), n_layers)
    }

    /// The list of sizes, layer by layer, if they may differ.
    pub(crate) fn sizes(&self, key: &str) -> Result<Option<Vec<u32>>, Error> {
        let Some(list) = self.ints(key).ok().flatten().filter(|_| self.uneven) else {
            return Ok(None);
        };
        let n = self.size("block_count")?;
        if list.len() != n as usize {
            let what = format!("has {} values, expected one for each of {n} layers", list.len());
            return Err(self.error(key, &what));
        }
        let size = |&size: &i64| {
            let what = format!("contains {size}, expected 0 to {}", u32::MAX);
            u32::try_from(size).map_err(|_| self.error(key, &what))
        };
        list.iter().map(size).collect::<Result<_, _>>().map(Some)
    }

    /// Unwraps `value`, which was read from `key`; the error states that the key is missing.
    pub(crate) fn need<T>(&self, key: &str, value: Option<T>) -> Result<T, Error> {
        value.ok_or_else(|| self.error(key, "is missing"))
    }

    /// A required whole number.
    pub(crate) fn size(&self, key: &str) -> Result<u32, Error> {
        self.need(key, self.u32(key)?)
    }

    /// An optional positive, finite number; 0 counts as absent, as in llama.cpp.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, Error> {
        match self.f64(key)?.filter(|&v| v != 0.0) {
            Some(v) if !(v.is_finite() && v > 0.0) => {
                Err(self.error(key, &format!("is {v}, expected a positive number")))
            }
            stated => Ok(stated),
        }
    }

    /// An error about a key; the message is the key's name followed by `what`.
    pub(crate) fn error(&self, key: &str, what: &str) -> Error {
        self.metadata.error(&self.name(key), what)
    }

    /// An error about a feature that this version does not support.
    pub(crate) fn unsupported(&self, what: String, next: &str) -> Error {
        Error::Unsupported { path: self.metadata.path().into(), what, next: next.into() }
    }

    /// The attention window of all layers; 0 if there is none.
    pub(crate) fn window(&self) -> Result<u32, Error> {
        Ok(self.u32("attention.sliding_window")?.unwrap_or(0))
    }

    /// The attention window of each layer, 0 for none: on the layers that the file lists, or else on all except every
    /// `period`-th.
    pub(crate) fn windows(&self, period: usize) -> Result<Vec<u32>, Error> {
        let (window, n) = (self.window()?, self.size("block_count")?.min(1 << 14) as usize);
        let key = "attention.sliding_window_pattern";
        let of = |slides: bool| if slides { window } else { 0 };
        if !self.is_list(key) {
            let period = self.u32(key)?.map_or(period, |stated| stated as usize).max(1);
            return Ok((0..n).map(|i| of(!(i + 1).is_multiple_of(period))).collect());
        }
        let list = self.need(key, self.ints(key)?)?;
        if list.len() != n {
            let what = format!("has {} values, expected one for each of {n} layers", list.len());
            return Err(self.error(key, &what));
        }
        Ok(list.iter().map(|&slides| of(slides != 0)).collect())
    }

    fn is_list(&self, key: &str) -> bool {
        self.metadata.is_list(&self.name(key))
    }

    /// Experts on every layer, if the model has any. `router_softmax` is not in the file, because
    /// llama.cpp hard-codes it.
    pub(crate) fn experts(
        &self,
        n_layers: u32,
        router_softmax: RouterSoftmax,
    ) -> Result<Option<Experts>, Error> {
        let Some(n_experts) = self.u32("expert_count")?.filter(|&n| n > 0) else {
            return Ok(None);
        };
        let d_ff = match self.u32("expert_feed_forward_length")? {
            None => self.need("feed_forward_length", self.per_layer("feed_forward_length")?)?,
            Some(given) => given,
        };
        let (per_token, n) = (self.size("expert_used_count")?, n_layers.min(1 << 14) as usize);
        Ok(Some(Experts { router_softmax, ..Experts::new(n_experts, per_token, d_ff, n) }))
    }

    /// The experts of DeepSeek-V3 and its descendants, chosen by their sigmoids among those of the best groups.
    pub(crate) fn grouped_experts(&self, n_layers: u32) -> Result<Option<Experts>, Error> {
        const SIGMOID: u32 = 2; // llama.cpp's LLAMA_EXPERT_GATING_FUNC_TYPE_SIGMOID
        let Some(mut e) = self.experts(n_layers, RouterSoftmax::Chosen)? else { return Ok(None) };
        if let Some(other) = self.u32("expert_gating_func")?.filter(|&kind| kind != SIGMOID) {
            let what = format!("is {other}, expected {SIGMOID} (sigmoid)");
            return Err(self.error("expert_gating_func", &what));
        }
        (e.router_sigmoid, e.router_bias) = (true, true);
        if self.bool("expert_weights_norm")? == Some(false) {
            e.router_softmax = RouterSoftmax::All;
        }
        e.router_groups = self.expert_groups(2)?;
        Ok(Some(e))
    }

    /// Groups of experts, of which some are chosen by their `best` scores; none if all of them are.
    pub(crate) fn expert_groups(&self, best: u32) -> Result<Option<ExpertGroups>, Error> {
        let n = self.u32("expert_group_count")?.unwrap_or(1);
        let chosen = self.u32("expert_group_used_count")?.unwrap_or(1);
        Ok((n != chosen).then_some(ExpertGroups { n, chosen, best }))
    }
}
