//! Prompts of models that fill in the middle of a text.

use nanoinfer_text::Specials;

use super::Model;
use crate::Error;

/// What models call the token before the text that precedes the gap. No metadata tells these tokens apart,
/// so they are found by their text, as in llama.cpp.
const PREFIX: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
];
/// The token before the text that follows the gap.
const SUFFIX: &[&str] = &[
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
];
/// The token before the text in the gap.
const MIDDLE: &[&str] = &[
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];
/// Tokens that end the text in the gap: padding, the next repository, the next file, the end.
const ENDS: &[&str] = &[
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
    "<file_sep>",
    "<|endoftext|>",
    "<EOT>",
    "▁<EOT>",
];

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
        let (Some(before), Some(after), Some(middle)) = (find(PREFIX), find(SUFFIX), find(MIDDLE))
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
        [PREFIX, SUFFIX, MIDDLE, ENDS].concat().iter().filter_map(|name| self.token(name)).collect()
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
