//! Validates configs: rejects those that are inconsistent or whose sizes could overflow.

use crate::activation::{Activation, Xielu};
use crate::config::{Config, ConfigError, MAX_LAYERS, QkNorm, Rope};
use crate::norm::NormPlace;
use crate::recurrent::RecurrentKind;
use crate::units::{GROUP, LANES};

/// Maximum width or vocabulary size, which keeps every product of two sizes within u64.
const MAX_DIM: u32 = 1 << 24;
/// Maximum number of heads in a recurrent layer, and maximum width of one.
const MAX_HEADS: u32 = 1 << 12;
/// Maximum number of positions that a short convolution covers.
const MAX_KERNEL: u32 = 16;
const MAX_ROPES: usize = 16;
const MAX_LIMITS: usize = 64;
const MAX_EXPERTS: u32 = 1 << 12;
const MAX_EXPERTS_PER_TOKEN: u32 = 64;
const MAX_EXPERT_GROUPS: u32 = 64;
/// Maximum combined hidden width of a layer's experts: four times that of the largest published models.
const MAX_EXPERTS_WIDTH: u64 = 1 << 22;

impl Config {
    /// Checks that the sizes are consistent and that no product of them can overflow.
    ///
    /// # Errors
    /// The first field with an invalid value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let err = |field, value: &dyn ToString, expected| {
            Err(ConfigError { field, value: value.to_string(), expected })
        };
        let name = &self.architecture;
        if name.is_empty() || name.len() > 64 || !name.bytes().all(|b| b.is_ascii_graphic()) {
            let shown: String = name.escape_default().take(80).collect();
            return err("architecture", &shown, "1 to 64 printable ASCII characters");
        }
        let sizes = [
            ("d_model", self.d_model, MAX_DIM),
            ("d_ff", self.d_ff, MAX_DIM),
            ("n_heads", self.n_heads, 1 << 12),
            ("n_kv_heads", self.n_kv_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 12),
            ("vocab_size", self.vocab_size, MAX_DIM),
            ("context_length", self.context_length, 1 << 30),
            ("n_layers", self.n_layers, MAX_LAYERS),
        ];
        for (field, value, max) in sizes {
            if value == 0 || value > max {
                return err(
                    field,
                    &value,
                    "a size within the format's limits (see docs/FORMAT.md)",
                );
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return err("n_kv_heads", &self.n_kv_heads, "a divisor of n_heads");
        }
        if !self.head_dim.is_multiple_of(2) {
            return err("head_dim", &self.head_dim, "an even number");
        }
        if self.activation == Activation::Clamped && !self.gated {
            return err("activation", &"clamped", "no clamped activation without a gate");
        }
        self.check_numbers()?;
        self.check_ropes()?;
        let r = self.value_rotation;
        if !(r.is_power_of_two() && r <= GROUP as u32 && self.head_dim.is_multiple_of(r)) {
            return err("value_rotation", &r, "a power of two up to 64 that divides head_dim");
        }
        if self.windows.len() != self.n_layers as usize {
            return err("windows", &list(self.windows.len()), "one entry per layer");
        }
        self.check_parts()?;
        self.check_variants()?;
        self.check_temperature()?;
        self.check_layers()?;
        self.check_layer_attention()?;
        self.check_latent()?;
        self.check_recurrent()?;
        self.check_experts()
    }

    /// Checks the parts of layers. Some layer must have attention, whose cache holds the positions.
    fn check_parts(&self) -> Result<(), ConfigError> {
        let n = self.n_layers as usize;
        let recurrent = |layer| self.has_mixer(layer) || self.recurrent_of(layer).is_none();
        let experts = |layer| self.has_ffn(layer) || self.experts_of(layer).is_none();
        let fits = self.layer_parts.len() == n && (0..n).all(|l| recurrent(l) && experts(l));
        if !self.layer_parts.is_empty() && !fits {
            return Err(ConfigError {
                field: "layer_parts",
                value: list(self.layer_parts.len()),
                expected: "one entry per layer, with a mixer where layers are recurrent and ffn where they \
                           have experts",
            });
        }
        if self.attention_layers() == 0 {
            return Err(ConfigError {
                field: "layer_parts",
                value: list(n),
                expected: "at least one layer with attention",
            });
        }
        Ok(())
    }

    /// Checks what few models have.
    fn check_variants(&self) -> Result<(), ConfigError> {
        let err = |field, value: &dyn ToString, expected| {
            Err(ConfigError { field, value: value.to_string(), expected })
        };
        let plain =
            self.layer_parts.is_empty() && self.experts.is_none() && self.recurrent.is_none();
        if self.parallel && !(plain && self.norm_place == NormPlace::Pre) {
            let expected =
                "false unless all layers have pre norms, attention and a feed-forward network";
            return err("parallel", &true, expected);
        }
        if self.qk_norm_late && !matches!(self.qk_norm, QkNorm::Head | QkNorm::Unit) {
            return err("qk_norm_late", &true, "false unless qk_norm is head or unit");
        }
        let layers = if self.activation == Activation::Xielu { self.n_layers as usize } else { 0 };
        if self.xielu.len() != layers {
            return err(
                "xielu",
                &list(self.xielu.len()),
                "one entry per layer with this activation",
            );
        }
        if layers > 0 && self.gated {
            return err("gated", &true, "false if the activation is xielu");
        }
        let number = |x: f64| x.is_finite() && (x as f32).is_finite();
        let fits = |x: &&Xielu| [x.positive, x.negative, x.beta, x.eps].into_iter().all(number);
        match self.xielu.iter().find(|x| !fits(x)) {
            Some(x) => err("xielu", &format!("{x:?}"), "finite numbers"),
            None => Ok(()),
        }
    }

    fn check_temperature(&self) -> Result<(), ConfigError> {
        let err = |field, value: &dyn ToString, expected| {
            Err(ConfigError { field, value: value.to_string(), expected })
        };
        let Some(t) = &self.temperature else { return Ok(()) };
        if !(t.scale > 0.0 && (t.scale as f32).is_normal()) {
            return err("temperature.scale", &t.scale, "a positive finite number");
        }
        if t.step == 0 {
            return err("temperature.step", &t.step, "at least 1");
        }
        if t.layers.len() != self.n_layers as usize || !t.layers.contains(&true) {
            let layers = list(t.layers.len());
            return err(
                "temperature.layers",
                &layers,
                "one entry per layer, at least one of them true",
            );
        }
        Ok(())
    }

    /// Checks what else differs between layers.
    fn check_layers(&self) -> Result<(), ConfigError> {
        let widths = &self.layer_d_ff;
        let wrong = |&width: &u32| !(1..=self.d_ff).contains(&width);
        let misses = !widths.is_empty() && widths.len() != self.n_layers as usize;
        if misses || widths.iter().any(wrong) {
            return Err(ConfigError {
                field: "layer_d_ff",
                value: list(widths.len()),
                expected: "one entry per layer, from 1 to d_ff",
            });
        }
        let width = self.layer_embedding;
        let all = u64::from(width) * u64::from(self.n_layers);
        if width > MAX_HEADS || all > u64::from(MAX_DIM) || !width.is_multiple_of(LANES as u32) {
            return Err(ConfigError {
                field: "layer_embedding",
                value: width.to_string(),
                expected: "a multiple of 16 up to 4096, at most 2^24 for all layers",
            });
        }
        // The last step of a layer is then one that normalizes what it adds.
        let last = |layer| self.post_norms(layer) && self.has_ffn(layer);
        let every = (0..self.n_layers as usize).all(last);
        if (width > 0 || self.layer_scale) && !every {
            return Err(ConfigError {
                field: "layer_scale",
                value: "present".into(),
                expected: "post norms and a feed-forward network in every layer",
            });
        }
        Ok(())
    }

    fn check_recurrent(&self) -> Result<(), ConfigError> {
        let err = |field, value: &dyn ToString, expected| {
            Err(ConfigError { field, value: value.to_string(), expected })
        };
        let Some(r) = &self.recurrent else { return Ok(()) };
        if !(2..=MAX_KERNEL).contains(&r.kernel) {
            return err("recurrent.kernel", &r.kernel, "2 to 16");
        }
        let lanes = |x: u32| x > 0 && x <= MAX_HEADS && x.is_multiple_of(LANES as u32);
        let heads = |x: u32| x > 0 && x <= MAX_HEADS;
        if r.has_matrix() {
            if !heads(r.key_heads) || !heads(r.value_heads) {
                return err("recurrent.key_heads", &r.key_heads, "1 to 4096 heads");
            }
            if !r.value_heads.is_multiple_of(r.key_heads) {
                return err("recurrent.key_heads", &r.key_heads, "a divisor of value_heads");
            }
            if !lanes(r.key_dim) {
                return err("recurrent.key_dim", &r.key_dim, "a multiple of 16, at most 4096");
            }
            if !lanes(r.value_dim) {
                return err("recurrent.value_dim", &r.value_dim, "a multiple of 16, at most 4096");
            }
        } else {
            if r.key_heads != 0 || r.key_dim != 0 || r.value_heads != 1 {
                return err("recurrent.key_heads", &r.key_heads, "no keys in a convolution");
            }
            if !(r.value_dim.is_multiple_of(LANES as u32) && (1..=MAX_DIM).contains(&r.value_dim)) {
                return err("recurrent.value_dim", &r.value_dim, "a multiple of 16 up to 2^24");
            }
        }
        if r.channels() > MAX_DIM as usize {
            return err("recurrent.value_heads", &r.value_heads, "at most 2^24 channels in all");
        }
        let positive = |x: f64| x.is_finite() && x > 0.0 && (x as f32).is_normal();
        if let Some(eps) = r.norm_eps.filter(|&eps| !positive(eps)) {
            return err("recurrent.norm_eps", &eps, "a positive finite number");
        }
        if !positive(r.write_scale) {
            return err("recurrent.write_scale", &r.write_scale, "a positive finite number");
        }
        if r.layers.len() != self.n_layers as usize || !r.layers.contains(&true) {
            return err(
                "recurrent.layers",
                &list(r.layers.len()),
                "one entry per layer, at least one of them true",
            );
        }
        if r.parallel && self.norm_place != NormPlace::Pre {
            return err("recurrent.parallel", &true, "no parallel attention unless norms are pre");
        }
        if r.without_norm && r.kind != RecurrentKind::Mamba2 {
            return err("recurrent.without_norm", &true, "only for mamba2");
        }
        Ok(())
    }

    fn check_experts(&self) -> Result<(), ConfigError> {
        let err = |field, value: &dyn ToString, expected| {
            Err(ConfigError { field, value: value.to_string(), expected })
        };
        let Some(e) = &self.experts else { return Ok(()) };
        let place = if e.separate_norms { NormPlace::Both } else { NormPlace::Pre };
        if self.norm_place != place {
            let expected = "no experts unless the model has pre norms, or both and separate_norms";
            return err("experts", &"present", expected);
        }
        if e.separate_norms && e.shared.as_ref().is_none_or(|shared| shared.gate) {
            let expected = "false unless there is a network without a gate beside the experts";
            return err("experts.separate_norms", &true, expected);
        }
        if e.n_experts == 0 || e.n_experts > MAX_EXPERTS {
            return err("experts.n_experts", &e.n_experts, "1 to 4096");
        }
        let k = e.experts_per_token;
        if k == 0 || k > e.n_experts.min(MAX_EXPERTS_PER_TOKEN) {
            return err("experts.experts_per_token", &k, "1 to 64 and at most n_experts");
        }
        if e.d_ff == 0 || u64::from(e.d_ff) * u64::from(e.n_experts) > MAX_EXPERTS_WIDTH {
            return err(
                "experts.d_ff",
                &e.d_ff,
                "at least 1, and at most 2^22 summed over all experts",
            );
        }
        if let Some(shared) = e.shared.as_ref().filter(|s| s.d_ff == 0 || s.d_ff > MAX_DIM) {
            return err("experts.shared.d_ff", &shared.d_ff, "1 to 2^24");
        }
        if let Some(g) = e.router_groups {
            let size = e.n_experts / g.n.max(1);
            if g.n == 0 || g.n > MAX_EXPERT_GROUPS || !e.n_experts.is_multiple_of(g.n) {
                return err("experts.router_groups.n", &g.n, "1 to 64, a divisor of n_experts");
            }
            if g.chosen == 0 || g.chosen > g.n || g.chosen * size < k {
                let expected = "1 to n groups that have experts_per_token experts in all";
                return err("experts.router_groups.chosen", &g.chosen, expected);
            }
            if !(1..=2).contains(&g.best) || g.best > size {
                return err(
                    "experts.router_groups.best",
                    &g.best,
                    "1 or 2, at most a group's size",
                );
            }
        }
        if let Some(distance) = e.router_distance {
            let f32 = distance as f32;
            if !(f32.is_finite() && f32 >= 0.0) {
                return err("experts.router_distance", &distance, "a finite number, at least 0");
            }
            if e.router_sigmoid || e.router_bias || e.router_groups.is_some() {
                return err(
                    "experts.router_distance",
                    &distance,
                    "a softmax without bias and groups",
                );
            }
        }
        if e.layers.len() != self.n_layers as usize || !e.layers.contains(&true) {
            return err(
                "experts.layers",
                &list(e.layers.len()),
                "one entry per layer, at least one of them true",
            );
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let fits = |value: f64| value.is_finite() && value > 0.0 && (value as f32).is_normal();
        for (field, value, may_be_zero) in [
            ("norm_eps", self.norm_eps, false),
            ("attention_scale", self.attention_scale, false),
            ("attention_softcap", self.attention_softcap, true),
            ("embedding_scale", self.embedding_scale, false),
            ("logit_scale", self.logit_scale, false),
            ("logit_softcap", self.logit_softcap, true),
            ("rope_theta", self.rope_theta, false),
        ] {
            if !(fits(value) || may_be_zero && value == 0.0) {
                let expected =
                    if may_be_zero { "0 or a positive number" } else { "a positive finite number" };
                return Err(ConfigError { field, value: value.to_string(), expected });
            }
        }
        Ok(())
    }

    fn check_ropes(&self) -> Result<(), ConfigError> {
        let err = |field, value: &dyn ToString, expected| {
            Err(ConfigError { field, value: value.to_string(), expected })
        };
        let r = self.rotary_dim;
        if r == 0 || !r.is_multiple_of(2) || r > self.head_dim {
            return err("rotary_dim", &r, "an even number from 2 to head_dim");
        }
        if self.ropes.is_empty() || self.ropes.len() > MAX_ROPES {
            return err("ropes", &list(self.ropes.len()), "1 to 16 kinds of RoPE");
        }
        for Rope { magnitude, limits } in &self.ropes {
            if !(*magnitude > 0.0 && magnitude.is_finite() && (*magnitude as f32).is_normal()) {
                return err("ropes.magnitude", magnitude, "a positive finite number");
            }
            if limits.len() > MAX_LIMITS || !limits.is_sorted_by(|a, b| a < b) {
                return err("ropes.limits", &list(limits.len()), "at most 64 ascending numbers");
            }
        }
        if self.layer_ropes.len() != self.n_layers as usize {
            return err("layer_ropes", &list(self.layer_ropes.len()), "one entry per layer");
        }
        match self.layer_ropes.iter().find(|&&kind| kind as usize > self.ropes.len()) {
            Some(kind) => err("layer_ropes", kind, "at most the number of ropes"),
            None => Ok(()),
        }
    }
}

/// A list in a message about its length.
fn list(entries: usize) -> String {
    format!("a list of {entries} entries")
}
