//! Pre-tokenizers by their GGUF names (`tokenizer.ggml.pre`).
//!
//! A GGUF file contains the vocabulary and merges, but only the name of the rules that split text. The
//! patterns below come from each model's `tokenizer.json`.

use crate::json::{Behavior, Normalizer, Pattern, PreTokenizer};

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
// Six letters that look like other characters are written as escapes.
const DEEPSEEK_LETTERS: &str = "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\\x{1F7D}ᾀ-ᾴᾶ-ᾼ\\x{1FBE}ῂ-ῄῆ-ῌῐ-\\x{1FD3}ῖ-\\x{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\\x{2126}ℨ\\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_PUNCTUATION: &str = r"\s?[!-/:-~！-／：-～‘-‟　-。]+";
const CJK: &str = "[一-龥ࠀ-一가-퟿]+";

/// The rules behind one or more names.
struct Named {
    /// llama.cpp's names for the same rules; the first one stands for them in messages and tests.
    names: &'static [&'static str],
    rules: fn() -> Vec<PreTokenizer>,
    /// Text is composed (NFC) first.
    composes: bool,
    /// A piece that is a token as a whole is not merged from smaller ones.
    ignore_merges: bool,
}

impl Named {
    const fn new(names: &'static [&'static str], rules: fn() -> Vec<PreTokenizer>) -> Self {
        Self { names, rules, composes: false, ignore_merges: false }
    }
}

/// All supported pre-tokenizers: to add one, add a line.
const ALL: &[Named] = &[
    Named::new(&["default", "", "gpt-2", "gpt2", "olmo", "phi-2", "mpt", "exaone4"], || {
        vec![byte_level(true)]
    }),
    Named::new(&["smollm", "starcoder", "refact", "command-r", "codeshell"], || {
        vec![digits(), byte_level(true)]
    }),
    Named {
        ignore_merges: true,
        ..Named::new(&["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"], llama3)
    },
    Named::new(&["smaug-bpe", "dbrx"], llama3),
    Named { composes: true, ..Named::new(&["qwen2", "deepseek-r1-qwen"], qwen2) },
    Named::new(&["stablelm2"], qwen2),
    Named { composes: true, ..Named::new(&["qwen35"], || vec![split(QWEN35), byte_level(false)]) },
    Named::new(&["gpt-4o", "llama4"], || vec![split(GPT4O), byte_level(false)]),
    Named {
        ignore_merges: true,
        ..Named::new(&["tekken"], || vec![split(TEKKEN), byte_level(false)])
    },
    Named::new(&["seed-coder"], || vec![split(SEED_CODER), byte_level(false)]),
    Named::new(&["deepseek-llm"], || {
        vec![
            split(r"[\r\n]"),
            split(DEEPSEEK_LETTERS),
            split(DEEPSEEK_PUNCTUATION),
            split(r"\s+$"),
            split(CJK),
            split(r"\p{N}+"),
            byte_level(false),
        ]
    }),
    Named::new(&["deepseek-coder"], || {
        vec![
            split(r"[\r\n]"),
            split(r"\s?\p{L}+"),
            split(r"\s?\p{P}+"),
            split(CJK),
            digits(),
            byte_level(false),
        ]
    }),
    Named::new(&["deepseek-v3"], || {
        vec![split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK3), byte_level(false)]
    }),
];

fn llama3() -> Vec<PreTokenizer> {
    vec![split(LLAMA3), byte_level(false)]
}

fn qwen2() -> Vec<PreTokenizer> {
    vec![split(QWEN2), byte_level(false)]
}

/// The supported values of `tokenizer.ggml.pre`, each with its synonyms.
pub fn pre_tokenizer_names() -> impl Iterator<Item = &'static [&'static str]> {
    ALL.iter().map(|named| named.names)
}

/// Supported names, for the error message about unknown ones.
pub(crate) fn known() -> String {
    let names = ALL.iter().flat_map(|named| named.names).filter(|name| !name.is_empty());
    names.copied().collect::<Vec<_>>().join(", ")
}

/// The rules that a pre-tokenizer's name implies.
pub(crate) struct Rules {
    pub(crate) pre_tokenizer: PreTokenizer,
    pub(crate) normalizer: Option<Normalizer>,
    pub(crate) ignore_merges: bool,
}

/// The rules for a name, or `None` if it is unknown.
pub(crate) fn rules(name: &str) -> Option<Rules> {
    let named = ALL.iter().find(|named| named.names.contains(&name))?;
    Some(Rules {
        pre_tokenizer: PreTokenizer::Sequence { pretokenizers: (named.rules)() },
        normalizer: named.composes.then_some(Normalizer::Nfc),
        ignore_merges: named.ignore_merges,
    })
}

fn split(pattern: &str) -> PreTokenizer {
    let pattern = Pattern::Regex(pattern.to_owned());
    PreTokenizer::Split { pattern, behavior: Behavior::Isolated, invert: false }
}

fn digits() -> PreTokenizer {
    PreTokenizer::Digits { individual_digits: true }
}

fn byte_level(use_regex: bool) -> PreTokenizer {
    PreTokenizer::ByteLevel { add_prefix_space: false, trim_offsets: true, use_regex }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_exact_and_unique() {
        let names: Vec<_> = pre_tokenizer_names().flatten().collect();
        assert!(names.iter().all(|name| names.iter().filter(|other| *other == name).count() == 1));
        assert!(rules("").is_some() && rules("gpt-2 ").is_none());
    }
}
