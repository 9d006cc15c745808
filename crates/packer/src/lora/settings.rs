//! The settings of an adapter: which change its meaning, and which do not.

use serde_json::Value;

use crate::Error;
use crate::hf::Settings;

/// Settings of peft that describe how the adapter was trained, or what the names and shapes of its
/// tensors show.
const IRRELEVANT: [&str; 26] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_dtype",
    "lora_ga_config",
    "lorap_emb_lr",
    "lorap_lr_ratio",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "unsloth_fixed",
    "velora_config",
];

/// Settings that are read elsewhere in this module.
const READ: [&str; 6] =
    ["alpha_pattern", "init_lora_weights", "lora_alpha", "peft_type", "use_dora", "use_rslora"];

/// Initializations that leave the base model unchanged. The others (PiSSA, OLoRA, CorDA, LoRA-GA, LoftQ)
/// subtract the initial adapter from the base model, to which the trained adapter then belongs.
const INITIALIZATIONS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

pub(super) const MERGE: &str = "merge this adapter with peft and convert the merged model";

/// How to scale an adapter.
#[derive(Debug)]
pub(super) struct Scaling {
    alpha: f64,
    /// Exceptions from `alpha`, by pattern.
    patterns: Vec<(String, f64)>,
    /// Whether alpha is divided by the square root of the rank instead of the rank (rsLoRA).
    rank_stabilized: bool,
    /// Whether rows are rescaled to a trained norm (DoRA).
    pub(super) dora: bool,
}

impl Scaling {
    /// Reads the settings of an adapter and rejects those that this merge does not support.
    pub(super) fn read(settings: &Settings) -> Result<Self, Error> {
        let kind = settings.need("peft_type", settings.str("peft_type")?)?;
        if kind != "LORA" {
            return Err(settings.unsupported(format!("an adapter of type {kind:?}"), MERGE));
        }
        for key in settings.keys() {
            if !IRRELEVANT.contains(&key) && !READ.contains(&key) {
                check_neutral(settings, key)?;
            }
        }
        check_initialization(settings)?;
        let alpha = settings.need("lora_alpha", settings.f64("lora_alpha")?)?;
        if !alpha.is_finite() {
            return Err(settings.error("lora_alpha", format!("is {alpha}, expected a number")));
        }
        Ok(Self {
            alpha,
            patterns: patterns(settings)?,
            rank_stabilized: settings.bool("use_rslora")?.unwrap_or(false),
            dora: settings.bool("use_dora")?.unwrap_or(false),
        })
    }

    /// The factor of `B · A` in a module; as in peft, in f64. `None` if several patterns match the module:
    /// peft takes the first one in the file, whose order is not known here.
    pub(super) fn of(&self, module: &str, rank: usize) -> Option<f64> {
        let mut exceptions = self.patterns.iter().filter(|(pattern, _)| matches(pattern, module));
        let alpha = match (exceptions.next(), exceptions.next()) {
            (None, _) => self.alpha,
            (Some((_, alpha)), None) => *alpha,
            (Some(_), Some(_)) => return None,
        };
        let rank = rank as f64;
        Some(alpha / if self.rank_stabilized { rank.sqrt() } else { rank })
    }
}

/// Any other setting, known or not, must have the value that leaves a feature off.
fn check_neutral(settings: &Settings, key: &str) -> Result<(), Error> {
    let Some(value) = settings.get(key) else { return Ok(()) };
    let neutral = match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(text) => text.is_empty() || key == "bias" && text == "none",
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    };
    if neutral {
        return Ok(());
    }
    let next = match key {
        "alora_invocation_tokens" | "alora_invocation_string" => {
            "its weights apply only after these tokens, so it cannot be merged"
        }
        _ => MERGE,
    };
    let text: String = value.to_string().chars().take(60).collect();
    Err(settings.unsupported(format!("an adapter with {key} {text}"), next))
}

fn check_initialization(settings: &Settings) -> Result<(), Error> {
    let key = "init_lora_weights";
    match settings.get(key) {
        None | Some(Value::Bool(_)) => return Ok(()),
        Some(Value::String(name)) if INITIALIZATIONS.contains(&&*name.to_lowercase()) => {
            return Ok(());
        }
        _ => {}
    }
    let value = settings.get(key).map(ToString::to_string).unwrap_or_default();
    let what = format!("an adapter with {key} {value}, which changes the base model,");
    let next = "save it with peft's path_initial_model_for_weight_conversion, or merge it with peft and \
                convert the merged model";
    Err(settings.unsupported(what, next))
}

/// `alpha_pattern`: regular expressions of module names, in practice just names.
fn patterns(settings: &Settings) -> Result<Vec<(String, f64)>, Error> {
    let key = "alpha_pattern";
    let Some(map) = settings.object(key)? else { return Ok(Vec::new()) };
    let read = |pattern: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
        if !pattern.strip_prefix('^').unwrap_or(pattern).chars().all(plain) {
            let what = format!("an adapter with the regular expression {pattern:?} in {key}");
            return Err(settings.unsupported(what, MERGE));
        }
        match map.f64(pattern)?.filter(|alpha| alpha.is_finite()) {
            Some(alpha) => Ok((pattern.to_owned(), alpha)),
            None => Err(map.error(pattern, "is not a number")),
        }
    };
    map.keys().map(read).collect()
}

/// Whether a pattern of letters, digits, `_` and `.` (any character), possibly after `^`, matches all of
/// `module`, or the end of it behind a dot.
fn matches(pattern: &str, module: &str) -> bool {
    let whole = pattern.strip_prefix('^');
    let pattern = whole.unwrap_or(pattern);
    let Some(at) = module.len().checked_sub(pattern.len()) else { return false };
    let (before, end) = module.as_bytes().split_at(at);
    let starts = before.is_empty() || whole.is_none() && before.last() == Some(&b'.');
    starts && pattern.bytes().zip(end).all(|(p, b)| p == b'.' || p == *b)
}

#[cfg(test)]
mod tests {
    use super::matches;

    /// `re.match(rf"(.*\.)?({pattern})$", module)`, as in peft.
    #[test]
    fn patterns_match_like_regular_expressions() {
        let module = "model.layers.1.self_attn.q_proj";
        for pattern in [
            "q_proj",
            "self_attn.q_proj",
            "1.self_attn.q_proj",
            module,
            "self_attn_q.proj",
            "^model.layers.1.self_attn.q_proj",
        ] {
            let expected = pattern != "self_attn_q.proj";
            assert_eq!(matches(pattern, module), expected, "{pattern}");
        }
        for pattern in ["proj", "^q_proj", "q_proj2", "x.model.layers.1.self_attn.q_proj", "_proj"]
        {
            assert!(!matches(pattern, module), "{pattern}");
        }
        assert!(matches("layers.1.self.attn.q_proj", module));
    }
}
