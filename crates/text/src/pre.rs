//! Pre-tokenizers by their GGUF names (`tokenizer.ggml.pre`).
//!
//! A GGUF file contains the vocabulary and merges, but only the name of the rules that split text. The
//! patterns below come from each model's `tokenizer.json`.

use crate::json::{Behavior, Normalizer, Pattern, PreTokenizer};
use crate::split::GPT2;

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
const KANA: &str = "[一-龥぀-ゟ゠-ヿ]+";

const YOUTU_SCRIPTS: &str = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+";
const YOUTU: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const KIMI: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const MINICPM5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";
const UFAKZEKA: &str =
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SPARK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##;
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

/// The rules behind one or more names.
struct Named {
    /// llama.cpp's names for the same rules; the first one stands for them in messages and tests.
    names: &'static [&'static str],
    rules: fn() -> Vec<PreTokenizer>,
    /// Text is composed (NFC) first.
    composes: bool,
    /// A piece that is a token as a whole is not merged from smaller ones.
    ignore_merges: bool,
    /// Raw prompts begin with a BOS token unless the file says otherwise.
    adds_bos: bool,
}

impl Named {
    const fn new(names: &'static [&'static str], rules: fn() -> Vec<PreTokenizer>) -> Self {
        Self { names, rules, composes: false, ignore_merges: false, adds_bos: false }
    }
}

/// All supported pre-tokenizers: to add one, add a line.
///
/// Missing: those that count digits or spaces from the right, which `split.rs` cannot express (`superbpe`,
/// `afmoe`, `tiny_aya`, `cohere2moe`, `jais-2`), and those whose tokens are not byte-level (`gemma4`,
/// `granite-embed-multi-311m`, `sarvam-moe`, `whitespace`).
const ALL: &[Named] = &[
    Named::new(
        &[
            "gpt-2",
            "gpt2",
            "olmo",
            "phi-2",
            "mpt",
            "exaone4",
            "jais",
            "trillion",
            "granite-docling",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "roberta-bpe",
            "jina-es",
            "jina-de",
            "jina-v1-en",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v2-code",
        ],
        || vec![byte_level(true)],
    ),
    // What llama.cpp assumes if a file does not say: Falcon's rules, or nearly.
    Named::new(&["default", ""], || {
        vec![
            split(r"[\p{P}$+<=>^~|]+"),
            split(GPT2),
            split(r"\p{N}+"),
            split("[0-9][0-9][0-9]"),
            byte_level(false),
        ]
    }),
    Named::new(&["falcon"], || {
        vec![
            PreTokenizer::Punctuation { behavior: Behavior::Contiguous },
            byte_level(true),
            PreTokenizer::Digits { individual_digits: false },
            split("[0-9][0-9][0-9]"),
        ]
    }),
    Named::new(
        &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        || vec![digits(), byte_level(true)],
    ),
    Named {
        ignore_merges: true,
        adds_bos: true,
        ..Named::new(
            &[
                "llama-bpe",
                "llama3",
                "llama-v3",
                "falcon3",
                "falcon-h1",
                "pixtral",
                "midm-2.0",
                "lfm2",
                "jina-v5-nano",
            ],
            llama3,
        )
    },
    Named::new(&["smaug-bpe", "dbrx", "glm4", "chatglm-bpe"], llama3),
    Named {
        ignore_merges: true,
        ..Named::new(&["minicpm5"], || {
            vec![split(r"\p{N}{1,3}"), split(MINICPM5), byte_level(false)]
        })
    },
    Named { composes: true, ..Named::new(&["qwen2", "deepseek-r1-qwen", "f2llmv2"], qwen2) },
    Named::new(&["stablelm2", "megrez", "kormo", "hunyuan", "grok-2", "solar-open"], qwen2),
    Named::new(&["laguna"], || vec![split(r"[^\n]+|[\n]+"), split(QWEN2), byte_level(false)]),
    Named { composes: true, ..Named::new(&["qwen35"], || vec![split(QWEN35), byte_level(false)]) },
    Named::new(&["ufakzeka"], || vec![split(UFAKZEKA), byte_level(false)]),
    Named::new(&["bailingmoe", "bailingmoe2", "llada-moe"], || {
        vec![split(BAILING), byte_level(false)]
    }),
    Named::new(&["exaone-moe"], || vec![split(EXAONE_MOE), byte_level(false)]),
    Named::new(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], gpt4o),
    Named { ignore_merges: true, ..Named::new(&["granite-embed-multi-97m"], gpt4o) },
    Named {
        ignore_merges: true,
        ..Named::new(&["youtu"], || vec![split(YOUTU_SCRIPTS), split(YOUTU), byte_level(false)])
    },
    Named::new(&["kimi-k2"], || vec![split(KIMI), byte_level(false)]),
    Named {
        ignore_merges: true,
        adds_bos: true,
        ..Named::new(&["tekken"], || vec![split(TEKKEN), byte_level(false)])
    },
    Named {
        adds_bos: true,
        ..Named::new(&["chameleon"], || {
            vec![
                split("<sentinel:[0-9]+>"),
                split("IMGIMG[A-I]{1,4}Z"),
                split(r"[\t\n]|    |  "),
                digits(),
                PreTokenizer::Punctuation { behavior: Behavior::Isolated },
                byte_level(true),
            ]
        })
    },
    Named::new(&["seed-coder"], || vec![split(SEED_CODER), byte_level(false)]),
    Named::new(&["poro-chat", "bloom", "gpt3-finnish"], || vec![split(BLOOM), byte_level(false)]),
    Named::new(&["viking"], || vec![split(BLOOM), digits(), byte_level(false)]),
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
    Named::new(&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], || {
        vec![split(r"\p{N}{1,3}"), split(KANA), split(DEEPSEEK3), byte_level(false)]
    }),
    Named::new(&["spark2_5"], || {
        let one = split(r"\p{N}");
        vec![split(r"\p{N}{1,3}"), split(KANA), split(SPARK), one, byte_level(false)]
    }),
];

fn gpt4o() -> Vec<PreTokenizer> {
    vec![split(GPT4O), byte_level(false)]
}

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

/// Whether files with this pre-tokenizer begin raw prompts with a BOS token if the key `add_bos_token`
/// is absent.
pub fn pre_tokenizer_adds_bos(name: &str) -> bool {
    find(name).is_some_and(|named| named.adds_bos)
}

fn find(name: &str) -> Option<&'static Named> {
    ALL.iter().find(|named| named.names.contains(&name))
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
    let named = find(name)?;
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
