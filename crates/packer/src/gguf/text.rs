//! What a GGUF file says about text: tokenizer, and defaults for generation.

use nanoinfer_format::Generation;
use nanoinfer_text::{GgufVocab, StatedEnds};

use super::metadata::Metadata;
use crate::Error;
use crate::model::check_generation;
use crate::tokenizer::Tokenizer;

// GGUF token types (`tokenizer.ggml.token_type`).
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;

/// The parts of a model that concern text.
pub(super) struct Text {
    pub(super) tokenizer: Option<Tokenizer>,
    pub(super) generation: Generation,
    /// What the user should know, one line each.
    pub(super) notes: Vec<String>,
}

/// Reads all keys about text, except the chat template.
pub(super) fn read(g: &Metadata, vocab_size: u32) -> Result<Text, Error> {
    let mut notes = Vec::new();
    let mut generation = sampling(g, &mut notes)?;
    let mut keys = Keys { g, n_tokens: None, notes: &mut notes };
    let model = g.str("tokenizer.ggml.model")?.filter(|&model| model != "none");
    let tokenizer = match model {
        Some(model) => Some(keys.tokenizer(model, vocab_size, &mut generation)?),
        None => {
            generation.bos = keys.id("bos")?;
            let adds = g.bool("tokenizer.ggml.add_bos_token")?.unwrap_or_default();
            generation.add_bos = generation.bos.is_some() && adds;
            let eos = keys.id("eos")?;
            generation.eos = keys.ends(eos)?.ends;
            None
        }
    };
    check_generation(g.path(), &generation, vocab_size)?;
    Ok(Text { tokenizer, generation, notes })
}

/// The keys `tokenizer.ggml.*`.
struct Keys<'a> {
    g: &'a Metadata,
    /// The number of tokens, if they are listed.
    n_tokens: Option<usize>,
    notes: &'a mut Vec<String>,
}

impl Keys<'_> {
    /// The id in `{name}_token_id`. As in llama.cpp, an id that is not among the tokens is ignored.
    fn id(&mut self, name: &str) -> Result<Option<u32>, Error> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let id = self.g.u32(&key)?;
        match (id, self.n_tokens) {
            (Some(id), Some(n)) if id as usize >= n => {
                let what = format!("{key} is {id}, but there are {n} tokens; it is ignored");
                self.notes.push(what);
                Ok(None)
            }
            _ => Ok(id),
        }
    }

    /// The tokens that are stated to end a response.
    fn ends(&mut self, eos: Option<u32>) -> Result<StatedEnds, Error> {
        let mut ends: Vec<u32> = eos.into_iter().collect();
        for name in ["eot", "eom"] {
            ends.extend(self.id(name)?.filter(|id| !ends.contains(id)));
        }
        Ok(StatedEnds {
            ends,
            fim: [self.id("fim_pad")?, self.id("fim_rep")?, self.id("fim_sep")?],
        })
    }

    /// A list of bytes, with or without a sign.
    fn bytes(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let byte = |&v: &i64| match v {
            -128..=255 => Ok(v as u8),
            _ => Err(self.g.error(key, format!("contains {v}, expected a byte"))),
        };
        self.g.ints(key)?.map(|list| list.iter().map(byte).collect()).transpose()
    }

    /// Builds the tokenizer, and sets the special tokens of `generation`.
    fn tokenizer(
        &mut self,
        model: &str,
        vocab_size: u32,
        generation: &mut Generation,
    ) -> Result<Tokenizer, Error> {
        let g = self.g;
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let (pre, types) = (g.str(&key("pre"))?.unwrap_or_default(), types(g)?);
        let tokens = key("tokens");
        let tokens = g.strings(&tokens)?.ok_or_else(|| g.error(&tokens, "is missing"))?;
        self.n_tokens = Some(tokens.len());
        let usual = |known: Usual| {
            let (id, kind) = known?;
            let is_right = types.get(id as usize).is_none_or(|&k| k == kind);
            (is_right && (id as usize) < tokens.len()).then_some(id)
        };
        let [usual_bos, usual_eos, usual_unk] = usual_ids(model).map(usual);
        let has_row = |id: &u32| *id < vocab_size;
        let is_bert = model == "bert";
        let cls = if is_bert { self.id("cls")? } else { None };
        let bos = self.id("bos")?.or(cls).or(usual_bos).filter(has_row);
        let unk = self.id("unknown")?.or(usual_unk).filter(has_row);
        let eos = self.id("eos")?;
        // In BERT, a separator follows texts, and no token ends them.
        let (eos, after) = match is_bert {
            true => (eos, self.id("seperator")?.or(usual_eos)),
            false => (eos.or(usual_eos), eos.or(usual_eos)),
        };
        let ends = self.ends(eos)?;
        let adds = matches!(model, "llama" | "bert") || nanoinfer_text::pre_tokenizer_adds_bos(pre);
        let add_bos = bos.is_some() && g.bool(&key("add_bos_token"))?.unwrap_or(adds);
        let adds_after = key(if is_bert { "add_sep_token" } else { "add_eos_token" });
        let adds_after = g.bool(&adds_after)?.unwrap_or(matches!(model, "t5" | "bert"));
        let scores = g.floats(&key("scores"))?;
        let charsmap = self.bytes(&key("precompiled_charsmap"))?;
        let flag = |name: &str| g.bool(&key(name));
        let usual = GgufVocab::new(model, tokens);
        let vocab = GgufVocab {
            pre,
            scores: scores.as_deref(),
            types: &types,
            merges: g.strings(&key("merges"))?,
            add_space_prefix: flag("add_space_prefix")?.unwrap_or(usual.add_space_prefix),
            remove_extra_whitespaces: flag("remove_extra_whitespaces")?.unwrap_or_default(),
            charsmap: charsmap.as_deref(),
            lowercase: flag("normalizer.lowercase")?.unwrap_or(usual.lowercase),
            strip_accents: flag("normalizer.strip_accents")?,
            strips_space: strips_space(g)?,
            bos: bos.filter(|_| add_bos),
            eos: after.filter(|id| adds_after && has_row(id)),
            unk,
            ..usual
        };
        let error = |source| Error::Text { path: g.path().into(), source };
        let json = nanoinfer_text::tokenizer_json_from_gguf(&vocab).map_err(error)?;
        if matches!((model, pre), ("gpt2", "" | "default")) {
            let what = "tokenizer.ggml.pre does not name the model's pre-tokenizer, so token ids may differ \
                        from the original model's; prefer a newer conversion to GGUF";
            self.notes.push(what.to_owned());
        }
        generation.bos = bos;
        generation.add_bos = add_bos;
        generation.eos = vocab.end_tokens(&ends);
        generation.eos.retain(has_row);
        Tokenizer::new(g.path(), json, vocab_size, self.notes)
    }
}

/// An id that is not stated, and the type of its token.
type Usual = Option<(u32, i32)>;

/// llama.cpp's ids of the token before a text, the one after it, and the unknown one, if a file states none.
fn usual_ids(model: &str) -> [Usual; 3] {
    match model {
        "llama" => [Some((1, CONTROL)), Some((2, CONTROL)), Some((0, UNKNOWN))],
        "t5" => [None, Some((1, CONTROL)), Some((2, UNKNOWN))],
        "bert" => [Some((101, CONTROL)), Some((102, CONTROL)), Some((100, CONTROL))],
        _ => [None; 3],
    }
}

/// The types of all tokens.
fn types(g: &Metadata) -> Result<Vec<i32>, Error> {
    let key = "tokenizer.ggml.token_type";
    let narrow = |&v: &i64| {
        i32::try_from(v).map_err(|_| g.error(key, format!("contains {v}, expected a token type")))
    };
    g.ints(key)?.unwrap_or_default().iter().map(narrow).collect()
}

/// Whether the model is a Phi-3, whose control tokens strip the whitespace after them. Only its name
/// says so, which may be written as "Phi-3", "phi3" or "Phi 3.5 Mini".
fn strips_space(g: &Metadata) -> Result<bool, Error> {
    let name = g.str("general.name")?.unwrap_or_default().to_lowercase();
    Ok(name.replace([' ', '-', '_'], "").contains("phi3"))
}

/// Defaults for sampling (`general.sampling.*`): those of the original model's
/// `generation_config.json`, or its publisher's.
fn sampling(g: &Metadata, notes: &mut Vec<String>) -> Result<Generation, Error> {
    let key = |name: &str| format!("general.sampling.{name}");
    let number = |name: &str| g.number(&key(name));
    // Stored as f32; the shortest decimal is the one that was meant.
    let decimal = |v: f64| (v as f32).to_string().parse().unwrap_or(v);
    let mut defaults = Generation {
        temperature: number("temp")?.map(|t| decimal(t.max(0.0))),
        top_k: number("top_k")?.filter(|&k| k >= 1.0).map(|k| k as u32), // 0 or less: all tokens
        top_p: number("top_p")?.map(|p| decimal(p.clamp(0.0, 1.0))),
        min_p: number("min_p")?.map(|p| decimal(p.clamp(0.0, 1.0))),
        repetition_penalty: number("penalty_repeat")?.map(decimal),
        ..Generation::default()
    };
    let d = &mut defaults;
    if d.temperature.is_none() && (d.top_k.is_some() || d.top_p.is_some() || d.min_p.is_some()) {
        d.temperature = Some(1.0); // as in transformers
    }
    let penalizes = d.repetition_penalty.is_some_and(|p| p != 1.0);
    let mut ignored = Vec::new();
    for name in ["sequence", "penalty_last_n", "xtc_probability", "mirostat"] {
        let is_set = match name {
            "sequence" => g.str(&key(name))?.is_some(),
            "penalty_last_n" => penalizes && number(name)?.is_some_and(|n| n >= 0.0),
            _ => number(name)?.is_some_and(|v| v != 0.0),
        };
        ignored.extend(is_set.then(|| key(name)));
    }
    if !ignored.is_empty() {
        notes.push(format!("sampling defaults not supported here: {}", ignored.join(", ")));
    }
    Ok(defaults)
}
