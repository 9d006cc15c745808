//! Models that do not generate text: what they are for, by the names in their `config.json`.

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
