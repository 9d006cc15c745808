//! Prompts of models that fill in the middle of a text. No metadata tells their tokens apart, so they are
//! found by their texts, as in llama.cpp.

use nanoinfer_text::{FIM_ENDS, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, Specials};

use super::Model;
use crate::Error;

/// Tokens that end the text in the gap, besides [`FIM_ENDS`].
const OTHER_ENDS: &[&str] = &["<file_sep>", "<|endoftext|>", "<EOT>", "▁<EOT>"];

impl Model {
    /// The prompt for the text between `prefix` and `suffix`, in the order prefix, suffix, middle. Both
    /// texts are tokenized on their own, with the names of control tokens as [`Specials`] says.
    ///
    /// # Errors
    /// The model has no tokenizer, or lacks the tokens of this format.
    pub fn encode_infill(
        &self,
        prefix: &str,
        suffix: &str,
        specials: Specials,
    ) -> Result<Vec<u32>, Error> {
        let tokenizer = self.tokenizer()?;
        let find = |names: &[&str]| names.iter().find_map(|name| self.token(name));
        let (Some(before), Some(after), Some(middle)) =
            (find(FIM_PREFIX), find(FIM_SUFFIX), find(FIM_MIDDLE))
        else {
            return Err(Error::NoInfill { path: self.name.clone() });
        };
        let mut ids: Vec<u32> = self.added_bos().into_iter().chain([before]).collect();
        ids.extend(tokenizer.encode(prefix, specials));
        ids.push(after);
        ids.extend(tokenizer.encode(suffix, specials));
        ids.push(middle);
        Ok(ids)
    }

    /// Tokens that end the text generated for [`Self::encode_infill`], besides the model's own.
    pub fn infill_ends(&self) -> Vec<u32> {
        let names = [FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE, OTHER_ENDS].into_iter().chain(FIM_ENDS);
        names.flatten().filter_map(|name| self.token(name)).collect()
    }

    /// The token with this text: an added token, or an entry of the vocabulary, in whose bytes `▁` is a
    /// blank.
    fn token(&self, text: &str) -> Option<u32> {
        if let Some(id) = self.tokenizer().ok()?.added_token(text) {
            return Some(id);
        }
        let (vocab, bytes) = (self.vocab()?, text.replace('▁', " "));
        (0..vocab.len() as u32).find(|&id| vocab.bytes(id) == bytes.as_bytes())
    }
}
