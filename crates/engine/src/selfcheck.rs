//! What a model computed when it was packed, to be computed again where it is used.
//!
//! Three cases: ids that every vocabulary has, a text through the tokenizer, a conversation through
//! the chat template; each with the logits that follow. The contract is same bits everywhere, so a
//! difference means damage: of the file, of memory, or of this program.

use std::path::Path;

use nanoinfer_format::SectionKind;
use serde::{Deserialize, Serialize};

use crate::{BatchToken, Engine, EngineOptions, Error, Isa, Message, Model};

/// Raised whenever any bit of any logit may change: results of two versions of this program are
/// comparable where it is equal.
pub const NUMERICS: u32 = 1;

/// Positions that the replay has room for; part of the section, because the scaling of positions
/// may depend on it.
const CTX: usize = 1024;
/// Logits kept of each case, the largest ones.
const TOP: usize = 16;
/// Digits, punctuation, case, accents, other scripts: what tokenizers split in different ways.
const TEXT: &str = "The quick brown fox, 12345 times: naïve café, 日本語 — don't  stop!\n\tx += 1;";

/// The section of a `.nano` file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelfCheck {
    /// [`NUMERICS`] of the engine that computed it.
    pub numerics: u32,
    ctx: usize,
    cases: Vec<Case>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    kind: Kind,
    /// What the chat template made of the conversation.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    rendered: Option<String>,
    tokens: Vec<u32>,
    /// `[id, bits of the f32]` of the largest logits after the last token, descending.
    top: Vec<(u32, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Ids,
    Text,
    Chat,
}

/// How a replay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Everything was the same, bit for bit, in so many cases.
    Same(usize),
    /// The file has no self-check.
    Absent,
    /// It was computed by an engine whose numbers are not comparable.
    OtherNumerics(u32),
}

impl SelfCheck {
    /// Runs the model of a file.
    ///
    /// # Errors
    /// The model cannot be run.
    pub fn compute(path: &Path) -> Result<Self, Error> {
        let mut engine = engine(path, CTX, None)?;
        let cases = cases(&mut engine)?;
        Ok(Self { numerics: NUMERICS, ctx: CTX, cases })
    }

    /// As a section of the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain structs always serialise")
    }

    /// Runs the model of a file again, with the best instruction set or this one, and compares
    /// with what is in it.
    ///
    /// # Errors
    /// The model cannot be run, or something is not the same: the error says what.
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
            return Err(differs(format!("it has room for {} positions", kept.ctx)));
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

/// Whether two runs are the same; the first thing that is not, by name.
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
        return Err(format!("the {part} of case {kind:?} differ from those at packing"));
    }
    Ok(())
}

/// All cases in the same passes: a large model is read once.
fn cases(engine: &mut Engine) -> Result<Vec<Case>, Error> {
    let mut cases = inputs(engine.model())?;
    cases.retain(|case| (1..=engine.ctx()).contains(&case.tokens.len()));
    let mut steps = Vec::new();
    for case in &cases {
        let (seq, last) = (engine.open()?, case.tokens.len() - 1);
        let step = |(i, &token): (usize, &u32)| BatchToken { seq, token, logits: i == last };
        steps.extend(case.tokens.iter().enumerate().map(step));
    }
    let mut wanted = cases.iter_mut();
    for batch in steps.chunks(engine.max_batch()) {
        let pass = engine.forward(batch)?;
        for i in 0..batch.iter().filter(|s| s.logits).count() {
            let case = wanted.next().expect("one row of logits a case");
            case.top = top(engine.logits(pass, i)?);
        }
    }
    Ok(cases)
}

/// What is fed to the model; no logits yet.
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

/// Ids from all over the vocabulary.
fn ids(vocab: u32) -> Vec<u32> {
    (1..=24u64).map(|i| (i * 2_654_435_761 % u64::from(vocab)) as u32).collect()
}

/// A template may want what this conversation does not have, or tell the date; that is no fault of
/// the file, but nothing to compare either.
fn chat(model: &Model) -> Option<(String, Vec<u32>)> {
    let (_, source) = model.file().section(SectionKind::ChatTemplate)?;
    if source.windows(12).any(|w| w == b"strftime_now") {
        return None;
    }
    let messages = [Message::new("user", "What is 2 + 2?")];
    let rendered = model.template().ok()?.render(&messages, true).ok()?;
    Some((rendered, model.encode_chat(&messages).ok()?))
}

/// The largest logits; of equals, the lower id first.
fn top(logits: &[f32]) -> Vec<(u32, u32)> {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    order.iter().take(TOP).map(|&id| (id, logits[id as usize].to_bits())).collect()
}
