//! Models that do not generate text: what they are for, by the names in their settings.

use crate::Error;
use crate::gguf::Metadata;
use crate::hf::Settings;

/// Endings of transformers' class names.
const CLASSES: [(&str, &str); 14] = [
    ("ForSequenceClassification", "a classifier"),
    ("ForTokenClassification", "a classifier of tokens"),
    ("ForQuestionAnswering", "a model that finds answers in a text"),
    ("ForMultipleChoice", "a classifier"),
    ("ForMaskedLM", "an encoder, which fills in masked words"),
    ("ForPreTraining", "an encoder"),
    ("ForImageClassification", "a classifier of images"),
    ("ForObjectDetection", "a detector of objects in images"),
    ("ForSpeechSeq2Seq", "a model for speech"),
    ("ForCTC", "a model for speech"),
    ("ForAudioClassification", "a classifier of sounds"),
    ("RewardModel", "a model that scores answers"),
    ("LMHeadModel", ""),
    ("Model", "a model without an output layer, which computes embeddings"),
];

/// What the class in `architectures` is for, with its name, if it is not text generation.
pub(crate) fn of_class(c: &Settings) -> Option<String> {
    let class = *c.strings("architectures").ok()??.first()?;
    let (_, purpose) = CLASSES.iter().find(|(end, _)| class.ends_with(end))?;
    (!purpose.is_empty()).then(|| format!("{class}, {purpose},"))
}

/// What a model of an unsupported `model_type` is for, if it is not just text generation.
pub(crate) fn of_model(c: &Settings) -> Option<String> {
    if c.bool("is_encoder_decoder").ok().flatten() == Some(true) {
        return Some("an encoder-decoder model".into());
    }
    if c.has("vision_config") {
        return Some("a model for images and text".into());
    }
    if c.has("audio_config") {
        return Some("a model for sound and text".into());
    }
    of_class(c).map(|what| what.trim_end_matches(',').to_owned())
}

/// `general.type` of GGUF files that are not models by themselves.
const GGUF_TYPES: [(&str, &str, &str); 4] = [
    (
        "adapter",
        "a LoRA adapter",
        "merge the adapter's original, in peft's format, while converting",
    ),
    ("mmproj", "the image encoder of a model", "use the model's main file"),
    ("imatrix", "statistics for quantizing a model", "use the model"),
    ("controlvector", "a control vector", "use a model"),
];

/// Beginnings of `general.architecture` in GGUF files of models that generate no text.
const GGUF_ARCHITECTURES: [(&str, &str); 14] = [
    ("bert", "an encoder, which computes embeddings"),
    ("nomic-bert", "an encoder, which computes embeddings"),
    ("jina-bert", "an encoder, which computes embeddings"),
    ("neo-bert", "an encoder, which computes embeddings"),
    ("modern-bert", "an encoder, which computes embeddings"),
    ("gemma-embedding", "an encoder, which computes embeddings"),
    ("t5", "an encoder-decoder model"),
    ("clip", "an image encoder"),
    ("whisper", "a model for speech"),
    ("wavtokenizer", "a model for speech"),
    ("flux", "a model that generates images"),
    ("sd1", "a model that generates images"),
    ("sd3", "a model that generates images"),
    ("sdxl", "a model that generates images"),
];

/// Rejects a GGUF file that does not hold a model for text generation.
pub(crate) fn check_gguf(metadata: &Metadata) -> Result<(), Error> {
    let unsupported = |what: String, next: &str| {
        Err(Error::Unsupported { path: metadata.path().into(), what, next: next.into() })
    };
    let kind = metadata.str("general.type")?;
    if let Some((_, what, next)) = GGUF_TYPES.iter().find(|t| kind == Some(t.0)) {
        return unsupported((*what).to_owned(), next);
    }
    let name = metadata.str("general.architecture")?.unwrap_or_default();
    match GGUF_ARCHITECTURES.iter().find(|(begin, _)| name.starts_with(begin)) {
        None => Ok(()),
        Some((_, purpose)) => {
            let what = format!("architecture {name:?} ({purpose})");
            unsupported(what, "use a model for text generation")
        }
    }
}
