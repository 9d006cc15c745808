//! A model's defaults for generating text.

use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// Defaults for generating text, from the source's `generation_config.json` and tokenizer config.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Generation {
    /// Token that begins a sequence.
    pub bos: Option<u32>,
    /// Whether `bos` is prepended to raw prompts.
    pub add_bos: bool,
    /// Tokens that end a response.
    pub eos: Vec<u32>,
    /// Text of the BOS token in chat templates; absent if it is that of `bos`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos_token: Option<String>,
    /// Text of the EOS token in chat templates; absent if it is that of the first of `eos`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos_token: Option<String>,
    /// Text of the padding token in chat templates, if the template uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_token: Option<String>,
    /// Sampling temperature; absent means greedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Keep the k most likely tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Keep the smallest set of tokens with at least this total probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Keep tokens with at least this probability relative to the most likely one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// Divide the logits of tokens already seen by this factor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
}

impl Generation {
    /// Checks that the tokens exist and that every setting is within its range.
    ///
    /// # Errors
    /// The first field with an invalid value.
    pub fn validate(&self, vocab_size: u32) -> Result<(), ConfigError> {
        let err = |field, value: &dyn ToString, expected| {
            Err(ConfigError { field, value: value.to_string(), expected })
        };
        let tokens = self.bos.iter().map(|id| ("bos", id));
        for (field, id) in tokens.chain(self.eos.iter().map(|id| ("eos", id))) {
            if *id >= vocab_size {
                return err(field, id, "a token id in the vocabulary");
            }
        }
        let settings = [
            ("temperature", self.temperature, 0.0..=1e6, "0 to 1000000"),
            ("top_p", self.top_p, 0.0..=1.0, "0 to 1"),
            ("min_p", self.min_p, 0.0..=1.0, "0 to 1"),
            ("repetition_penalty", self.repetition_penalty, 1e-6..=1e6, "0.000001 to 1000000"),
        ];
        for (field, value, range, expected) in settings {
            if let Some(value) = value.filter(|v| !range.contains(v)) {
                return err(field, &value, expected);
            }
        }
        Ok(())
    }
}
