//! Results recorded when a model is packed, and recomputed where it is used.
//!
//! There are three cases: ids present in every vocabulary, a string passed through the tokenizer, and a
//! conversation passed through the chat template. Each includes the resulting logits, which are
//! bit-identical everywhere, so a difference means a damaged file, faulty memory or a bug.

use std::path::Path;

use nanoinfer_format::SectionKind;
use serde::{Deserialize, Serialize};

use crate::{BatchToken, Engine, EngineOptions, Error, Isa, Message, Model};

/// Incremented whenever any bit of any logit may change: versions of this program with the same value
/// produce the same results.
pub const NUMERICS: u32 = 1;

/// Context size of the run; recorded in the section because RoPE scaling may depend on it.
const CTX: usize = 1024;
/// Number of largest logits recorded per case.
const TOP: usize = 16;
/// Covers what tokenizers split differently: digits, punctuation, case, accents, other scripts.
const TEXT: &str = "The quick brown fox, 12345 times: naïve café, 日本語 — don't  stop!\n\tx += 1;";

/// The self-check section of a `.nano` file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelfCheck {
    /// [`NUMERICS`] of the recording engine.
    pub numerics: u32,
    ctx: usize,
    cases: Vec<Case>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    kind: Kind,
    /// The conversation rendered by the chat template.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    rendered: Option<String>,
    tokens: Vec<u32>,
    /// `[id, bits of the f32]` of the largest logits after the last token, in descending order.
    top: Vec<(u32, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Ids,
    Text,
    Chat,
}

/// The outcome of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// All cases were bit-identical; the value is their number.
    Same(usize),
    /// The file has no self-check.
    Absent,
    /// The self-check was recorded with a different [`NUMERICS`], so the results cannot be compared.
    OtherNumerics(u32),
}

impl SelfCheck {
    /// Runs a model file and records the results.
    ///
    /// # Errors
    /// The model cannot be run.
    pub fn compute(path: &Path) -> Result<Self, Error> {
        let mut engine = engine(path, CTX, None)?;
        let cases = cases(&mut engine)?;
        Ok(Self { numerics: NUMERICS, ctx: CTX, cases })
    }

    /// Serializes the section.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain structs always serialize")
    }

    /// Runs a model file again, with the given instruction set or else the best one, and compares the
    /// results with the recorded ones.
    ///
    /// # Errors
    /// The model cannot be run, or the results differ: [`Error::SelfCheck`] names the first difference.
    pub fn replay(path: &Path, isa: Option<Isa>) -> Result<Replay, Error> {
        let model = Model::open(path)?;
        let differs = |what: String| Error::SelfCheck { path: path.into(), what };
        let Some((_, bytes)) = model.file().section(SectionKind::SelfCheck) else {
            return Ok(Replay::Absent);
        };
        let kept: Self = serde_json::from_slice(bytes).map_err(|e| differs(e.to_string()))?;
        if kept.numerics != NUMERICS {
            return Ok(Replay::OtherNumerics(kept.numerics));
        }
        if !(1..=1 << 16).contains(&kept.ctx) {
            return Err(differs(format!("its context of {} positions is invalid", kept.ctx)));
        }
        drop(model);
        let now = cases(&mut engine(path, kept.ctx, isa)?)?;
        compare(&kept.cases, &now).map_err(differs)?;
        Ok(Replay::Same(now.len()))
    }
}

fn engine(path: &Path, ctx: usize, isa: Option<Isa>) -> Result<Engine, Error> {
    let options = EngineOptions { ctx: Some(ctx), sequences: 3, isa, ..EngineOptions::default() };
    Engine::new(Model::open(path)?, &options)
}

/// Compares two runs; the error names the first difference.
fn compare(kept: &[Case], now: &[Case]) -> Result<(), String> {
    if kept.len() != now.len() {
        return Err(format!("{} cases, expected {}", now.len(), kept.len()));
    }
    for (kept, now) in kept.iter().zip(now) {
        let kind = format!("{:?}", kept.kind).to_lowercase();
        let part = if kept.kind != now.kind {
            "kind"
        } else if kept.rendered != now.rendered {
            "rendered chat template"
        } else if kept.tokens != now.tokens {
            "token ids"
        } else if kept.top != now.top {
            "logits"
        } else {
            continue;
        };
        return Err(format!("case {kind:?} differs from the recorded one in its {part}"));
    }
    Ok(())
}

/// Runs all cases in the same passes, so that a large model is read only once.
fn cases(engine: &mut Engine) -> Result<Vec<Case>, Error> {
    let mut cases = inputs(engine.model())?;
    cases.retain(|case| (1..=engine.ctx()).contains(&case.tokens.len()));
    let mut tokens = Vec::new();
    for case in &cases {
        let (seq, last) = (engine.open()?, case.tokens.len() - 1);
        let item = |(i, &token): (usize, &u32)| BatchToken { seq, token, logits: i == last };
        tokens.extend(case.tokens.iter().enumerate().map(item));
    }
    let mut cases_left = cases.iter_mut();
    for batch in tokens.chunks(engine.max_batch()) {
        let pass = engine.forward(batch)?;
        for i in 0..batch.iter().filter(|t| t.logits).count() {
            let case = cases_left.next().expect("one row of logits per case");
            case.top = top(engine.logits(pass, i)?);
        }
    }
    Ok(cases)
}

/// The inputs of the cases, without logits.
fn inputs(model: &Model) -> Result<Vec<Case>, Error> {
    let case = |kind, rendered, tokens| Case { kind, rendered, tokens, top: Vec::new() };
    let mut cases = vec![case(Kind::Ids, None, ids(model.config().vocab_size))];
    if model.tokenizer().is_ok() {
        cases.push(case(Kind::Text, None, model.encode(TEXT)?));
    }
    if let Some((rendered, tokens)) = chat(model) {
        cases.push(case(Kind::Chat, Some(rendered), tokens));
    }
    Ok(cases)
}

/// Ids spread over the vocabulary.
fn ids(vocab: u32) -> Vec<u32> {
    (1..=24u64).map(|i| (i * 2_654_435_761 % u64::from(vocab)) as u32).collect()
}

/// `None` if the template rejects this conversation or prints the date: the file may be intact, but the
/// case cannot be compared.
fn chat(model: &Model) -> Option<(String, Vec<u32>)> {
    let (_, source) = model.file().section(SectionKind::ChatTemplate)?;
    if source.windows(12).any(|w| w == b"strftime_now") {
        return None;
    }
    let messages = [Message::new("user", "What is 2 + 2?")];
    let rendered = model.template().ok()?.render(&messages, true).ok()?;
    Some((rendered, model.encode_chat(&messages).ok()?))
}

/// The largest logits, with ties ordered by id.
fn top(logits: &[f32]) -> Vec<(u32, u32)> {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    order.iter().take(TOP).map(|&id| (id, logits[id as usize].to_bits())).collect()
}
