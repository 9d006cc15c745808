//! The models of encoders in GGUF files: Unigram (`t5`) and WordPiece (`bert`).

use base64::Engine;

use crate::Error;
use crate::control::CONTROL;
use crate::gguf_vocab::{
    GgufVocab, UNKNOWN, UNUSED, USER_DEFINED, added, around, check_scores, sentence_piece_decoder,
    vocabulary,
};
use crate::json::{
    Decoder, Head, ModelHead, Normalizer, Pattern, PreTokenizer, PrependScheme, Scored,
    ScoredModel, VocabModel,
};

/// What llama.cpp's converter puts before a word, where tokens within one begin with `##` elsewhere.
const BLANK: char = '▁';

/// A Unigram model with SentencePiece's normalization. Words are apart where extra blanks are removed, as in the
/// `tokenizer.json` of T5 and XLM-R.
pub(crate) fn unigram<S: AsRef<str>>(
    gguf: &GgufVocab<'_, S>,
) -> Result<(Head, ScoredModel), Error> {
    let missing = |key| Error::gguf(key, "is missing");
    let scores = gguf.scores.ok_or_else(|| missing("tokenizer.ggml.scores"))?;
    check_scores(gguf, scores)?;
    let unk = gguf.unk.ok_or_else(|| missing("tokenizer.ggml.unknown_token_id"))?;
    let score = |(id, text): (usize, &str)| {
        let (kind, score) = (gguf.kind(id), f64::from(scores[id]));
        if !score.is_finite() {
            let what = format!("token {id} has the score {score}");
            return Err(Error::gguf("tokenizer.ggml.scores", what));
        }
        Ok(match kind {
            // Ids of no token: nothing becomes one, and their scores are none.
            UNUSED if text == format!("[PAD{id}]") => (String::new(), 0.0),
            USER_DEFINED => (text.to_owned(), 0.0),
            _ => (text.to_owned(), score),
        })
    };
    let vocab = Scored(gguf.texts().map(score).collect::<Result<_, _>>()?);
    let rules = gguf.charsmap.filter(|rules| !rules.is_empty());
    let rules = rules.map(|rules| Normalizer::Precompiled {
        precompiled_charsmap: base64::engine::general_purpose::STANDARD.encode(rules),
    });
    let mut normalizers: Vec<Normalizer> = rules.into_iter().collect();
    let (prefix, collapse) = (gguf.add_space_prefix, gguf.remove_extra_whitespaces);
    if collapse && !prefix {
        normalizers.push(Normalizer::Strip { strip_left: true, strip_right: true });
        let pattern = Pattern::Regex(" {2,}".to_owned());
        normalizers.push(Normalizer::Replace { pattern, content: " ".to_owned() });
    }
    let blanks = PreTokenizer::Metaspace {
        replacement: BLANK,
        prepend_scheme: Some(if prefix { PrependScheme::Always } else { PrependScheme::Never }),
        add_prefix_space: None,
        split: collapse,
    };
    let words = (collapse && prefix).then_some(PreTokenizer::WhitespaceSplit);
    let head = Head {
        added_tokens: added(gguf, true),
        normalizer: (!normalizers.is_empty()).then_some(Normalizer::Sequence { normalizers }),
        pre_tokenizer: Some(PreTokenizer::Sequence {
            pretokenizers: words.into_iter().chain([blanks]).collect(),
        }),
        post_processor: around(gguf)?,
        decoder: Some(sentence_piece_decoder(prefix)),
        model: ModelHead {
            kind: Some("Unigram".to_owned()),
            unk_id: Some(unk),
            byte_fallback: gguf.has_bytes(),
            ..ModelHead::default()
        },
    };
    Ok((head, ScoredModel { vocab }))
}

/// A WordPiece model with BERT's normalization.
pub(crate) fn word_piece<S: AsRef<str>>(
    gguf: &GgufVocab<'_, S>,
) -> Result<(Head, VocabModel), Error> {
    let tokens: Vec<String> =
        gguf.texts().map(|(id, text)| original(text, gguf.kind(id))).collect();
    let gguf = gguf.with_tokens(&tokens);
    let key = "tokenizer.ggml.unknown_token_id";
    let unk = gguf.unk.ok_or_else(|| Error::gguf(key, "is missing"))?;
    let head = Head {
        added_tokens: added(&gguf, true),
        normalizer: Some(Normalizer::Bert {
            clean_text: true,
            handle_chinese_chars: true,
            strip_accents: gguf.strip_accents,
            lowercase: gguf.lowercase,
        }),
        pre_tokenizer: Some(PreTokenizer::Bert),
        post_processor: around(&gguf)?,
        decoder: Some(Decoder::WordPiece { prefix: "##".to_owned(), cleanup: true }),
        model: ModelHead {
            kind: Some("WordPiece".to_owned()),
            unk_token: Some(gguf.text(key, unk)?.to_owned()),
            continuing_subword_prefix: Some("##".to_owned()),
            max_input_chars_per_word: Some(100),
            ..ModelHead::default()
        },
    };
    Ok((head, VocabModel { vocab: vocabulary(&gguf) }))
}

/// A token as in `vocab.txt`. Special tokens have that form in files too, and older converters know them by their
/// brackets.
fn original(text: &str, kind: i32) -> String {
    let is_special = matches!(kind, CONTROL | UNKNOWN);
    match text.strip_prefix(BLANK) {
        _ if is_special || text.starts_with('[') && text.ends_with(']') => text.to_owned(),
        Some(word) => word.to_owned(),
        None => format!("##{text}"),
    }
}
