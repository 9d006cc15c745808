//! A compiled grammar, at the beginning of a text.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, TokenParser};
use serde_json::Value;

use crate::vocabulary::Vocabulary;
use crate::{Error, Source};

pub(crate) struct Compiled {
    pub vocabulary: Arc<Vocabulary>,
    /// At the beginning of a text.
    pub matcher: Matcher,
    /// The tokens that continue a prompt.
    pub first: Vec<u32>,
    /// The tokens that begin an answer, if these are others.
    pub first_of_answer: Option<Vec<u32>>,
    /// Whether forced text can be drafted. The parser would lose its place after forced tokens.
    pub drafts: bool,
    /// Estimated size of the parser.
    bytes: usize,
}

impl Compiled {
    pub(crate) fn new(
        vocabulary: &Arc<Vocabulary>,
        source: &Source,
        top: TopLevelGrammar,
    ) -> Result<Self, Error> {
        let parser = |top| -> Result<TokenParser, String> {
            let mut parser = vocabulary.factory.create_parser(top).map_err(|e| e.to_string())?;
            parser.start_without_prompt();
            Ok(parser)
        };
        let fails = |schema: &Value| match Source::JsonSchema(schema.clone()).top() {
            Ok(top) => parser(top).is_err(),
            Err(_) => true,
        };
        let mut parser = parser(top).map_err(|e| source.error(&e, fails))?;
        let first_of_answer = vocabulary.first.as_ref().map(|trie| {
            let mut allowed = trie.alloc_token_set();
            parser.parser.with_recognizer(|text| trie.add_bias(text, &mut allowed, &[]));
            if parser.is_accepting() {
                vocabulary.ends.iter().for_each(|id| allowed.allow_token(*id));
            }
            allowed.as_slice().to_vec()
        });
        // Measured: the grammar takes about as much as the expressions of its lexer.
        let bytes = 2 * parser.parser.lexer_stats().num_bytes;
        let mut matcher = Matcher::new(Ok(parser));
        let first = matcher.compute_mask().map_err(|e| {
            let what = match matcher.stop_reason() {
                _ if e.to_string().contains("NoExtensionBias") => "it allows no text".to_owned(),
                _ => e.to_string(),
            };
            source.error(&what, |_| false)
        })?;
        let first = first.as_slice().to_vec();
        let drafts = !source.has_tokens();
        let vocabulary = Arc::clone(vocabulary);
        Ok(Self { vocabulary, matcher, first, first_of_answer, drafts, bytes })
    }

    /// Estimated size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let masks = self.first.len() + self.first_of_answer.as_ref().map_or(0, Vec::len);
        self.bytes + 4 * masks + (32 << 10)
    }
}
