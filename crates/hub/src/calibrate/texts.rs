//! Text for calibration, written by the model itself.

use std::sync::Arc;

use nanoinfer_engine::{
    Batch, BatchOptions, Engine, EngineOptions, Error, Event, GenerateOptions, Model, Request,
    Sampling,
};

/// Tokens per text.
pub const TEXT_TOKENS: usize = 512;
/// Texts written at the same time, which bounds the cache of keys and values.
const AT_ONCE: usize = 16;

/// Text to calibrate with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// Written by the model itself.
    Own(OwnText),
    /// Given by the user.
    Given(String),
}

/// Text that the model itself writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnText {
    /// Number of texts, of [`TEXT_TOKENS`] tokens.
    pub texts: usize,
    /// Other seeds, other texts.
    pub seed: u64,
}

impl Default for OwnText {
    fn default() -> Self {
        Self { texts: 64, seed: 0 }
    }
}

/// Has the model write texts of [`TEXT_TOKENS`] tokens (fewer if its context is shorter). Text `i` begins
/// with a word drawn from the vocabulary, and each token is drawn with the probability that the model
/// gives it, with random numbers that depend on `seed` and `i` only. `progress` is called with the number
/// of tokens written and about to be written.
///
/// # Errors
/// The model cannot be run.
pub fn generate(
    model: &Arc<Model>,
    threads: Option<usize>,
    OwnText { texts: n, seed }: OwnText,
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<Vec<u32>>, Error> {
    let ctx = context(model, TEXT_TOKENS);
    let sequences = AT_ONCE.min(n.max(1));
    let options = EngineOptions { threads, ctx: Some(ctx), sequences, ..EngineOptions::default() };
    let queue = BatchOptions { queue: n, queue_per_key: n, ..BatchOptions::default() };
    let mut batch = Batch::new(Engine::new(model.clone(), &options)?, queue);
    // What the tokenizer puts before any text.
    let start = model.encode("").unwrap_or_default();
    let words = words(model);
    let mut texts = Vec::with_capacity(n);
    for i in 0..n {
        let seed = mix(seed.wrapping_add(i as u64));
        let mut prompt = start.clone();
        prompt.push(words[(seed % words.len() as u64) as usize]);
        let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
        let max_tokens = Some(ctx.saturating_sub(prompt.len()));
        let options =
            GenerateOptions { max_tokens, sampling, ignore_eos: true, ..Default::default() };
        let id = batch.submit(Request { prompt: prompt.clone(), options, ..Request::default() })?;
        texts.push((id, prompt));
    }
    let mut written = 0;
    while !batch.is_idle() {
        for event in batch.step()? {
            match event.event {
                Ok(Event::Token { id: token, .. }) => {
                    let text = texts.iter_mut().find(|(id, _)| *id == event.id);
                    text.into_iter().for_each(|(_, text)| text.push(token));
                    written += 1;
                }
                Ok(_) => {}
                Err(_) => return Err(Error::NotFinite { path: model.file().path().to_owned() }),
            }
        }
        progress(written, n * ctx);
    }
    Ok(texts.into_iter().map(|(_, text)| text).collect())
}

/// Divides a text into texts of [`TEXT_TOKENS`] tokens (fewer if the model's context is shorter), each of
/// which begins like a prompt.
///
/// # Errors
/// The model has no tokenizer.
pub fn divide(model: &Model, text: &str) -> Result<Vec<Vec<u32>>, Error> {
    let start = model.encode("")?;
    let ids = model.encode(text)?;
    let room = context(model, TEXT_TOKENS).saturating_sub(start.len()).max(1);
    let texts = ids[start.len()..].chunks(room);
    Ok(texts.map(|text| [&start, text].concat()).collect())
}

/// `n` positions, or those the model was trained for if these are fewer.
pub(super) fn context(model: &Model, n: usize) -> usize {
    match model.config().context_length as usize {
        0 => n,
        trained => n.min(trained),
    }
}

/// Ids of words and their beginnings, or of all tokens if there are none.
fn words(model: &Model) -> Vec<u32> {
    let ids = 0..model.config().vocab_size;
    let vocab = model.vocab();
    let is_word = |id: &u32| {
        let Some(vocab) = vocab.filter(|v| !v.is_special(*id) && !v.is_byte(*id)) else {
            return false;
        };
        let bytes = vocab.bytes(*id);
        let text = std::str::from_utf8(bytes.strip_prefix(b" ").unwrap_or(bytes)).unwrap_or("");
        !text.is_empty() && text.chars().all(char::is_alphabetic)
    };
    let words: Vec<u32> = ids.clone().filter(is_word).collect();
    if words.is_empty() { ids.collect() } else { words }
}

/// Scrambles bits, so that neighboring seeds have nothing in common (the finalizer of SplitMix64).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
