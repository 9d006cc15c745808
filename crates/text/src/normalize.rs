//! Unicode and whitespace normalisation, the first step of encoding.
//!
//! `tokenizers` uses the tables of Unicode 9 and this crate uses newer ones, so characters added since
//! then may normalise differently.

use std::borrow::Cow;

use regex_automata::meta::Regex;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use crate::Error;
use crate::bert::Bert;
use crate::charsmap::Charsmap;
use crate::json::{Normalizer, Pattern};
use crate::split::compile;

/// A compiled normalisation step.
pub(crate) enum Step {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    Lowercase,
    Prepend(String),
    ReplaceText(String, String),
    ReplaceRegex(Box<Regex>, String),
    Strip { left: bool, right: bool },
    StripAccents,
    Charsmap(Charsmap),
    Bert(Bert),
}

/// Flattens a normalizer of `tokenizer.json` into steps.
pub(crate) fn build(normalizer: &Normalizer, steps: &mut Vec<Step>) -> Result<(), Error> {
    steps.push(match normalizer {
        Normalizer::Sequence { normalizers } => {
            return normalizers.iter().try_for_each(|n| build(n, steps));
        }
        Normalizer::Nfc => Step::Nfc,
        Normalizer::Nfd => Step::Nfd,
        Normalizer::Nfkc => Step::Nfkc,
        Normalizer::Nfkd => Step::Nfkd,
        Normalizer::Lowercase => Step::Lowercase,
        Normalizer::Prepend { prepend } => Step::Prepend(prepend.clone()),
        Normalizer::Strip { strip_left, strip_right } => {
            Step::Strip { left: *strip_left, right: *strip_right }
        }
        Normalizer::StripAccents => Step::StripAccents,
        Normalizer::Precompiled { precompiled_charsmap } => {
            Step::Charsmap(Charsmap::new(precompiled_charsmap)?)
        }
        Normalizer::Bert { clean_text, handle_chinese_chars, strip_accents, lowercase } => {
            Step::Bert(Bert {
                clean_text: *clean_text,
                handle_chinese_chars: *handle_chinese_chars,
                strip_accents: strip_accents.unwrap_or(*lowercase),
                lowercase: *lowercase,
            })
        }
        Normalizer::Replace { pattern: Pattern::String(s), content } => {
            Step::ReplaceText(s.clone(), content.clone())
        }
        Normalizer::Replace { pattern: Pattern::Regex(r), content } => {
            Step::ReplaceRegex(Box::new(compile("normalizer", &[r])?), content.clone())
        }
    });
    Ok(())
}

/// Applies every step in order. Nothing is prepended to a text that `continues` another.
pub(crate) fn run<'a>(steps: &[Step], text: &'a str, continues: bool) -> Cow<'a, str> {
    let steps = steps.iter().filter(|step| !(continues && matches!(step, Step::Prepend(_))));
    steps.fold(Cow::Borrowed(text), |text, step| {
        if text.is_empty() { text } else { Cow::Owned(step.apply(&text)) }
    })
}

impl Step {
    fn apply(&self, text: &str) -> String {
        match self {
            Self::Nfc => text.nfc().collect(),
            Self::Nfd => text.nfd().collect(),
            Self::Nfkc => text.nfkc().collect(),
            Self::Nfkd => text.nfkd().collect(),
            // Per character, as in the reference: no contextual rule for final sigma.
            Self::Lowercase => text.chars().flat_map(char::to_lowercase).collect(),
            Self::Prepend(prefix) => format!("{prefix}{text}"),
            Self::ReplaceText(from, to) if !from.is_empty() => text.replace(from.as_str(), to),
            Self::ReplaceText(..) => text.to_owned(),
            Self::ReplaceRegex(regex, to) => {
                let mut out = String::with_capacity(text.len());
                let mut at = 0;
                for found in regex.find_iter(text) {
                    out.push_str(&text[at..found.start()]);
                    out.push_str(to);
                    at = found.end();
                }
                out + &text[at..]
            }
            Self::StripAccents => text.chars().filter(|c| !is_combining_mark(*c)).collect(),
            Self::Charsmap(rules) => rules.apply(text),
            Self::Bert(bert) => bert.apply(text),
            Self::Strip { left, right } => {
                let text = if *left { text.trim_start() } else { text };
                (if *right { text.trim_end() } else { text }).to_owned()
            }
        }
    }
}
